"""Everything that is not a local file, through fsspec."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from typing import Any, TypeVar
from urllib.parse import unquote
from urllib.request import getproxies

from ivr_dist.runtime.garbage_collection import uncollected
from ivr_dist.storage._errors import UnknownSchemeError, answer_code, cause_of_absence, refuse_root
from ivr_dist.storage._local import Buffer, publish, staged
from ivr_dist.storage._paths import check_remote, display, is_plain, scheme, unsafe
from ivr_dist.storage._presigned import SignedReads

_OBJECT_STORES = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss"))
_S3 = ("s3", "s3a")
_WEB = ("http", "https")
_NO_DIRECTORIES = _OBJECT_STORES | {"memory", "http", "https"}
_MOST_CONNECTIONS = 64
"""To a bucket at a time; botocore's own limit, 10, is less than a reader has under way."""
_memory_lock = threading.RLock()
T = TypeVar("T")
_SMALL_BYTES = 1 << 20


class Remote:
    """One fsspec file system: a bucket of an object store, an HTTP host, this process's memory."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.scheme = scheme(url)
        # No caches: other processes write what we read, and clients must not outlive a fork.
        try:
            self.fs: Any = fsspec.core.url_to_fs(
                self.scheme + url[len(self.scheme) :], skip_instance_cache=True, use_listings_cache=False
            )[0]
        except ValueError as error:
            raise UnknownSchemeError(f"not a place: {error}", where=display(url), remedy="correct the URL") from error
        if hasattr(self.fs, "retries"):
            # s3fs and botocore under it repeat five times each, without jitter; the attempts here would multiply
            # with those.
            self.fs.retries = 1
            if hasattr(self.fs, "config_kwargs"):
                self.fs.config_kwargs.setdefault("retries", {"total_max_attempts": 1})
                self.fs.config_kwargs.setdefault("max_pool_connections", _MOST_CONNECTIONS)
        self._signed = self._sign_reads(url) if self.scheme in _S3 else None
        # fsspec's memory files share one read position and test for existence before they write.
        self.guard: Any = _memory_lock if self.scheme == "memory" else nullcontext()

    def _sign_reads(self, url: str) -> SignedReads | None:
        """Reads by signed requests: not for buckets that sign in a way of their own, and not through a proxy."""
        bucket = self._path(url).partition("/")[0]
        if ":" in bucket or bucket.endswith(("--x-s3", ".mrap")) or getproxies():
            return None
        # What requests are signed with in any case; for URLs it has to be said.
        self.fs.config_kwargs.setdefault("signature_version", "s3v4")
        # The client reads a description of all of S3.
        with uncollected():
            self.fs.connect()
        return SignedReads(self.fs)

    def _path(self, url: str) -> str:
        # A scheme means the same in capitals, but not to fsspec.
        return str(self.fs._strip_protocol(self.scheme + url[len(self.scheme) :]))

    def read(self, url: str) -> bytes:
        if self._signed is not None:
            # Most files are small: one request, where the client of S3 asks for the size first.
            found = self.begin_range(url, 0, _SMALL_BYTES).result()
            if len(found) != _SMALL_BYTES:
                return found
        with self.guard:
            return bytes(self.fs.cat_file(self._path(url)))

    def read_range(self, url: str, start: int, end: int) -> bytes:
        try:
            with self.guard:
                return bytes(self.fs.cat_file(self._path(url), start=start, end=end))
        except Exception as error:
            if answer_code(error) in ("InvalidRange", "416"):
                return b""
            raise

    def open(self, url: str) -> Any:
        return self.fs.open(self._path(url), "rb")

    def begin_range(self, url: str, start: int, end: int) -> Future[bytes]:
        """`read_range` under way, on the thread of fsspec's event loop; cancelling the future ends the request.

        A client without asynchronous calls is waited for.
        """
        if self.fs.async_impl:
            read = self.fs._cat_file if self._signed is None else self._signed.read
            request = read(self._path(url), start=start, end=end)
            return asyncio.run_coroutine_threadsafe(_content(request), self.fs.loop)
        future: Future[bytes] = Future()
        try:
            future.set_result(self.read_range(url, start, end))
        except Exception as error:
            future.set_exception(error)
        return future

    def write(self, url: str, data: bytes) -> None:
        self._make_parent(url)
        with self.guard:
            self.fs.pipe_file(self._path(url), data)

    def write_all(self, url: str, buffers: Sequence[Buffer]) -> None:
        # From a file, so that the client sends a large object in parts.
        with tempfile.NamedTemporaryFile(prefix="ivr-upload-") as file:
            for buffer in buffers:
                file.write(buffer)
            file.flush()
            self.put(file.name, url)

    def create(self, url: str, data: bytes) -> bool:
        self._make_parent(url)
        try:
            with self.guard:
                self.fs.pipe_file(self._path(url), data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if answer_code(error) in ("PreconditionFailed", "412"):
                return False
            raise
        return True

    def put(self, local_file: str, url: str) -> None:
        self._make_parent(url)
        with self.guard:
            self.fs.put_file(local_file, self._path(url))

    def get(self, url: str, local_file: str) -> None:
        with staged(local_file) as temporary:
            with self.guard:
                self.fs.get_file(self._path(url), temporary)
            publish(temporary, local_file)

    def make_dirs(self, url: str) -> None:
        if self.scheme not in _NO_DIRECTORIES:
            self.fs.makedirs(self._path(url), exist_ok=True)

    def _make_parent(self, url: str) -> None:
        if self.scheme not in _NO_DIRECTORIES:
            self.fs.makedirs(self.fs._parent(self._path(url)), exist_ok=True)

    def delete(self, url: str) -> None:
        path = self._path(url).strip("/")
        if not path or (self.scheme in _OBJECT_STORES and "/" not in path):
            raise refuse_root(url)
        with self.guard:
            if self.scheme not in _S3:
                with suppress(FileNotFoundError):
                    self.fs.rm(self._path(url), recursive=True)
                return
            try:
                below = self.fs.find(path)
                self.fs.rm(path, recursive=True)
            except FileNotFoundError:
                below = []
            self._delete_folders(path, below)

    def _delete_folders(self, path: str, files: Sequence[str]) -> None:
        """Delete what is left of a deleted tree on servers of S3 that have folders: SeaweedFS goes on listing them."""
        try:
            if self.fs.info(path)["type"] != "directory":
                return
        except FileNotFoundError:
            return
        folders = {path}
        for name in files:
            while (name := name.rpartition("/")[0]).startswith(f"{path}/"):
                folders.add(name)
        bucket = path.partition("/")[0]
        for folder in sorted(folders, key=len, reverse=True):
            self.fs.call_s3("delete_object", Bucket=bucket, Key=f"{folder.partition('/')[2]}/")

    def info(self, url: str) -> int | None:
        with self.guard:
            return _file_size(self.fs.info(self._path(url)))

    def stamp(self, url: str) -> str:
        with self.guard:
            found = self.fs.info(self._path(url))
        return json.dumps(found, sort_keys=True, default=str)

    def entries(self, url: str) -> dict[str, int | None]:
        path = self._path(url).rstrip("/") + "/"
        try:
            with self.guard:
                found = self.fs.ls(self._path(url), detail=True)
        except Exception as error:
            return _nothing(error, {})
        # Stores list the directory's own marker object, or the file itself, beside what is below.
        inside = {item["name"].removeprefix(path).rstrip("/"): item for item in found if item["name"].startswith(path)}
        return {name: _file_size(item) for name, item in inside.items() if self._is_entry(name, url)}

    def walk(self, url: str) -> list[str]:
        path = self._path(url).rstrip("/") + "/"
        try:
            with self.guard:
                found = self.fs.find(self._path(url), detail=True)
        except Exception as error:
            return _nothing(error, [])
        # An emptied directory of SeaweedFS still lists itself, as a directory.
        names = [
            name.removeprefix(path) for name, item in found.items() if item["type"] == "file" and name.startswith(path)
        ]
        return [name for name in names if all([self._is_entry(part, url) for part in name.split("/")])]

    def _is_entry(self, name: str, url: str) -> bool:
        """Whether a listing means a file or directory by a name.

        Raises:
            UnsafeNameError: It names something that is not in the directory, or that some systems take for it.
        """
        if not name or (self.scheme in _WEB and ("?" in name or "#" in name)):
            # A page that lists files has links to itself, sorted in another way.
            return False
        if not is_plain(name) or (self.scheme in _WEB and not is_plain(unquote(name))):
            raise unsafe(name, url)
        return True


async def _content(request: Any) -> bytes:
    """The answer to a request for a range; nothing where the file ends before it."""
    try:
        return bytes(await request)
    except Exception as error:
        if answer_code(error) in ("InvalidRange", "416"):
            return b""
        raise


def _nothing(error: Exception, nothing: T) -> T:
    """What is listed where an error says that there is nothing; any other error is raised."""
    absent = isinstance(error, (FileNotFoundError, NotADirectoryError)) or answer_code(error) == "410"
    cause = cause_of_absence(error) if absent else error
    if cause is not None:
        raise cause
    return nothing


def _file_size(info: dict[str, Any]) -> int | None:
    return None if info["type"] == "directory" or info["size"] is None else int(info["size"])


_open: dict[tuple[int, str], Remote] = {}
_open_lock = threading.Lock()


def _renew_locks() -> None:
    """In a forked child: whichever thread of the parent held one will never give it back."""
    global _open_lock, _memory_lock
    _open_lock, _memory_lock = threading.Lock(), threading.RLock()


os.register_at_fork(after_in_child=_renew_locks)


def connect(url: str) -> Remote:
    """The file system of `url`, opened once for each process and host or bucket."""
    check_remote(url)
    protocol, _, rest = url.partition("://")
    # By process: the clients of s3fs hold threads and sockets and refuse to work in a forked child.
    key = (os.getpid(), f"{protocol}://{rest.partition('/')[0]}")
    with _open_lock:
        if key not in _open:
            _open[key] = Remote(url)
        return _open[key]
