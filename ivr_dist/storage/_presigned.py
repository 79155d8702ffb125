"""Ranges of S3 objects by requests that were signed beforehand.

The client of S3 describes, signs and interprets every request anew, which takes the processor as long as it takes a MiB
to arrive. One signature of an object serves all its ranges for a while, and a plain HTTP client does the rest. Where
such a request is refused, the client of S3 is asked: it knows what its server means. So nothing but speed depends on
signatures, and a server that does not take them is not sent any more.
"""

from __future__ import annotations

import time
from typing import Any

from ivr_dist.storage._errors import is_transient

_VALID_S = 3600
_MOST_SIGNED = 10_000
_MOST_FAILED = 4


class BusyError(OSError):
    """A server that answers, but not now."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the server answered {status} {reason}")
        self.status = status


class SignedReads:
    """Reads ranges of the objects of one bucket; used on the thread of fsspec's event loop alone.

    Args:
        fs: The client of S3, an `s3fs.S3FileSystem`.
    """

    def __init__(self, fs: Any) -> None:
        from aiohttp import ClientTimeout
        from fsspec.implementations.http import HTTPFileSystem

        self._fs = fs
        # As long as the client of S3 waits: for the next byte, not for all of them.
        timeout = ClientTimeout(
            sock_connect=fs.config_kwargs.get("connect_timeout", fs.connect_timeout),
            sock_read=fs.config_kwargs.get("read_timeout", fs.read_timeout),
        )
        self._http = HTTPFileSystem(
            encoded=True, client_kwargs={"timeout": timeout}, loop=fs.loop, skip_instance_cache=True
        )
        self._taken = True
        self._proven = False
        """Whether one was answered ever."""
        self._failed = 0
        self._signed: dict[str, tuple[str, float]] = {}
        """By path: a URL, and when it was signed."""

    async def read(self, path: str, start: int, end: int) -> bytes:
        """The bytes [start, end) of an object, as `s3fs.S3FileSystem._cat_file` gives them, or its errors."""
        if not self._taken:
            return await self._unsigned(path, start, end)
        new = self._forget_old(path)
        try:
            found = bytes(await self._http._cat_file(await self._sign(path), start=start, end=end))
        except Exception as error:
            passing = _passing(error)
            if passing and self._proven:
                raise _nameless(error) from None
        else:
            self._proven = True
            return found
        self._signed.pop(path, None)
        found = await self._unsigned(path, start, end)
        # The object is there for us, but not for a new signature; or something on the way breaks all such connections.
        self._failed += 1
        if (new and not passing) or (not self._proven and self._failed >= _MOST_FAILED):
            self._taken = False
        return found

    async def _unsigned(self, path: str, start: int, end: int) -> bytes:
        return bytes(await self._fs._cat_file(path, start=start, end=end))

    def _forget_old(self, path: str) -> bool:
        """Whether a new signature is needed. Where credentials end sooner, one is refused, and the next one is new."""
        found = self._signed.get(path)
        if found is not None and time.monotonic() - found[1] > _VALID_S / 2:
            del self._signed[path]
        return path not in self._signed

    async def _sign(self, path: str) -> str:
        if path not in self._signed:
            url = await self._fs._url(path, expires=_VALID_S)
            if len(self._signed) >= _MOST_SIGNED:
                self._signed.clear()
            self._signed[path] = (url, time.monotonic())
        return self._signed[path][0]


def _passing(error: Exception) -> bool:
    """Whether it says nothing about signatures: connections that break, and servers that are busy."""
    # A certificate that only the client of S3 was told to trust.
    return is_transient(error) and not any(kind.__name__ == "ClientSSLError" for kind in type(error).__mro__)


def _nameless(error: Exception) -> Exception:
    """The error without the URL, which is as good as a password for as long as its signature is valid."""
    status = getattr(error, "status", None)
    return BusyError(status, getattr(error, "message", "")) if isinstance(status, int) else error
