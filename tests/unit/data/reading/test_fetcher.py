"""Reading ranges from a real S3 server through a fault-injecting proxy (errors, stalls, corruption); the disk cache."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures._base import DoneAndNotDoneFutures
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xxhash

from ivr_dist import storage
from ivr_dist.config import DataConfig
from ivr_dist.data.reading.disk_cache import DiskCache
from ivr_dist.data.reading.fetch_stats import FetchCounts, FetchMeters
from ivr_dist.data.reading.fetcher import Fetcher, FetchPolicy, open_fetcher
from ivr_dist.errors import CorruptDataError, DataError, IvrError, StorageError
from tests import fault_proxy, s3_server
from tests.fault_proxy import Finding, Proxy

pytestmark = pytest.mark.xdist_group("s3")

SIZE = 100_000
DATA = bytes(range(256)) * (2 * SIZE // 256)
QUICK = FetchPolicy(deadline_s=20.0, attempt_s=5.0, first_backoff_s=0.01, max_backoff_s=0.05)


@pytest.fixture
def proxy(s3_proxy: Proxy) -> Proxy:
    """A proxy in front of a server with a file of DATA."""
    storage.write_bytes(url_of("file.tar"), DATA)
    return s3_proxy


def url_of(name: str) -> str:
    return f"s3://{s3_server.BUCKET}/fetch/{name}"


def fetch(fetcher: Fetcher, start: int = 0, end: int = SIZE, url: str = "", xxh3: int | None = None) -> bytes:
    expected = xxhash.xxh3_64_intdigest(DATA[start:end]) if xxh3 is None else xxh3
    return fetcher.submit(url or url_of("file.tar"), start, end, xxh3=expected, what="samples a to b").result(60)


@pytest.fixture
def fetcher() -> Iterator[Fetcher]:
    found = Fetcher(QUICK)
    yield found
    found.close()


@pytest.mark.parametrize("fault", ["503", "cut", "whole", "flip", "slow", "short"])
def test_what_passes_is_tried_again(proxy: Proxy, fetcher: Fetcher, fault: Finding) -> None:
    storage.begin_range(url_of("file.tar"), 0, 1).result(30)  # signed requests are known to be answered
    proxy.choose = lambda path, count: fault if count < 2 else None
    assert fetch(fetcher) == DATA[:SIZE]
    counts = fetcher.meters.counts()
    assert counts.retries == (0 if fault == "slow" else 2)
    assert counts.corrupt == (2 if fault in ("flip", "short") else 0)
    assert (counts.requests, counts.bytes) == (1, SIZE)


def test_a_stalled_attempt_is_given_up(proxy: Proxy) -> None:
    fetcher = Fetcher(replace(QUICK, attempt_s=0.5))
    storage.read_bytes(url_of("file.tar"))  # connects, which takes a while
    proxy.choose = lambda path, count: "stall" if count < 2 else None
    started = time.monotonic()
    assert fetch(fetcher) == DATA[:SIZE]
    assert 1.0 < time.monotonic() - started < 5
    assert fetcher.meters.counts().retries == 2


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        ("503", StorageError, "not read within 1 s, in [0-9]+ attempts"),
        ("stall", StorageError, "not read within 1 s, in [0-9]+ attempts; the last one: TimeoutError: no answer"),
        ("cut", StorageError, "not read within 1 s"),
        ("403", StorageError, "not allowed to read"),
        ("whole", StorageError, "range requests"),
        ("short", CorruptDataError, "samples a to b: file ends early: 99999 of 100000 bytes in range 0 to 100000"),
        ("flip", CorruptDataError, "samples a to b: bytes 0 to 100000 do not match their checksum"),
    ],
)
def test_what_does_not_pass_is_an_error_within_the_deadline(
    proxy: Proxy, fault: Finding, kind: type[IvrError], text: str
) -> None:
    proxy.choose = lambda path, count: fault
    # Short where the deadline ends the read; otherwise long enough for a busy machine.
    waits = fault in ("503", "stall", "cut")
    fetcher = Fetcher(replace(QUICK, attempt_s=0.3 if waits else 4.0, deadline_s=1.0 if waits else 4.0))
    started = time.monotonic()
    with pytest.raises(kind, match=text) as caught:
        fetch(fetcher)
    assert time.monotonic() - started < 5
    assert caught.value.remedy and "\n" not in str(caught.value)
    assert "file.tar" in caught.value.where


def test_a_missing_file_is_not_retried(proxy: Proxy, fetcher: Fetcher) -> None:
    with pytest.raises(DataError, match="shard file is missing"):
        fetch(fetcher, url=url_of("absent.tar"))
    # The S3 client decides whether a file is missing.
    assert len(proxy.requests) == len(proxy.signed) + 1 == 2


def test_a_slow_request_gets_a_second_one_beside_it(proxy: Proxy) -> None:
    fetcher = Fetcher(replace(QUICK, attempt_s=20.0))
    for start in range(40):
        fetch(fetcher, start)
    proxy.slow_s = 10.0
    proxy.choose = lambda path, count: "slow" if count == 0 else None
    started = time.monotonic()
    assert fetch(fetcher, 1000) == DATA[1000:SIZE]
    assert time.monotonic() - started < 5
    assert fetcher.meters.counts().hedges == 1


def test_requests_to_a_server_that_is_slow_as_a_whole_are_not_hedged(proxy: Proxy) -> None:
    fetcher = Fetcher(QUICK)
    for start in range(40):
        fetch(fetcher, start)
    proxy.slow_s = 0.2
    proxy.choose = lambda path, count: "slow"
    for start in range(1000, 1008):
        fetch(fetcher, start)
    assert fetcher.meters.counts().hedges <= 0.05 * 48 + 1


def test_of_two_answers_the_good_one_counts(fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where both have arrived before the futures are checked."""
    for order in ((0, 1), (1, 0)):
        good: Future[bytes] = Future()
        good.set_result(DATA[:SIZE])
        bad: Future[bytes] = Future()
        bad.set_exception(ConnectionError("cut"))
        answers = iter([(good, bad)[number] for number in order])
        late: Future[bytes] = Future()
        monkeypatch.setattr(storage, "begin_range", lambda *_, answers=answers, late=late: next(answers, late))
        monkeypatch.setattr(fetcher.meters, "hedge_after_s", lambda share: 0.0)
        monkeypatch.setattr("ivr_dist.data.reading.fetcher.wait", _both_at_once)
        assert fetch(fetcher) == DATA[:SIZE]


def _both_at_once(futures: set[Future[bytes]], timeout: float, *_: object) -> Any:
    """As if the futures were checked too early first, and then late."""
    return DoneAndNotDoneFutures(set(), futures) if len(futures) == 1 else DoneAndNotDoneFutures(futures, set())


def test_long_retries_are_reported_from_time_to_time(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ivr_dist.data.reading.fetcher._NOTICE_S", 0.3)
    told: list[str] = []
    proxy.choose = lambda path, count: "503"
    fetcher = Fetcher(replace(QUICK, deadline_s=1.5), notice=told.append)
    with pytest.raises(StorageError):
        fetch(fetcher)
    assert 1 <= len(told) <= 5
    assert all("file.tar not read after" in line and "still trying" in line and "\n" not in line for line in told)


def test_a_config_says_how_hard_to_try(tmp_path: Path) -> None:
    plain = open_fetcher(DataConfig())
    assert (plain.policy, plain._cache) == (FetchPolicy(), None)
    data = DataConfig(deadline_s=5.0, verify=False, disk_cache=str(tmp_path / "kept"), disk_cache_bytes="3MB")
    found = open_fetcher(data)
    assert (found.policy.deadline_s, found.policy.verify) == (5.0, False)
    assert found._cache is not None and found._cache.limit == 3_000_000
    assert (tmp_path / "kept").is_dir()


def test_closing_ends_the_waits(proxy: Proxy) -> None:
    proxy.choose = lambda path, count: "503"
    fetcher = Fetcher(replace(QUICK, first_backoff_s=60.0, max_backoff_s=60.0, deadline_s=600.0))
    future = fetcher.submit(url_of("file.tar"), 0, SIZE, xxh3=0, what="a")
    fault_proxy.wait_until(lambda: len(proxy.requests) > 0)
    fetcher.close()
    fetcher.close()
    with pytest.raises(StorageError, match="not read"):
        future.result(10)


def test_local_damage_is_not_retried(tmp_path: Path, fetcher: Fetcher) -> None:
    (tmp_path / "a.tar").write_bytes(DATA)
    assert fetch(fetcher, url=str(tmp_path / "a.tar")) == DATA[:SIZE]
    with pytest.raises(CorruptDataError, match="do not match their checksum"):
        fetch(fetcher, url=str(tmp_path / "a.tar"), xxh3=1)
    assert fetcher.meters.counts().retries == 0
    unchecked = Fetcher(replace(QUICK, verify=False))
    assert fetch(unchecked, url=str(tmp_path / "a.tar"), xxh3=1) == DATA[:SIZE]


def test_meters() -> None:
    meters = FetchMeters()
    assert meters.counts() == FetchCounts()
    assert meters.hedge_after_s(0.05) is None
    for thousandths in range(100):
        meters.record_attempt(thousandths / 1000)
        meters.record_request(thousandths / 1000, 10)
    counts = meters.counts()
    assert (counts.requests, counts.bytes, counts.p50_s, counts.p99_s) == (100, 1000, 0.05, 0.099)
    assert meters.hedge_after_s(0.05) == 0.099
    meters.add("hedges", 6)
    assert meters.hedge_after_s(0.05) is None


class TestDiskCache:
    def test_cached_ranges_are_not_requested_again(self, proxy: Proxy, tmp_path: Path) -> None:
        first = Fetcher(QUICK, DiskCache(str(tmp_path), 1 << 30))
        assert fetch(first) == DATA[:SIZE]
        asked = len(proxy.requests)
        second = Fetcher(QUICK, DiskCache(str(tmp_path), 1 << 30))
        assert fetch(second) == DATA[:SIZE]
        assert len(proxy.requests) == asked
        assert second.meters.counts().cache_hits == 1

    def test_damage_is_noticed_and_mended(self, proxy: Proxy, tmp_path: Path) -> None:
        fetcher = Fetcher(replace(QUICK, verify=False), DiskCache(str(tmp_path), 1 << 30))
        fetch(fetcher)
        (kept,) = (path for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock")
        for damage in (DATA[:5], b"\0" * SIZE):
            kept.write_bytes(damage)
            assert fetch(fetcher) == DATA[:SIZE]
            assert kept.read_bytes() == DATA[:SIZE]

    def test_the_longest_unused_goes_first_and_nothing_else_does(self, tmp_path: Path) -> None:
        stranger = tmp_path / "ab" / "notes"
        (tmp_path / "somebody's").mkdir()
        (tmp_path / "somebody's" / "file").write_bytes(DATA)
        cache = DiskCache(str(tmp_path), 10_000)
        for number in range(20):
            cache.put(f"{number:02d}-x", b"x" * 900)
            os.utime(tmp_path / f"{number:02d}" / f"{number:02d}-x", (number, number))
            if number >= 5:
                assert cache.get("03-x") is not None
        kept = [number for number in range(20) if cache.get(f"{number:02d}-x") is not None]
        assert kept == [3, *range(kept[1], 20)]
        assert 8 <= len(kept) <= 12
        assert (tmp_path / "somebody's" / "file").read_bytes() == DATA
        assert not stranger.exists()

    def test_a_scan_that_another_one_prevents_is_made_up_for(self, tmp_path: Path) -> None:
        """Even by a file too small for a scan of its own."""
        cache = DiskCache(str(tmp_path), 10_000)
        with open(tmp_path / "lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for number in range(4):
                cache.put(f"{number:02}", bytes(5_000))
        assert sum(path.stat().st_size for path in tmp_path.glob("??/*")) == 20_000
        cache.put("ff", b"x")
        assert sum(path.stat().st_size for path in tmp_path.glob("??/*")) <= 10_000

    def test_what_a_killed_process_left_is_cleared_up(self, tmp_path: Path) -> None:
        (tmp_path / "ab").mkdir()
        for name, age in (("part-old", 7200), ("part-new", 10)):
            (tmp_path / "ab" / name).write_bytes(b"x")
            os.utime(tmp_path / "ab" / name, (time.time() - age,) * 2)
        DiskCache(str(tmp_path), 100).put("cd", b"x")
        assert [path.name for path in (tmp_path / "ab").iterdir()] == ["part-new"]

    def test_a_full_disk_is_as_good_as_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        notes: list[str] = []
        cache = DiskCache(str(tmp_path), 100, notes.append)

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("tempfile.mkstemp", full)
        cache.put("ab", b"x")
        cache.put("ab", b"x")
        monkeypatch.undo()
        cache.put("ab", b"x")
        assert cache.get("ab") is None
        assert notes == ["data.disk_cache cannot be written to for now: No space left on device"]
        later = time.monotonic() + 61
        monkeypatch.setattr("ivr_dist.data.reading.disk_cache.time.monotonic", lambda: later)
        cache.put("ab", b"x")
        assert cache.get("ab") == b"x"

    def test_a_disk_that_is_full_at_the_start_ends_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("tempfile.TemporaryFile", full)
        notes: list[str] = []
        cache = DiskCache(str(tmp_path / "new"), 100, notes.append)
        cache.put("ab", b"x")
        assert cache.get("ab") is None and len(notes) == 1

    def test_a_directory_that_cannot_be_written_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StorageError, match=r"data\.disk_cache"):
            DiskCache(str(tmp_path / "file"), 100)

    def test_many_threads(self, tmp_path: Path) -> None:
        cache = DiskCache(str(tmp_path), 50_000)

        def work(first: int) -> None:
            for number in range(first, first + 200):
                name = f"{number % 90:02d}-{number}"
                cache.put(name, name.encode() * 100)
                found = cache.get(name)
                assert found is None or found == name.encode() * 100

        threads = [threading.Thread(target=work, args=(100 * number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 100_000
