"""Storage has the same semantics on disk, in memory and on a real S3 server; errors are explained on one line."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist import storage
from ivr_dist.errors import CorruptDataError, StorageError
from ivr_dist.storage._local import _resolved
from ivr_dist.storage._paths import is_deletable
from tests import s3_server
from tests.http_servers import serve

pytestmark = pytest.mark.xdist_group("s3")


@pytest.fixture(params=["disk", "file-url", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty folder of each kind of storage."""
    unique = uuid.uuid4().hex
    if request.param == "disk":
        return str(tmp_path)
    if request.param == "file-url":
        return f"file://{tmp_path}"
    if request.param == "memory":
        return f"memory://{unique}"
    for name, value in request.getfixturevalue("s3_environment").items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_server.BUCKET}/{unique}"


class TestAlikeEverywhere:
    def test_written_files_are_read_back(self, place: str) -> None:
        url = storage.join(place, "a", "b.bin")
        storage.write_bytes(url, b"0123456789")
        assert storage.read_bytes(url) == b"0123456789"
        assert storage.size(url) == 10
        storage.write_bytes(url, b"shorter")
        assert storage.read_bytes(url) == b"shorter"

    def test_empty_file(self, place: str) -> None:
        url = storage.join(place, "empty")
        storage.write_bytes(url, b"")
        assert storage.read_bytes(url) == b""
        assert storage.size(url) == 0
        assert storage.exists(url)

    def test_ranges_are_exact(self, place: str) -> None:
        url = storage.join(place, "r")
        storage.write_bytes(url, bytes(range(100)))
        for read in (partial(storage.read_range, url), storage.RangeReader(url).read):
            assert read(10, 20) == bytes(range(10, 20))
            assert read(0, 100) == bytes(range(100))
            assert read(50, 50) == b""

    @pytest.mark.parametrize("start,end", [(90, 101), (100, 101), (200, 300)])
    def test_a_range_beyond_the_end_is_corrupt_data(self, place: str, start: int, end: int) -> None:
        url = storage.join(place, "r")
        storage.write_bytes(url, bytes(100))
        for read in (partial(storage.read_range, url), storage.RangeReader(url).read):
            with pytest.raises(CorruptDataError, match="ends early"):
                read(start, end)

    def test_text_and_json(self, place: str) -> None:
        storage.write_text(storage.join(place, "t"), "gr\u00fc\u00dfe\n")
        assert storage.read_text(storage.join(place, "t")) == "gr\u00fc\u00dfe\n"
        value = {"b": [1, 2.5, None], "a": {"x": "y"}}
        storage.write_json(storage.join(place, "j"), value)
        assert storage.read_json(storage.join(place, "j")) == value

    @pytest.mark.parametrize("content", [b"{", b"\xff", b"", b"[" * 100_000])
    def test_bad_json_names_the_file(self, place: str, content: bytes) -> None:
        url = storage.join(place, "bad.json")
        storage.write_bytes(url, content)
        with pytest.raises(CorruptDataError, match=r"bad\.json"):
            storage.read_json(url)

    def test_absent(self, place: str, tmp_path: Path) -> None:
        url, unused = storage.join(place, "no", "such"), tmp_path / "unused"
        assert not storage.exists(url)
        for read in (storage.read_bytes, storage.read_text, storage.read_json, storage.size):
            with pytest.raises(storage.NotFoundError, match="such"):
                read(url)
        with pytest.raises(storage.NotFoundError):
            storage.read_range(url, 0, 1)
        with pytest.raises(storage.NotFoundError):
            storage.RangeReader(url).read(0, 1)
        with pytest.raises(storage.NotFoundError):
            storage.download(url, str(unused))
        assert not unused.exists()
        assert storage.list_dir(url) == []
        assert storage.list_files(url) == []
        assert storage.file_sizes(url, ["a"]) == {}
        storage.delete_tree(url)

    def test_listing(self, place: str) -> None:
        for name in ("b", "a", "d/x", "d/e/y", "d2/z"):
            storage.write_bytes(storage.join(place, name), name.encode())
        assert storage.list_dir(place) == ["a", "b", "d", "d2"]
        assert storage.list_dir(place + "/") == ["a", "b", "d", "d2"]
        assert storage.list_files(place) == ["a", "b", "d/e/y", "d/x", "d2/z"]
        assert storage.list_files(storage.join(place, "d")) == ["e/y", "x"]
        assert storage.list_dir(storage.join(place, "a")) == []
        assert storage.list_files(storage.join(place, "a")) == []
        assert storage.exists(storage.join(place, "d"))
        assert storage.file_sizes(storage.join(place, "d"), ["x", "e", "w"]) == {"x": 3}
        with pytest.raises(StorageError):
            storage.size(storage.join(place, "d"))

    def test_stamps_change_with_the_file(self, place: str) -> None:
        urls = [storage.join(place, name) for name in ("a", "b", "c")]
        for url in urls[:2]:
            storage.write_bytes(url, b"12345")
        before = storage.stamps(urls)
        assert before == storage.stamps(urls) and all(before[:2]) and before[2] == ""
        time.sleep(0.02)
        storage.write_bytes(urls[1], b"54321")
        after = storage.stamps(urls)
        assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]

    def test_make_dirs_can_be_repeated(self, place: str) -> None:
        url = storage.join(place, "p", "q")
        storage.make_dirs(url)
        storage.make_dirs(url)
        assert storage.list_dir(url) == []

    def test_delete_takes_the_tree_and_nothing_beside_it(self, place: str) -> None:
        for name in ("step/a", "step/b/c", "step2/a", "stepper"):
            storage.write_bytes(storage.join(place, name), b"x")
        storage.delete_tree(storage.join(place, "step"))
        assert storage.list_files(place) == ["step2/a", "stepper"]
        assert storage.list_dir(place) == ["step2", "stepper"], "no folder is left on servers that have them"
        assert not storage.exists(storage.join(place, "step"))
        assert [storage.holds_files(storage.join(place, name)) for name in ("step", "step2", "stepper")] == [
            False,
            True,
            True,
        ]
        storage.delete_tree(storage.join(place, "stepper"))
        assert storage.list_files(place) == ["step2/a"]

    def test_up_and_down(self, place: str, tmp_path: Path) -> None:
        source, back = tmp_path / "source", tmp_path / "new" / "back"
        source.write_bytes(os.urandom(300_000))
        storage.upload(str(source), storage.join(place, "deep", "copy"))
        storage.download(storage.join(place, "deep", "copy"), str(back))
        assert back.read_bytes() == source.read_bytes()
        with pytest.raises(storage.NotFoundError, match="nothing"):
            storage.upload(str(tmp_path / "nothing"), storage.join(place, "x"))

    def test_create_exclusive_has_one_winner(self, place: str) -> None:
        url = storage.join(place, "claims", "attempt")
        barrier = threading.Barrier(8)

        def claim(number: int) -> bool:
            barrier.wait()
            return storage.create_exclusive(url, b"claim %d" % number * 1000)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(claim, range(8)))
        assert won.count(True) == 1
        assert storage.read_bytes(url) == b"claim %d" % won.index(True) * 1000
        assert storage.list_dir(storage.join(place, "claims")) == ["attempt"]
        assert not storage.create_exclusive(url, storage.read_bytes(url))


class TestDisk:
    def test_no_trace_of_a_write_that_fails(self, tmp_path: Path) -> None:
        (tmp_path / "taken").mkdir()
        with pytest.raises(StorageError, match="taken"):
            storage.write_bytes(str(tmp_path / "taken"), b"x")
        assert os.listdir(tmp_path) == ["taken"]

    def test_leavings_of_a_killed_writer_are_not_listed_and_can_be_deleted(self, tmp_path: Path) -> None:
        (tmp_path / f".{uuid.uuid4().hex}.ivr-staged").write_bytes(b"half")
        assert storage.list_dir(str(tmp_path)) == []
        assert storage.list_files(str(tmp_path)) == []
        (tmp_path / "whole").write_bytes(b"whole")
        storage.delete_staged(str(tmp_path))
        storage.delete_staged(str(tmp_path / "absent"))
        assert os.listdir(tmp_path) == ["whole"]

    def test_full_disk_is_named(self, tmp_path: Path) -> None:
        folder = tmp_path / "small"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
            pytest.skip("mounting a small file system needs root")
        (tmp_path / "big").write_bytes(bytes(200_000))
        try:
            for action in (
                lambda: storage.write_bytes(str(folder / "f"), bytes(200_000)),
                lambda: storage.create_exclusive(str(folder / "f"), bytes(200_000)),
                lambda: storage.upload(str(tmp_path / "big"), str(folder / "f")),
                lambda: storage.download(str(tmp_path / "big"), str(folder / "f")),
            ):
                with pytest.raises(StorageError, match=r"no space left .*small.*; free some space") as caught:
                    action()
                assert isinstance(caught.value.__cause__, OSError)
                assert caught.value.__cause__.errno == errno.ENOSPC
                assert os.listdir(folder) == []
        finally:
            subprocess.run(["umount", str(folder)], check=True)

    def test_permission(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"x")
        (tmp_path / "f").chmod(0)
        if os.geteuid() == 0:
            pytest.skip("root may read everything")
        with pytest.raises(StorageError, match="not allowed to read"):
            storage.read_bytes(str(tmp_path / "f"))

    def test_a_file_where_a_directory_is_needed(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"x")
        with pytest.raises(StorageError, match="cannot write") as caught:
            storage.write_bytes(str(tmp_path / "f" / "g"), b"x")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["link", "link/", "data/../link"])
    def test_a_link_is_deleted_not_what_it_points_to(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "f").write_bytes(b"x")
        (tmp_path / "link").symlink_to(tmp_path / "data")
        storage.delete_tree(f"{tmp_path}/{name}")
        assert storage.list_files(str(tmp_path)) == ["data/f"]


class TestPlaces:
    @pytest.mark.parametrize(
        "base,parts,joined",
        [
            ("s3://bucket/", ["a", "b.tar"], "s3://bucket/a/b.tar"),
            ("s3://bucket", ["/a/"], "s3://bucket/a"),
            ("memory://", ["a"], "memory://a"),
            ("file:///", ["a"], "file:///a"),
            ("file:///data/", [], "file:///data"),
            ("/", ["a"], "/a"),
            ("/data//", ["", "a"], "/data/a"),
            ("runs", ["x", "y/z"], "runs/x/y/z"),
            ("", ["a"], "a"),
        ],
    )
    def test_join(self, base: str, parts: list[str], joined: str) -> None:
        assert storage.join(base, *parts) == joined

    @given(st.lists(st.text("ab/", min_size=1).filter(lambda part: part.strip("/")), max_size=4))
    def test_joining_in_steps_is_joining_at_once(self, parts: list[str]) -> None:
        for base in ("s3://b", "/d/", "r"):
            step = base
            for part in parts:
                step = storage.join(step, part)
            assert storage.join(step) == storage.join(base, *parts)

    def test_local(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", "/home/someone")
        assert storage.is_local("a/b")
        assert storage.is_local("file:///a")
        assert not storage.is_local("s3://a")
        assert storage.local_path("file:///a/b") == "/a/b"
        assert storage.absolute("a/../b") == str(tmp_path / "b")
        assert storage.absolute("~/x") == "/home/someone/x"
        assert storage.absolute("s3://bucket/a") == "s3://bucket/a"
        with pytest.raises(StorageError, match="not a local path"):
            storage.local_path("s3://a/b")

    @pytest.mark.parametrize(
        "path,is_mount,deletable",
        [
            ("/data/runs", False, True),
            ("/data/runs/step-1", False, True),
            ("/home/someone/runs", False, True),
            ("/home/someone-else", False, True),
            ("/home/someon", False, True),
            ("", False, False),
            ("/", False, False),
            ("//", False, False),
            ("/etc", False, False),
            ("/usr/", False, False),
            ("/work", False, False),
            ("/home", False, False),
            ("/home/someone", False, False),
            ("/home/someone/", False, False),
            ("/data/runs", True, False),
            ("/data/runs/..", False, False),
            ("/data/.", False, False),
            ("data/runs", False, False),
            ("../data/runs", False, False),
        ],
    )
    def test_what_may_be_deleted(self, path: str, is_mount: bool, deletable: bool) -> None:
        # Names only: nothing that exists is ever handed to delete_tree to see whether it refuses.
        assert is_deletable(path, is_mount, "/home/someone") is deletable

    @pytest.mark.parametrize("path", ["", "/", "//", ".", "..", "a/.", "a/b/.."])
    def test_a_path_that_names_no_entry_may_not_be_deleted(self, path: str) -> None:
        assert not is_deletable(_resolved(path), False, "/home/someone")

    def test_what_holds_the_home_directory_may_not_be_deleted(self) -> None:
        assert not is_deletable("/a/b", False, "/a/b/c/someone")
        assert is_deletable("/a/b/d", False, "/a/b/c/someone")

    def test_secrets_are_not_shown(self) -> None:
        assert storage.display("sftp://me:pw@host/x") == "sftp://***@host/x"
        assert storage.display("https://host/x?X-Amz-Signature=abc") == "https://host/x"
        assert storage.display("/data/a@b?c") == "/data/a@b?c"


class FaultyServer(BaseHTTPRequestHandler):
    """Serves b"0123456789" after the faults listed in `faults`; knows no ranges."""

    faults: ClassVar[list[str]] = []
    requests: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.requests.append(self.path)
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "10")
            self.end_headers()
            self.wfile.write(b"01234")
        elif fault:
            self.send_error(int(fault))
        else:
            self.send_response(200)
            self.send_header("Content-Length", "10")
            self.end_headers()
            self.wfile.write(b"0123456789")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("ivr_dist.storage.api._FIRST_BACKOFF_S", 0.02)
    FaultyServer.faults, FaultyServer.requests = [], []
    with serve(FaultyServer) as url:
        yield f"{url}/file"


class TestRetries:
    @pytest.mark.parametrize("faults", [["503"], ["503", "cut", "500"], ["429", "429", "408"]])
    def test_passing_faults_are_passed(self, faulty: str, faults: list[str]) -> None:
        FaultyServer.faults = list(faults)
        assert storage.read_bytes(faulty) == b"0123456789"
        assert len(FaultyServer.requests) == len(faults) + 1

    def test_lasting_faults_are_explained(self, faulty: str) -> None:
        FaultyServer.faults = ["503"] * 10
        with pytest.raises(StorageError, match=r"503.*4 attempts failed"):
            storage.read_bytes(faulty)
        assert len(FaultyServer.requests) == 4

    @pytest.mark.parametrize("status,text", [("403", "not allowed"), ("404", "no such file"), ("400", "400")])
    def test_permanent_errors_are_not_retried(self, faulty: str, status: str, text: str) -> None:
        FaultyServer.faults = [status] * 2
        with pytest.raises(StorageError, match=text):
            storage.read_bytes(faulty)
        assert len(FaultyServer.requests) == 1

    def test_a_server_without_ranges(self, faulty: str) -> None:
        with pytest.raises(StorageError, match="range requests"):
            storage.read_range(faulty, 2, 5)

    def test_a_dead_endpoint_fails_in_seconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        with pytest.raises(StorageError, match="check the endpoint"):
            storage.read_bytes(f"s3://bucket-{uuid.uuid4().hex}/f")

    def test_unknown_scheme(self) -> None:
        with pytest.raises(StorageError, match="nosuch"):
            storage.read_bytes("nosuch://a/b")


def _read_in_child(url: str, answers: Any) -> None:
    answers.put(storage.read_bytes(url))


def test_a_forked_child_opens_its_own_client(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{s3_server.BUCKET}/{uuid.uuid4().hex}"
    storage.write_bytes(url, b"shared")
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_read_in_child, args=(url, answers))
    child.start()
    assert answers.get(timeout=60) == b"shared"
    child.join()


def test_wrong_credentials(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**s3_environment, "AWS_SECRET_ACCESS_KEY": "wrong"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=r"not allowed to read.*check the credentials"):
        storage.read_bytes(f"s3://bucket-{uuid.uuid4().hex}/f")


def test_a_missing_bucket_is_called_so(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    url = f"s3://bucket-{uuid.uuid4().hex}/f"
    for work in (storage.exists, storage.size, storage.list_dir, storage.list_files, storage.read_bytes):
        with pytest.raises(storage.NoBucketError, match="there is no bucket bucket-"):
            work(url)
    storage.delete_tree(url)


def test_errors_travel_between_processes() -> None:
    error = storage.NotFoundError("no such file", where="x", remedy="y")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is storage.NotFoundError
    assert str(copy) == str(error)
