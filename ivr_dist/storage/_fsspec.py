"""Remote storage through fsspec: object stores, HTTP, memory."""

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
from ivr_dist.storage._presigned import PresignedReads

_OBJECT_STORES = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss"))
_S3 = ("s3", "s3a")
_WEB = ("http", "https")
_NO_DIRECTORIES = _OBJECT_STORES | {"memory", "http", "https"}
_MAX_CONNECTIONS = 64
"""Maximum number of connections to a bucket; botocore's default, 10, is less than a reader uses."""
_memory_lock = threading.RLock()
T = TypeVar("T")
_SMALL_BYTES = 1 << 20


class Remote:
    """One fsspec file system: a bucket of an object store, an HTTP host, this process's memory."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.scheme = scheme(url)
        # Without caches: other processes write the files that are read here, and clients must not survive a fork.
        try:
            self.fs: Any = fsspec.core.url_to_fs(
                self.scheme + url[len(self.scheme) :], skip_instance_cache=True, use_listings_cache=False
            )[0]
        except ValueError as error:
            raise UnknownSchemeError(f"invalid URL: {error}", where=display(url), remedy="correct the URL") from error
        if hasattr(self.fs, "retries"):
            # s3fs and botocore retry five times each, without jitter; the attempts here would multiply with those.
            self.fs.retries = 1
            if hasattr(self.fs, "config_kwargs"):
                self.fs.config_kwargs.setdefault("retries", {"total_max_attempts": 1})
                self.fs.config_kwargs.setdefault("max_pool_connections", _MAX_CONNECTIONS)
        self._presigned = self._open_presigned(url) if self.scheme in _S3 else None
        # fsspec's memory files share one read position and test for existence before they write.
        self.guard: Any = _memory_lock if self.scheme == "memory" else nullcontext()

    def _open_presigned(self, url: str) -> PresignedReads | None:
        """Set up reads by presigned URLs; not for buckets with another kind of signature, and not through a proxy."""
        bucket = self._path(url).partition("/")[0]
        if ":" in bucket or bucket.endswith(("--x-s3", ".mrap")) or getproxies():
            return None
        # The default for requests, but not for presigned URLs.
        self.fs.config_kwargs.setdefault("signature_version", "s3v4")
        # Without garbage collection, because the client parses a large description of the S3 API.
        with uncollected():
            self.fs.connect()
        return PresignedReads(self.fs)

    def _path(self, url: str) -> str:
        # fsspec recognizes schemes in lower case only.
        return str(self.fs._strip_protocol(self.scheme + url[len(self.scheme) :]))

    def read(self, url: str) -> bytes:
        if self._presigned is not None:
            # Most files are small, and need one request only; the S3 client would look up the size first.
            content = self.begin_range(url, 0, _SMALL_BYTES).result()
            if len(content) != _SMALL_BYTES:
                return content
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
        """Begin `read_range` on the thread of fsspec's event loop; cancelling the future ends the request.

        Blocks if the client has no asynchronous calls.
        """
        if self.fs.async_impl:
            read = self.fs._cat_file if self._presigned is None else self._presigned.read
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
        # From a file, so that the client uploads a large object in parts.
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
        """Delete the folders of a deleted tree, on S3 servers that have folders: SeaweedFS continues to list them."""
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
            info = self.fs.info(self._path(url))
        return json.dumps(info, sort_keys=True, default=str)

    def entries(self, url: str) -> dict[str, int | None]:
        path = self._path(url).rstrip("/") + "/"
        try:
            with self.guard:
                listed = self.fs.ls(self._path(url), detail=True)
        except Exception as error:
            return _empty_if_absent(error, {})
        # Stores also list the directory's own marker object, or the file itself.
        inside = {item["name"].removeprefix(path).rstrip("/"): item for item in listed if item["name"].startswith(path)}
        return {name: _file_size(item) for name, item in inside.items() if self._is_entry(name, url)}

    def walk(self, url: str) -> list[str]:
        path = self._path(url).rstrip("/") + "/"
        try:
            with self.guard:
                listed = self.fs.find(self._path(url), detail=True)
        except Exception as error:
            return _empty_if_absent(error, [])
        # An emptied directory of SeaweedFS still lists itself, as a directory.
        names = [
            name.removeprefix(path) for name, item in listed.items() if item["type"] == "file" and name.startswith(path)
        ]
        return [name for name in names if all([self._is_entry(part, url) for part in name.split("/")])]

    def _is_entry(self, name: str, url: str) -> bool:
        """Whether a listed name is that of a file or directory.

        Raises:
            UnsafeNameError: It leads out of the directory, or some systems interpret it that way.
        """
        if not name or (self.scheme in _WEB and ("?" in name or "#" in name)):
            # Pages that list files link to themselves with other sort orders.
            return False
        if not is_plain(name) or (self.scheme in _WEB and not is_plain(unquote(name))):
            raise unsafe(name, url)
        return True


async def _content(request: Any) -> bytes:
    """Await the bytes of a range; empty if the range is beyond the end of the file."""
    try:
        return bytes(await request)
    except Exception as error:
        if answer_code(error) in ("InvalidRange", "416"):
            return b""
        raise


def _empty_if_absent(error: Exception, empty: T) -> T:
    """Return an empty listing if the error means that the directory is absent; raise any other error."""
    absent = isinstance(error, (FileNotFoundError, NotADirectoryError)) or answer_code(error) == "410"
    cause = cause_of_absence(error) if absent else error
    if cause is not None:
        raise cause
    return empty


def _file_size(info: dict[str, Any]) -> int | None:
    return None if info["type"] == "directory" or info["size"] is None else int(info["size"])


_open: dict[tuple[int, str], Remote] = {}
_open_lock = threading.Lock()


def _renew_locks() -> None:
    """Replace the locks in a forked child: a lock held by a thread of the parent would never be released."""
    global _open_lock, _memory_lock
    _open_lock, _memory_lock = threading.Lock(), threading.RLock()


os.register_at_fork(after_in_child=_renew_locks)


def connect(url: str) -> Remote:
    """Return the file system of `url`, which is opened once for each process and host or bucket."""
    check_remote(url)
    protocol, _, rest = url.partition("://")
    # By process: the clients of s3fs have threads and sockets, and refuse to work in a forked child.
    key = (os.getpid(), f"{protocol}://{rest.partition('/')[0]}")
    with _open_lock:
        if key not in _open:
            _open[key] = Remote(url)
        return _open[key]
