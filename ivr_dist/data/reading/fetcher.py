"""Reading ranges of files ahead: tried again where that helps, and compared with their checksums.

A server's answer may be late, cut short, an error, or wrong. Each range has a deadline; within it an attempt that fails
for a passing reason is made again after a random wait, one that stalls is given up, and one that is slower than nearly
all before it gets a second request beside it, whichever answers first. What is not what its checksum says is asked for
again a few times. Nothing wrong ever comes back, and nothing waits for ever.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial

import xxhash

from ivr_dist import storage
from ivr_dist.common.library_errors import named
from ivr_dist.config import DataConfig
from ivr_dist.data.reading.disk_cache import DiskCache
from ivr_dist.data.reading.fetch_stats import FetchMeters
from ivr_dist.data.reading.lazy_future import LazyFuture
from ivr_dist.errors import CorruptDataError, DataError, StorageError
from ivr_dist.units import parse_bytes

REMEDY = "copy the file again from where the split was packed, or pack the split again"

Content = bytes | memoryview
"""Of a range: what was read, or a part of a local file as the system has it."""

_OPEN_FILES = 256
_HEDGED_SHARE = 0.05
"""Second requests for each request: a server that is slow as a whole must not be asked for everything twice."""
_SHORTEST_PATIENCE_S = 0.02
_QUIET_S = 10.0
"""Before and between notices."""


@dataclass(frozen=True)
class FetchPolicy:
    """How hard to try."""

    threads: int = 32
    """Ranges that are read at a time, but for those of local files, which the system reads ahead."""
    deadline_s: float = 600.0
    """Seconds for one range, with all attempts."""
    attempt_s: float = 60.0
    """Seconds for one attempt."""
    first_wait_s: float = 0.2
    """Longest wait after the first failure; doubles with each further one."""
    longest_wait_s: float = 20.0
    wrong_answers: int = 3
    """Answers of a server for one range, that are not what was asked for, after which the file itself is at fault."""
    hedge: bool = True
    """Whether slow requests get a second one beside them."""
    verify: bool = True
    """Whether ranges are compared with their checksums."""


class Fetcher:
    """Reads ranges of files; safe to use from several threads, and after a fork.

    Args:
        policy: How hard to try.
        cache: Keeps on local disk what was read from elsewhere.
        notice: Called now and then with what is being tried again for long.
    """

    def __init__(
        self,
        policy: FetchPolicy | None = None,
        cache: DiskCache | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self.policy = policy or FetchPolicy()
        self._notice = notice
        self._next_notice = 0.0
        self.meters = FetchMeters()
        self._cache = cache
        # Its own generator: the global one belongs to the training run.
        self._random = random.SystemRandom()
        self._begin()

    def submit(self, url: str, start: int, end: int, *, xxh3: int, who: str) -> Future[Content]:
        """Begin to read the bytes [start, end) of a file, whose xxh3-64 is known.

        Of a local file only the system begins to: copying and comparing is left to whoever asks for the result.

        The future raises a DataError if the file is missing, a CorruptDataError if the bytes are not those, or a
        StorageError if storage failed until the deadline.

        Args:
            url: The file.
            start: First byte.
            end: The one after the last.
            xxh3: Checksum.
            who: Names the samples, for errors.
        """
        self._after_fork()
        if storage.is_local(url):
            self._file(url).will_need(start, end)
            return LazyFuture(partial(self._range, url, start, end, xxh3, who))
        return self._pool.submit(self._range, url, start, end, xxh3, who)

    def read_file(self, url: str, size: int, *, sha256: str, what: str) -> bytes:
        """A whole small file of known size and checksum.

        Raises:
            DataError: It is missing.
            CorruptDataError: It is another file.
            StorageError: Storage failed until the deadline.
        """
        self._after_fork()
        wrong = CorruptDataError(
            f"the {what} does not match the manifest's checksum", where=storage.display(url), remedy=REMEDY
        )

        def check(data: Content) -> None:
            if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
                raise wrong

        return bytes(self._read(url, 0, size, check, f"{what} file"))

    def close(self) -> None:
        """Stop without waiting for requests under way; may be called again."""
        self._closing.set()
        if self._pid == os.getpid():
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._pool = ThreadPoolExecutor(self.policy.threads, thread_name_prefix="ivr-fetch")
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._files: OrderedDict[str, storage.MappedFile] = OrderedDict()

    def _after_fork(self) -> None:
        """Threads and locks stay behind in the parent."""
        if self._pid != os.getpid():
            self.meters = FetchMeters()
            self._begin()

    # One range

    def _range(self, url: str, start: int, end: int, xxh3: int, who: str) -> Content:
        def check(data: Content) -> None:
            if len(data) == end - start and (not self.policy.verify or xxhash.xxh3_64_intdigest(data) == xxh3):
                return
            raise _wrong_bytes(url, start, end, len(data), who)

        if self._cache is None or storage.is_local(url):
            return self._read(url, start, end, check, "shard file")
        name = f"{xxh3:016x}-{end - start}"
        found = self._cache.get(name)
        # Compared whatever the policy: a machine that lost power may have left anything.
        if found is not None and len(found) == end - start and xxhash.xxh3_64_intdigest(found) == xxh3:
            self.meters.add("cache_hits")
            return found
        data = self._read(url, start, end, check, "shard file")
        self._cache.put(name, bytes(data))
        return data

    def _read(self, url: str, start: int, end: int, check: Callable[[Content], None], what: str) -> Content:
        """Attempts until one gives what passes the check.

        Args:
            url: The file.
            start: First byte.
            end: The one after the last.
            check: Raises a CorruptDataError or StorageError on what is not right.
            what: Kind of the file, for errors.
        """
        began = time.monotonic()
        attempts = wrong = 0
        while True:
            attempts += 1
            left = self.policy.deadline_s - (time.monotonic() - began)
            try:
                data = self._attempt(url, start, end, min(self.policy.attempt_s, left))
                check(data)
            except (storage.NotFoundError, FileNotFoundError) as error:
                raise DataError(f"{what} is missing", where=storage.display(url), remedy=REMEDY) from error
            except (CorruptDataError, StorageError) as error:
                failure: Exception = error
                wrong += 1
                if isinstance(error, CorruptDataError):
                    self.meters.add("corrupt")
                if storage.is_local(url) or wrong >= self.policy.wrong_answers:
                    raise
            except Exception as error:
                failure = error
                if not storage.is_transient(error):
                    raise storage.explain("read", url, error, attempts) from error
            else:
                self.meters.request_took(time.monotonic() - began, len(data))
                return data
            self._rest(url, failure, attempts, began)

    def _rest(self, url: str, failure: Exception, attempts: int, began: float) -> None:
        """Wait before another attempt; raise why not, where there is no time for one."""
        policy = self.policy
        # Anything from nothing to twice as long as last time: many workers that failed together come back apart.
        longest = min(policy.longest_wait_s, policy.first_wait_s * 2 ** min(attempts - 1, 30))
        pause = self._random.uniform(0, longest)
        spent = time.monotonic() - began
        if spent + pause >= policy.deadline_s or self._closing.wait(pause):
            if isinstance(failure, CorruptDataError | StorageError):
                raise failure
            raise StorageError(
                f"not read within {policy.deadline_s:g} s, in {attempts} attempts; the last one: {named(failure)}",
                where=storage.display(url),
                remedy="check the endpoint and the network; the same command goes on from the last checkpoint",
            ) from failure
        self.meters.add("retries")
        now = time.monotonic()
        if self._notice is not None and spent > _QUIET_S and now > self._next_notice:
            self._next_notice = now + _QUIET_S
            self._notice(
                f"storage is slow or down: {storage.display(url)} not read after {attempts} attempts in {spent:.0f} s, "
                f"still trying ({named(failure)})"
            )

    # One attempt

    def _attempt(self, url: str, start: int, end: int, seconds: float) -> Content:
        if storage.is_local(url):
            return self._file(url).view(start, end)
        began = time.monotonic()
        data = self._race(url, start, end, seconds)
        self.meters.attempt_took(time.monotonic() - began)
        return data

    def _race(self, url: str, start: int, end: int, seconds: float) -> bytes:
        """One request, or two where the first is slow; the error is the last one's."""
        under_way = {storage.begin_range(url, start, end)}
        until = time.monotonic() + seconds
        patience = self.meters.slow_after(_HEDGED_SHARE) if self.policy.hedge else None
        try:
            if patience is not None and not wait(under_way, min(max(patience, _SHORTEST_PATIENCE_S), seconds)).done:
                self.meters.add("hedges")
                under_way.add(storage.begin_range(url, start, end))
            while True:
                done, under_way = wait(under_way, max(0.0, until - time.monotonic()), FIRST_COMPLETED)
                if not done:
                    raise TimeoutError(f"no answer within {seconds:g} s")
                answered = [future for future in done if future.exception() is None]
                if answered or not under_way:
                    return (answered or list(done))[0].result()
        finally:
            for future in under_way:
                future.cancel()

    def _file(self, url: str) -> storage.MappedFile:
        with self._lock:
            file = self._files.pop(url, None) or storage.MappedFile(url)
            self._files[url] = file
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)
        return file


def open_fetcher(data: DataConfig, notice: Callable[[str], None] | None = None) -> Fetcher:
    """The fetcher that a config asks for.

    Raises:
        StorageError: `data.disk_cache` cannot be written to.
    """
    cache = DiskCache(data.disk_cache, parse_bytes(data.disk_cache_bytes), notice) if data.disk_cache else None
    return Fetcher(FetchPolicy(deadline_s=data.deadline_s, verify=data.verify), cache, notice)


def _wrong_bytes(url: str, start: int, end: int, got: int, who: str) -> CorruptDataError | StorageError:
    """Why the answer to a request for a range is of no use."""
    where, wanted = storage.display(url), end - start
    if got > wanted:
        return StorageError(
            f"the server answered {got} bytes to a request for {wanted}",
            where=where,
            remedy="use a server that supports HTTP range requests, or copy the data to local disk",
        )
    if got < wanted:
        what = f"{who}: file ends early: bytes {start} to {end} asked for, {got} of {wanted} there"
    else:
        what = f"{who}: bytes {start} to {end} do not match their checksum"
    return CorruptDataError(what, where=where, remedy=REMEDY)
