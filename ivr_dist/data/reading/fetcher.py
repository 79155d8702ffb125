"""Reads byte ranges with retries, hedged requests and checksum verification.

A range is read in these steps, all of them within one deadline:

1. Look it up in the disk cache, if there is one.
2. Send a request, with a timeout for the attempt.
3. If it takes longer than 99 of 100 recent requests, send a hedged request beside it, and use the first answer. At
   most 5 requests in 100 are hedged, so that a server that is slow as a whole does not get twice the load.
4. Verify length and checksum. A wrong answer is requested again a few times, then it is an error.
5. After a transient error, retry with exponential backoff and full jitter: the wait is uniform between 0 and a limit
   that doubles with each attempt, so that many workers that failed together do not return together.
6. At the deadline, raise the last error.

Local files need none of this: they are mapped into memory, and a lazy future copies and verifies a range.
"""

from __future__ import annotations

import hashlib
import logging
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

logger = logging.getLogger(__name__)

REMEDY = "copy the file again from where the split was packed, or pack the split again"

Content = bytes | memoryview
"""Bytes of a range: a copy, or a view of a memory-mapped local file."""

_MAX_OPEN_FILES = 256
_HEDGED_SHARE = 0.05
"""Maximum number of hedged requests for each request."""
_MIN_HEDGE_S = 0.02
"""Minimum number of seconds before a request is hedged."""
_NOTICE_S = 10.0
"""Seconds before the first notice and between notices."""


@dataclass(frozen=True)
class FetchPolicy:
    """Retry, timeout and hedging policy."""

    threads: int = 32
    """Number of ranges that are read at a time, except for local files, which the system prefetches."""
    deadline_s: float = 600.0
    """Seconds for one range, all attempts included."""
    attempt_s: float = 60.0
    """Seconds for one attempt."""
    first_backoff_s: float = 0.2
    """Maximum wait after the first failure; doubles with each further one."""
    max_backoff_s: float = 20.0
    """Limit of that maximum."""
    wrong_answers: int = 3
    """Number of wrong answers of a server for one range after which the file itself is regarded as damaged."""
    hedge: bool = True
    """Whether slow requests are hedged by a second one."""
    verify: bool = True
    """Whether ranges are compared with their checksums."""


class Fetcher:
    """Reads ranges of files; safe to use from several threads, and after a fork.

    Args:
        policy: Retry, timeout and hedging policy.
        cache: Caches ranges of remote files on local disk.
        notice: Called from time to time while a range is retried for long.
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
        # A separate generator, because the global one belongs to the training run.
        self._random = random.SystemRandom()
        self._begin()

    def submit(self, url: str, start: int, end: int, *, xxh3: int, what: str) -> Future[Content]:
        """Begin to read the bytes [start, end) of a file, whose xxh3-64 is known.

        For a local file, only the system's read-ahead begins; the bytes are verified in the thread that calls
        `result()`.

        The future raises a DataError if the file is missing, a CorruptDataError if the bytes do not match the checksum,
        or a StorageError if storage failed until the deadline.

        Args:
            url: The file.
            start: Offset of the first byte.
            end: Offset after the last byte.
            xxh3: Checksum.
            what: Names the samples, for errors.
        """
        self._after_fork()
        if storage.is_local(url):
            # decision 019
            self._file(url).will_need(start, end)
            return LazyFuture(partial(self._range, url, start, end, xxh3, what))
        return self._pool.submit(self._range, url, start, end, xxh3, what)

    def read_file(self, url: str, size: int, *, sha256: str, what: str) -> bytes:
        """Read a whole small file of known size and checksum.

        Raises:
            DataError: The file is missing.
            CorruptDataError: Its size or checksum differs.
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
        """Stop without waiting for pending requests; may be called again."""
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
        """Begin again in a forked child, which has neither the threads nor usable locks of its parent."""
        if self._pid != os.getpid():
            self.meters = FetchMeters()
            self._begin()

    # One range

    def _range(self, url: str, start: int, end: int, xxh3: int, what: str) -> Content:
        def check(data: Content) -> None:
            if len(data) == end - start and (not self.policy.verify or xxhash.xxh3_64_intdigest(data) == xxh3):
                return
            raise _wrong_bytes(url, start, end, len(data), what)

        if self._cache is None or storage.is_local(url):
            return self._read(url, start, end, check, "shard file")
        name = f"{xxh3:016x}-{end - start}"
        cached = self._cache.get(name)
        # Verified under any policy: a power failure may have left arbitrary bytes.
        if cached is not None and len(cached) == end - start and xxhash.xxh3_64_intdigest(cached) == xxh3:
            self.meters.add("cache_hits")
            return cached
        data = self._read(url, start, end, check, "shard file")
        self._cache.put(name, bytes(data))
        return data

    def _read(self, url: str, start: int, end: int, check: Callable[[Content], None], what: str) -> Content:
        """Retry until an attempt returns bytes that pass the check.

        Args:
            url: The file.
            start: Offset of the first byte.
            end: Offset after the last byte.
            check: Raises a CorruptDataError or StorageError for wrong bytes.
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
                self.meters.record_request(time.monotonic() - began, len(data))
                return data
            self._back_off(url, failure, attempts, began)

    def _back_off(self, url: str, failure: Exception, attempts: int, began: float) -> None:
        """Wait before the next attempt, with exponential backoff and full jitter; raise at the deadline."""
        policy = self.policy
        longest = min(policy.max_backoff_s, policy.first_backoff_s * 2 ** min(attempts - 1, 30))
        pause = self._random.uniform(0, longest)
        spent = time.monotonic() - began
        if spent + pause >= policy.deadline_s or self._closing.wait(pause):
            if isinstance(failure, CorruptDataError | StorageError):
                raise failure
            raise StorageError(
                f"not read within {policy.deadline_s:g} s, in {attempts} attempts; the last one: {named(failure)}",
                where=storage.display(url),
                remedy="check the endpoint and the network; the same command continues from the last checkpoint",
            ) from failure
        self.meters.add("retries")
        logger.debug("attempt %d to read %s failed: %s", attempts, storage.display(url), named(failure))
        now = time.monotonic()
        if self._notice is not None and spent > _NOTICE_S and now > self._next_notice:
            self._next_notice = now + _NOTICE_S
            self._notice(
                f"storage is slow or down: {storage.display(url)} not read after {attempts} attempts in {spent:.0f} s, "
                f"still trying ({named(failure)})"
            )

    # One attempt

    def _attempt(self, url: str, start: int, end: int, seconds: float) -> Content:
        if storage.is_local(url):
            return self._file(url).view(start, end)
        began = time.monotonic()
        data = self._request(url, start, end, seconds)
        self.meters.record_attempt(time.monotonic() - began)
        return data

    # decision 026
    def _request(self, url: str, start: int, end: int, seconds: float) -> bytes:
        """Send a request, and hedge it by a second one if it is slow; if both fail, the error is that of the last."""
        pending = {storage.begin_range(url, start, end)}
        until = time.monotonic() + seconds
        hedge_s = self.meters.hedge_after_s(_HEDGED_SHARE) if self.policy.hedge else None
        try:
            if hedge_s is not None and not wait(pending, min(max(hedge_s, _MIN_HEDGE_S), seconds)).done:
                self.meters.add("hedges")
                logger.debug("hedged a request for %s after %.2f s", storage.display(url), hedge_s)
                pending.add(storage.begin_range(url, start, end))
            while True:
                done, pending = wait(pending, max(0.0, until - time.monotonic()), FIRST_COMPLETED)
                if not done:
                    raise TimeoutError(f"no answer within {seconds:g} s")
                answered = [future for future in done if future.exception() is None]
                if answered or not pending:
                    return (answered or list(done))[0].result()
        finally:
            for future in pending:
                future.cancel()

    def _file(self, url: str) -> storage.MappedFile:
        with self._lock:
            file = self._files.pop(url, None) or storage.MappedFile(url)
            self._files[url] = file
            if len(self._files) > _MAX_OPEN_FILES:
                self._files.popitem(last=False)
        return file


def open_fetcher(data: DataConfig, notice: Callable[[str], None] | None = None) -> Fetcher:
    """Create the fetcher of a config.

    Raises:
        StorageError: `data.disk_cache` cannot be written to.
    """
    cache = DiskCache(data.disk_cache, parse_bytes(data.disk_cache_bytes), notice) if data.disk_cache else None
    return Fetcher(FetchPolicy(deadline_s=data.deadline_s, verify=data.verify), cache, notice)


def _wrong_bytes(url: str, start: int, end: int, received: int, what: str) -> CorruptDataError | StorageError:
    """Make the error for a wrong answer to a request for a range."""
    where, requested = storage.display(url), end - start
    if received > requested:
        return StorageError(
            f"the server answered {received} bytes to a request for {requested}",
            where=where,
            remedy="use a server that supports HTTP range requests, or copy the data to local disk",
        )
    if received < requested:
        problem = f"file ends early: {received} of {requested} bytes in range {start} to {end}"
    else:
        problem = f"bytes {start} to {end} do not match their checksum"
    return CorruptDataError(f"{what}: {problem}", where=where, remedy=REMEDY)
