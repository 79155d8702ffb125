"""The functions of `ivr_dist.storage`: reading, writing, listing and deleting files, on all backends."""

from __future__ import annotations

import json
import logging
import os
import random
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ivr_dist.errors import CorruptDataError, IvrError, StorageError
from ivr_dist.storage._backend import Store
from ivr_dist.storage._errors import NotFoundError, explain, is_transient
from ivr_dist.storage._fsspec import connect
from ivr_dist.storage._local import Buffer, Disk, pread
from ivr_dist.storage._paths import (
    display,
    is_local,
    join,
    local_path,
    scheme,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)

ATTEMPTS = 4
"""Number of attempts of a remote operation."""

_FIRST_BACKOFF_S = 0.5
_CANNOT_LIST = ("http", "https")
_disk = Disk()
# A separate generator, because the global one belongs to the training run, which must not depend on slow storage.
_jitter = random.SystemRandom()


# Reading


def read_bytes(url: str) -> bytes:
    """Read a whole file."""
    return _run("read", url, lambda store: store.read(url))


def read_range(url: str, start: int, end: int) -> bytes:
    """Read the bytes [start, end) of a file, exactly `end - start` of them.

    Raises:
        CorruptDataError: The file ends before `end`.
        StorageError: It cannot be read, or its server does not support range requests.
    """
    data = _run("read", url, lambda store: store.read_range(url, start, end)) if end > start else b""
    return _check_length(data, url, start, end)


class RangeReader:
    """Reads ranges of one file, as `read_range` does; a local file is opened once, on the first read.

    Args:
        url: The file.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._descriptor: int | None = None

    def read(self, start: int, end: int) -> bytes:
        """Read the bytes [start, end); see `read_range`."""
        if not is_local(self._url):
            return read_range(self._url, start, end)
        try:
            if self._descriptor is None:
                self._descriptor = os.open(local_path(self._url), os.O_RDONLY | os.O_CLOEXEC)
                weakref.finalize(self, os.close, self._descriptor)
            return _check_length(pread(self._descriptor, start, end), self._url, start, end)
        except OSError as error:
            raise explain("read", self._url, error, 1) from error


def open_stream(url: str) -> Any:
    """Open a file to read it from front to back; reading raises the errors of the client library."""
    return _run("read", url, lambda store: store.open(url))


def begin_range(url: str, start: int, end: int) -> Future[bytes]:
    """Begin one attempt to read the bytes [start, end) of a remote file, for callers with their own retry policy.

    Returns:
        The bytes that the server sends, which may be more or fewer than requested; or the error of the client library,
        for `is_transient` and `explain`. Cancelling the future ends the request.
    """
    return connect(url).begin_range(url, start, end)


def _check_length(data: bytes, url: str, start: int, end: int) -> bytes:
    """Return the bytes of a range, if their number is as requested."""
    requested = end - start
    if len(data) < requested:
        raise CorruptDataError(
            f"file ends early: {len(data)} of {requested} bytes in range {start} to {end}",
            where=display(url),
            remedy="write the file again; it is shorter than its index says",
        )
    if len(data) > requested:
        raise StorageError(
            f"the server answered {len(data)} bytes to a request for {requested}",
            where=display(url),
            remedy="use a server that supports HTTP range requests, or copy the data to local disk",
        )
    return data


def read_text(url: str) -> str:
    """Read a UTF-8 file.

    Raises:
        CorruptDataError: It is not UTF-8.
    """
    try:
        return read_bytes(url).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptDataError(
            f"not UTF-8 text: {error.reason} at byte {error.start}", where=display(url), remedy="write the file again"
        ) from error


def read_json(url: str) -> Any:
    """Read a JSON file.

    Raises:
        CorruptDataError: It is not JSON.
    """
    text = read_text(url)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(f"not JSON: {error}", where=display(url), remedy="write the file again") from error


def is_same_url(one: str, other: str) -> bool:
    """Whether two absolute URLs name the same file or folder, also through symbolic links of local folders."""
    if is_local(one) and is_local(other):
        return os.path.realpath(one) == os.path.realpath(other)
    return one.rstrip("/") == other.rstrip("/")


# Writing


def write_bytes(url: str, data: bytes) -> None:
    """Write a whole file atomically: readers see the previous content or all of `data`, also after a crash."""
    _run("write", url, lambda store: store.write(url, data))


def write_buffers(url: str, buffers: Sequence[Buffer]) -> None:
    """Write a whole file from consecutive buffers, as `write_bytes` does, without joining large ones in memory."""
    _run("write", url, lambda store: store.write_all(url, buffers))


def write_text(url: str, text: str) -> None:
    """Write a UTF-8 file, as `write_bytes` does."""
    write_bytes(url, text.encode("utf-8"))


def write_json(url: str, value: Any) -> None:
    """Write `value` as indented JSON, as `write_bytes` does."""
    write_text(url, json.dumps(value, indent=1) + "\n")


def create_exclusive(url: str, data: bytes) -> bool:
    """Write a file only if it does not exist: of any number of concurrent callers exactly one succeeds.

    Args:
        url: The file.
        data: Content that no other caller writes (a random token in it suffices). When the answer to a
            successful request is lost, the retry recognizes its own file by it.

    Returns:
        True if this call wrote the file, False if it existed already.
    """
    tries = 0

    def attempt(store: Store) -> bool:
        nonlocal tries
        tries += 1
        return store.create(url, data) or (tries > 1 and store.read(url) == data)

    return _run("write", url, attempt)


def upload(local_file: str, url: str) -> None:
    """Copy a file of this machine to `url`, atomically like `write_bytes`."""
    # Checked first, so that an error of the local file is not reported for `url`.
    size(local_file)
    _run(f"copy {local_file} to it", url, lambda store: store.put(local_file, url))


def download(url: str, local_file: str) -> None:
    """Copy `url` to a file of this machine, atomically."""
    _run(f"copy it to {local_file}", url, lambda store: store.get(url, local_file))


def make_dirs(url: str) -> None:
    """Create a directory and those above it; does nothing on object stores, which have no directories."""
    _run("make the directory", url, lambda store: store.make_dirs(url))


def delete_tree(url: str) -> None:
    """Delete a file, or a directory and its contents; no error if it is absent.

    Raises:
        StorageError: It cannot be deleted, or is a whole bucket, a file system, a home directory or a directory at the
            root of the machine.
    """
    _run("delete", url, lambda store: store.delete(url))


def delete_staged(url: str) -> None:
    """Delete temporary files that killed writers have left directly below `url`.

    No other process may be writing there. Only local disks have such files.
    """
    if is_local(url):
        _run("delete", url, lambda store: _disk.delete_staged(url))


# Looking up and listing


def exists(url: str) -> bool:
    """Whether there is a file, a directory, or on an object store anything below `url`."""
    try:
        _run("look up", url, lambda store: store.info(url))
    except NotFoundError:
        return False
    return True


def size(url: str) -> int:
    """Look up the size of a file in bytes."""
    file_size = _run("look up", url, lambda store: store.info(url))
    if file_size is None and can_list(url):
        raise NotFoundError("it is a directory, not a file", where=display(url), remedy="check the path")
    if file_size is None:
        raise StorageError(
            "the server does not send the size of the file", where=display(url), remedy="use another web server"
        )
    return file_size


def holds_files(url: str) -> bool:
    """Whether there is a file at `url` or at any depth below it; empty folders do not count, as on object stores."""
    if list_files(url):
        return True
    try:
        size(url)
    except NotFoundError:
        return False
    return True


def can_list(url: str) -> bool:
    """Whether listings are complete, which those of web servers need not be."""
    return scheme(url) not in _CANNOT_LIST


def stamps(urls: Sequence[str]) -> list[str]:
    """Return a version stamp of each file, which changes when the file is written again; empty where there is no file.

    It consists of size and times on local disk, elsewhere of the server's metadata: an ETag, a time, or only the size.
    """

    def look_up(url: str) -> str:
        try:
            return _run("look up", url, lambda store: store.stamp(url))
        except NotFoundError:
            return ""

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(look_up, urls))


def list_dir(url: str) -> list[str]:
    """List the names of the files and directories directly below `url`, sorted; none if it is absent or a file.

    Raises:
        UnsafeNameError: A server lists a name that leads out of the directory, such as `../x`.
    """
    return sorted(_run("list", url, lambda store: store.entries(url)))


def list_files(url: str) -> list[str]:
    """List the files at any depth below `url`, as names relative to it, sorted; none if it is absent or a file."""
    return sorted(_run("list", url, lambda store: store.walk(url)))


def file_sizes(url: str, names: Sequence[str], listing: bool = True) -> dict[str, int]:
    """Look up the sizes in bytes of the files `names` directly below `url`; absent ones are left out.

    Args:
        url: The directory.
        names: The files.
        listing: Whether to list the directory once; otherwise, and where storage cannot list (HTTP), there is one
            request for each file.
    """
    if listing and can_list(url):
        entries = _run("list", url, lambda store: store.entries(url))
        return {name: entries[name] or 0 for name in names if entries.get(name) is not None}

    def look_up(name: str) -> int | None:
        try:
            return size(join(url, name))
        except NotFoundError:
            return None

    with ThreadPoolExecutor(16) as pool:
        return {name: value for name, value in zip(names, pool.map(look_up, names), strict=True) if value is not None}


def _run(verb: str, url: str, action: Callable[[Store], T]) -> T:
    """Run `action`, with retries after transient errors, and explain the final error."""
    attempts = 1 if is_local(url) else ATTEMPTS
    # Client libraries raise errors of any type; on the local disk anything but an OSError is a bug.
    failures: type[Exception] = OSError if is_local(url) else Exception
    attempt = 1
    while True:
        try:
            return action(_disk if is_local(url) else connect(url))
        except IvrError:
            raise
        except failures as error:
            if attempt == attempts or not is_transient(error):
                raise explain(verb, url, error, attempt) from error
            pause = _jitter.uniform(0, _FIRST_BACKOFF_S * 2 ** (attempt - 1))
            logger.debug("cannot %s %s, retry in %.2f s: %s", verb, display(url), pause, type(error).__name__)
            time.sleep(pause)
        attempt += 1
