"""URLs and untrusted names: their meaning, what is refused, and secrets that are never shown."""

from __future__ import annotations

import json
import os
import string
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist import storage
from ivr_dist.corpora.card import load_card
from ivr_dist.display.console import render
from ivr_dist.errors import ConfigError, DataError, IvrError, StorageError, UserError
from ivr_dist.orchestration.submit import _refuse_secrets
from ivr_dist.packing.index_tars import index_tars
from ivr_dist.run.events import Note
from ivr_dist.sanitize import hide_secrets
from ivr_dist.shards.shard_table import IndexEntry, ShardColumns, ShardEntry
from tests.http_servers import serve

# URLs


@pytest.mark.parametrize(
    "place,instead",
    [
        ("s3:/bucket/run", "s3://bucket/run"),
        ("s3:bucket", "s3://bucket"),
        ("s3:///bucket/run", "s3://bucket/run"),
        ("s3://", "s3://BUCKET"),
        ("gs:/bucket", "gs://bucket"),
        ("hdfs:/x", "hdfs://x"),
        ("http:/host/x", "http://host/x"),
        ("https:///host/x", "https://host/x"),
        ("nosuch:/x", "nosuch://x"),
        ("s3:\\\\bucket\\x", "s3://bucket/x"),
        ("file:x", "file:///x"),
        ("file://data/x", "file:///data/x"),
        ("C:\\x", "/x"),
        ("c:/x", "/x"),
        ("\\\\host\\share", "//host/share"),
        (" s3://bucket", "s3://bucket"),
        ("runs/x ", "runs/x"),
        ("~nobody-here/x", "./~nobody-here/x"),
    ],
)
def test_places_that_would_mean_something_else_are_refused(
    place: str, instead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(storage.InvalidUrlError) as caught:
        storage.absolute(place)
    assert f"did you mean {instead}" in str(caught.value)
    assert caught.value.exit_code == 2
    # Also without a call of `absolute` before.
    if place == place.strip() and place != "s3://":
        for work in (storage.make_dirs, lambda url: storage.write_text(storage.join(url, "f"), "x"), storage.exists):
            with pytest.raises(StorageError):
                work(place)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", ["$DATA/x", "${DATA}/x", "/data/$USER", "s3://$BUCKET/x"])
def test_variables_that_were_not_replaced_are_refused(place: str) -> None:
    with pytest.raises(storage.InvalidUrlError, match="is not replaced here"):
        storage.absolute(place)


@pytest.mark.parametrize(
    "place", ["file:{}", "file://{}", "file://localhost{}", "FILE://{}", "local://{}", "file:///{}"]
)
def test_all_spellings_of_a_file_are_one(place: str, tmp_path: Path) -> None:
    url = place.format(tmp_path)
    storage.write_text(storage.join(url, "a"), "x")
    assert storage.is_local(url)
    assert storage.absolute(url) == str(tmp_path)
    assert (tmp_path / "a").read_text() == "x"


@pytest.mark.parametrize("name", ["runs:2024", "./s3:bucket", "a b", "a$b", "x=1", "gr\u00fc\u00dfe", "a\\b", "s3/x"])
def test_odd_names_of_folders_are_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage.write_text(storage.join(name, "f"), "x")
    assert storage.absolute(name) == os.path.abspath(name)
    assert storage.list_dir(name) == ["f"]


def test_a_scheme_means_the_same_in_capitals() -> None:
    storage.write_text("MEMORY://capitals/f", "x")
    assert storage.read_text("memory://capitals/f") == "x"
    assert storage.list_dir("Memory://capitals") == ["f"]


@pytest.mark.parametrize("place", ["a\0b", "/data/\0", "/data/\ud800", "memory://a\nb", "s3://bucket/a\0b"])
def test_places_with_control_characters_are_no_internal_error(place: str) -> None:
    for work in (storage.read_bytes, storage.exists, storage.list_dir, storage.delete_tree):
        with pytest.raises(StorageError):
            work(place)


# Names

NAMES = st.text(st.sampled_from("./\\a:\0\n%2e~$ \x7f"), max_size=8) | st.text(max_size=6)


@given(st.lists(NAMES, min_size=1, max_size=3))
def test_joined_paths_stay_below_their_base(parts: list[str]) -> None:
    for base in ("/data/x", "s3://bucket/x", "memory://x"):
        try:
            found = storage.join(base, *parts)
        except storage.UnsafeNameError:
            continue
        assert found == base or found.startswith(f"{base}/")
        assert os.path.normpath(found.partition("://")[2] or found).startswith(base.partition("://")[2] or base)
        assert found.count("://") == base.count("://")


@given(NAMES)
def test_a_plain_name_is_one_of_a_file_directly_below(name: str) -> None:
    if storage.is_plain(name):
        assert storage.join("/data", name) == f"/data/{name}"
        assert os.path.normpath(f"/data/{name}") == f"/data/{name}"
        assert os.path.dirname(f"/data/{name}") == "/data"
        assert not set(name) & set("/\\\0\n")
    else:
        assert set(name) - set(string.ascii_letters) or not name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "C:", "c:x", "a\0", "a\n", "\x1b[2J", "\ud800", "x" * 256]
)
def test_names_that_are_not_plain(name: str) -> None:
    assert not storage.is_plain(name)
    assert not storage.is_plain(None)


class Listing(BaseHTTPRequestHandler):
    """A page of links, or the XML in which S3 lists keys; all else is there too."""

    protocol_version = "HTTP/1.1"
    links: ClassVar[list[str]] = []
    keys: ClassVar[list[str]] = []
    status: ClassVar[int] = 200

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        body, kind = b"content", "application/octet-stream"
        if "list-type=2" in self.path:
            items = "".join(f"<Contents><Key>{escape(key)}</Key><Size>1</Size></Contents>" for key in self.keys)
            body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>".encode()
        elif urlsplit(self.path).path.rstrip("/") == "/folder":
            links = "".join(f'<a href="{escape(link)}">x</a>\n' for link in self.links)
            body, kind = links.encode("utf-8", "replace"), "text/html; charset=utf-8"
        if self.status != 200:
            body = b""
        self.send_response(self.status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serve(Listing) as url:
        yield url


@pytest.fixture(autouse=True)
def sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ivr_dist.storage.api._FIRST_BACKOFF_S", 0.001)
    Listing.links, Listing.keys, Listing.status = [], [], 200


def test_pages_of_web_servers_are_listings(server: str) -> None:
    """What sound servers link to besides their files: the folder above, themselves in another order, other places."""
    Listing.links = [
        "?C=N;O=D",
        "../",
        "/",
        "a.tar",
        "/folder/b.tar",
        f"{server}/folder/c/",
        "/other/x",
        "#top",
        "d%20e",
    ]
    assert storage.list_dir(f"{server}/folder") == ["a.tar", "b.tar", "c", "d%20e"]


@pytest.mark.parametrize(
    "link",
    ["/folder/../../etc/x", "../../x", "a/../../x", "/folder/..", "a/b", "..%2fx", "%2e%2e", "a%00b", "..\\x", "C:\\x"],
)
def test_links_that_lead_out_of_the_folder_are_refused(server: str, link: str) -> None:
    Listing.links = ["a.tar", link]
    with pytest.raises(storage.UnsafeNameError, match="is not the name of a file in this folder"):
        storage.list_dir(f"{server}/folder")


@given(links=st.lists(NAMES.map(lambda name: name.replace('"', "")), max_size=4))
def test_listings_give_plain_names_or_are_refused(server: str, links: list[str]) -> None:
    Listing.links = links
    try:
        found = storage.list_dir(f"{server}/folder")
    except storage.UnsafeNameError as error:
        assert "\n" not in str(error)
        return
    assert all(storage.is_plain(name) for name in found)


@pytest.mark.parametrize("key", ["folder/../../x", "folder/..", "folder/a/../../x", "folder/a\\b"])
def test_keys_that_lead_out_of_the_folder_are_refused(server: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = f"bucket{abs(hash((server, key)))}"
    for name, value in {"ENDPOINT_URL": server, "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    Listing.keys = ["folder/a", "folder/b//c", "folder/"]
    assert storage.list_files(f"s3://{bucket}/folder") == ["a"], "a name that is empty is none"
    Listing.keys.append(key)
    with pytest.raises(storage.UnsafeNameError):
        storage.list_files(f"s3://{bucket}/folder")
    with pytest.raises(storage.UnsafeNameError):
        storage.list_dir(f"s3://{bucket}/folder")


def test_links_that_lead_nowhere_or_in_a_circle_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "nowhere").symlink_to("absent")
    assert storage.list_dir(str(tmp_path)) == ["a"]


def shard(name: str, index: str) -> ShardEntry:
    return ShardEntry(
        name=name, samples=1, bytes=1, sha256="0" * 64, index=IndexEntry(name=index, bytes=1, sha256="0" * 64)
    )


@pytest.mark.parametrize("stem", ["../a", "a\\b", ".a", "a\tb", "a/b"])
def test_names_in_tables_of_shards_are_plain(stem: str) -> None:
    with pytest.raises(ValueError, match="is not that of a file beside the manifest"):
        ShardColumns.of([shard(f"{stem}.tar", f"{stem}.idx")])


@pytest.mark.parametrize("path", ["../x.npz", "a/../../x", "/etc/passwd", "s3://bucket/x", ""])
def test_a_card_names_files_of_its_corpus(path: str, tmp_path: Path) -> None:
    card = {
        **dict.fromkeys(("name", "description", "citation", "licence"), "x"),
        "format": "table",
        "files": {"samples": {"path": path}},
        "features": {"text": {"set": "t", "dim": 4}},
        "tasks": {"mood": {"type": "regression", "low": -3, "high": 3}},
        "splits": {"train": {}},
        "table": {"file": "samples"},
    }
    (tmp_path / "card.yaml").write_text(json.dumps(card))
    with pytest.raises(ConfigError, match="leads out of the corpus"):
        load_card(str(tmp_path / "card.yaml"))


def test_tars_that_no_manifest_may_name_are_not_indexed(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a\\b.tar").write_bytes(bytes(1024))
    with pytest.raises(DataError, match="cannot be the name of a shard"):
        index_tars(str(tmp_path / "train"), corpus="corpus", split="train")


# Absence


@pytest.mark.parametrize("status", [404, 410])
def test_deleted_files_are_absent(server: str, status: int) -> None:
    Listing.status = status
    url = f"{server}/folder/x"
    assert not storage.exists(url)
    assert storage.list_dir(f"{server}/folder") == []
    assert storage.file_sizes(f"{server}/folder", ["x"]) == {}
    assert storage.stamps([url]) == [""]
    for work in (storage.size, storage.read_bytes, storage.open_stream):
        with pytest.raises(storage.NotFoundError):
            work(url)


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 502, 503])
def test_a_failed_look_up_does_not_mean_absence(server: str, status: int, tmp_path: Path) -> None:
    Listing.status = status
    url = f"{server}/folder/x"
    for work in (
        storage.exists,
        storage.size,
        storage.list_dir,
        storage.list_files,
        storage.read_bytes,
        storage.open_stream,
        lambda url: storage.stamps([url]),
        lambda url: storage.file_sizes(url, ["a"]),
        lambda url: storage.download(url, str(tmp_path / "f")),
    ):
        with pytest.raises(StorageError, match=str(status)) as caught:
            work(url)
        assert not isinstance(caught.value, storage.NotFoundError)


def test_a_server_that_is_down_is_no_absence() -> None:
    for work in (storage.exists, storage.size, storage.list_dir):
        with pytest.raises(StorageError, match="4 attempts failed") as caught:
            work("http://127.0.0.1:9/x")
        assert not isinstance(caught.value, storage.NotFoundError)


def test_a_folder_that_may_not_be_entered_is_no_absence(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may enter everything")
    (tmp_path / "closed").mkdir(mode=0)
    for work in (storage.exists, storage.size, storage.read_bytes):
        with pytest.raises(StorageError, match="not allowed"):
            work(str(tmp_path / "closed" / "f"))


# Secrets

SECRET = "pa55word"


@given(
    scheme=st.sampled_from(["http", "https", "s3", "sftp", "HTTPS"]),
    path=st.text("ab/.-%", max_size=8),
    around=st.sampled_from(["{}", "cannot read ({})", "url='{}', x", "a {}, named by b", "['{}']", "{};", "{}: no"]),
    place=st.sampled_from(["user:{}@host", "{}@host", "user:x{}@y@host", "user:a/{}@host", "user:a?{}@host"]),
    query=st.booleans(),
)
def test_secrets_in_urls_are_not_in_texts(scheme: str, path: str, around: str, place: str, query: bool) -> None:
    url = f"{scheme}://host/{path}?X-Signature={SECRET}&b=1" if query else f"{scheme}://{place.format(SECRET)}/{path}"
    for text in (
        hide_secrets(around.format(url)),
        storage.display(url),
        str(IvrError(around.format(url), where=url, remedy=around.format(url))),
        render(Note(around.format(url))) or "",
    ):
        assert SECRET not in text
        assert "host" in text or place == "{}@host"
    before, after = around.split("{}")
    assert hide_secrets(around.format(url)).startswith(before)
    assert hide_secrets(around.format(url)).endswith(after)


@pytest.mark.parametrize(
    "text", ["no URL: a?b@c", "/data/a@b?c", "file:///a?b@c", "s3://bucket/a@b#1", "http://h:80/a@b"]
)
def test_text_without_secrets_is_unchanged(text: str) -> None:
    assert hide_secrets(text) == text


def test_secrets_are_not_put_into_a_jobs_command() -> None:
    _refuse_secrets(["run.dir=s3://bucket/run", "train.epochs=3"])
    with pytest.raises(UserError, match="the cluster shows") as caught:
        _refuse_secrets([f"data.train=https://u:{SECRET}@host/x"])
    assert SECRET not in str(caught.value)
