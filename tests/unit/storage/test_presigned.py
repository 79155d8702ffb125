"""Presigned reads from a real S3 server, and from servers that refuse them."""

from __future__ import annotations

import pytest

from ivr_dist import storage
from ivr_dist.errors import StorageError
from ivr_dist.storage import _presigned
from ivr_dist.storage._fsspec import connect
from ivr_dist.storage._presigned import PresignedReads
from tests import s3_server
from tests.fault_proxy import Proxy

pytestmark = pytest.mark.xdist_group("s3")

DATA = bytes(range(256)) * 40
URL = f"s3://{s3_server.BUCKET}/signed/some file+1.tar"


@pytest.fixture
def proxy(s3_proxy: Proxy) -> Proxy:
    """A proxy in front of a server with a file of DATA."""
    storage.write_bytes(URL, DATA)
    return s3_proxy


def read(start: int, end: int, url: str = URL) -> bytes:
    return storage.begin_range(url, start, end).result(30)


def presigned_reads() -> PresignedReads:
    found = connect(URL)._presigned
    assert found is not None
    return found


def test_one_signature_serves_all_ranges_of_an_object(proxy: Proxy) -> None:
    assert [read(start, start + 100) for start in (0, 500, 10_200)] == [DATA[:100], DATA[500:600], DATA[10_200:]]
    assert len(proxy.signed) == len(proxy.requests) == 3
    assert len(set(proxy.signed)) == 1


def test_a_server_that_takes_no_signed_requests_is_sent_no_more_of_them(proxy: Proxy) -> None:
    proxy.takes_signed = False
    assert [read(start, start + 100) for start in range(0, 1000, 100)] == [
        DATA[n : n + 100] for n in range(0, 1000, 100)
    ]
    assert len(proxy.signed) == 1


def test_where_presigned_reads_break_the_s3_client_is_used(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a firewall that breaks unknown connections: this must not be retried until a deadline."""
    asked: list[str] = []

    async def cut(url: str, **_: object) -> bytes:
        asked.append(url)
        raise ConnectionResetError("connection reset by peer")

    monkeypatch.setattr(presigned_reads()._http, "_cat_file", cut)
    for start in range(0, 1000, 100):
        assert read(start, start + 100) == DATA[start : start + 100]
    assert len(asked) == _presigned._MAX_FAILED


def test_a_connection_that_breaks_once_is_no_refusal(proxy: Proxy) -> None:
    assert read(0, 100) == DATA[:100]
    proxy.choose = lambda path, count: "503"
    for _ in range(2 * _presigned._MAX_FAILED):
        with pytest.raises(_presigned.BusyError):
            read(100, 200)
    proxy.choose = lambda path, count: None
    assert read(200, 300) == DATA[200:300]
    assert len(proxy.signed) == len(proxy.requests)


def test_a_refused_signature_is_replaced(proxy: Proxy) -> None:
    """As when the credentials expired earlier."""
    assert read(0, 100) == DATA[:100]
    reads = presigned_reads()
    for path, (url, since) in reads._urls.items():
        reads._urls[path] = (url.replace("X-Amz-Signature=", "X-Amz-Signature=0"), since)
    assert [read(0, 100), read(100, 200)] == [DATA[:100], DATA[100:200]]
    assert len(proxy.signed) == 3
    assert proxy.signed[1] not in (proxy.signed[0], proxy.signed[2])
    # The S3 client was used once.
    assert len(proxy.requests) == 4


def test_signatures_are_renewed_before_they_end(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_presigned.time, "monotonic", lambda: 0.0)
    read(0, 100)
    first = dict(presigned_reads()._urls)
    monkeypatch.setattr(_presigned.time, "monotonic", lambda: _presigned._VALID_S / 2 - 1.0)
    read(0, 100)
    assert presigned_reads()._urls == first
    monkeypatch.setattr(_presigned.time, "monotonic", lambda: _presigned._VALID_S / 2 + 1.0)
    read(0, 100)
    assert {since for _, since in presigned_reads()._urls.values()} == {_presigned._VALID_S / 2 + 1.0}


def test_no_more_signatures_are_kept_than_there_is_room_for(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_presigned, "_MAX_URLS", 2)
    for number in range(5):
        storage.write_bytes(f"{URL}{number}", DATA)
        assert read(0, 10, f"{URL}{number}") == DATA[:10]
        assert len(presigned_reads()._urls) <= 2


@pytest.mark.parametrize("fault", ["503", "403", "cut"])
def test_no_error_tells_a_signature(proxy: Proxy, fault: str) -> None:
    """A presigned URL in a log would give access to the file."""
    proxy.choose = lambda path, count: fault  # type: ignore[return-value]
    with pytest.raises(Exception) as caught:
        read(0, 100)
    assert proxy.signed
    error: BaseException | None = caught.value
    while error is not None:
        assert "Signature" not in f"{error}{error!r}"
        error = error.__cause__
    assert storage.is_transient(caught.value) == (fault != "403")  # type: ignore[arg-type]
    assert presigned_reads()._is_enabled


def test_what_is_not_there(proxy: Proxy) -> None:
    with pytest.raises(FileNotFoundError):
        read(0, 10, f"{URL}.absent")
    assert read(len(DATA), len(DATA) + 10) == b""
    assert read(len(DATA) - 5, len(DATA) + 10) == DATA[-5:]
    assert presigned_reads()._is_enabled


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_files_of_any_size_are_read_whole(proxy: Proxy, size: int) -> None:
    storage.write_bytes(f"{URL}.{size}", bytes(size))
    assert storage.read_bytes(f"{URL}.{size}") == bytes(size)


def test_a_file_that_may_not_be_read(proxy: Proxy) -> None:
    proxy.choose = lambda path, count: "403"
    with pytest.raises(StorageError, match="not allowed to read"):
        storage.read_bytes(URL)


@pytest.mark.parametrize("url", ["s3://arn:aws:s3:eu:1:accesspoint/a/k", "s3://bucket--x-s3/k"])
def test_buckets_that_sign_in_their_own_way(proxy: Proxy, url: str) -> None:
    assert connect(url)._presigned is None


def test_behind_a_proxy_the_client_of_s3_does_all(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ivr_dist.storage._fsspec._open", {})
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    assert read(0, 100) == DATA[:100]
    assert not proxy.signed
