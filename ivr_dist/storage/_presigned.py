"""Presigned reads: ranges of S3 objects by presigned URLs and a plain HTTP client.

The S3 client builds, signs and parses every request separately, which takes as much processor time as the transfer of a
MiB. One presigned URL of an object serves all its ranges for an hour. A refused request is repeated with the S3 client,
so only speed depends on presigned URLs:

1. Presign a URL of the object, or reuse one that is younger than half an hour.
2. Read the range by HTTP. A transient error is raised, once presigned reads have worked, and the caller retries.
3. After any other error, read the range with the S3 client, whose errors are raised.
4. If that succeeds although a new URL was refused, or if the first few requests all failed, stop using presigned URLs.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from ivr_dist.storage._errors import is_transient

logger = logging.getLogger(__name__)

_VALID_S = 3600
_MAX_URLS = 10_000
_MAX_FAILED = 4


class BusyError(OSError):
    """A server that is busy or failing."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the server answered {status} {reason}")
        self.status = status


# decision 020
class PresignedReads:
    """Reads ranges of the objects of one bucket; used only on the thread of fsspec's event loop.

    Args:
        fs: The S3 client, an `s3fs.S3FileSystem`.
    """

    def __init__(self, fs: Any) -> None:
        from aiohttp import ClientTimeout
        from fsspec.implementations.http import HTTPFileSystem

        self._fs = fs
        # The timeouts of the S3 client: for the next byte, not for the whole answer.
        timeout = ClientTimeout(
            sock_connect=fs.config_kwargs.get("connect_timeout", fs.connect_timeout),
            sock_read=fs.config_kwargs.get("read_timeout", fs.read_timeout),
        )
        self._http = HTTPFileSystem(
            encoded=True, client_kwargs={"timeout": timeout}, loop=fs.loop, skip_instance_cache=True
        )
        self._is_enabled = True
        self._has_worked = False
        """Whether a presigned read has ever succeeded."""
        self._failed = 0
        self._urls: dict[str, tuple[str, float]] = {}
        """Presigned URL and the time of its signature, by path."""

    async def read(self, path: str, start: int, end: int) -> bytes:
        """Read the bytes [start, end) of an object; raises the errors of `s3fs.S3FileSystem._cat_file`."""
        if not self._is_enabled:
            return await self._read_by_client(path, start, end)
        is_new = self._drop_old(path)
        try:
            data = bytes(await self._http._cat_file(await self._presign(path), start=start, end=end))
        except Exception as error:
            is_passing = _is_unrelated(error)
            if is_passing and self._has_worked:
                raise _without_url(error) from None
        else:
            self._has_worked = True
            return data
        self._urls.pop(path, None)
        data = await self._read_by_client(path, start, end)
        # The S3 client may read the object, but a new presigned URL is refused; or a device on the network breaks all
        # such connections.
        self._failed += 1
        if (is_new and not is_passing) or (not self._has_worked and self._failed >= _MAX_FAILED):
            self._is_enabled = False
            logger.info("presigned URLs do not work here; reads use the S3 client")
        return data

    async def _read_by_client(self, path: str, start: int, end: int) -> bytes:
        return bytes(await self._fs._cat_file(path, start=start, end=end))

    def _drop_old(self, path: str) -> bool:
        """Drop an old URL, and return whether a new one is needed.

        If the credentials expire earlier, a URL is refused, and the next one is new.
        """
        url = self._urls.get(path)
        if url is not None and time.monotonic() - url[1] > _VALID_S / 2:
            del self._urls[path]
        return path not in self._urls

    async def _presign(self, path: str) -> str:
        if path not in self._urls:
            url = await self._fs._url(path, expires=_VALID_S)
            if len(self._urls) >= _MAX_URLS:
                self._urls.clear()
            self._urls[path] = (url, time.monotonic())
        return self._urls[path][0]


def _is_unrelated(error: Exception) -> bool:
    """Whether an error has nothing to do with presigned URLs: broken connections, and busy servers."""
    # A TLS error does: the S3 client may be configured to trust another certificate.
    return is_transient(error) and not any(kind.__name__ == "ClientSSLError" for kind in type(error).__mro__)


def _without_url(error: Exception) -> Exception:
    """Remove the URL from an error, because a presigned URL is a secret while it is valid."""
    status = getattr(error, "status", None)
    return BusyError(status, getattr(error, "message", "")) if isinstance(status, int) else error
