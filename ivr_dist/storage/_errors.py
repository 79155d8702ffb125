"""What went wrong: errors of the system and of client libraries, told apart and explained.

fsspec's clients raise classes of their own and of libraries that need not be installed, so that they are known here by
their names, error numbers and answer codes.
"""

from __future__ import annotations

import errno

from ivr_dist.common.library_errors import describe, remedy_for
from ivr_dist.errors import StorageError
from ivr_dist.sanitize import hide_secrets
from ivr_dist.storage._paths import display, is_local

_TRANSIENT_ERRNOS = frozenset(
    (
        errno.EAGAIN,
        errno.EBUSY,
        errno.EHOSTUNREACH,
        errno.EINTR,
        errno.EIO,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENETUNREACH,
        errno.EREMOTEIO,
        errno.ETIMEDOUT,
    )
)
_TRANSIENT_CLASSES = frozenset(
    (
        "ClientConnectionError",  # aiohttp: refused, cut, or no such host
        "ClientPayloadError",  # aiohttp: body cut
        "ConnectTimeoutError",  # botocore
        "EndpointConnectionError",  # botocore: refused, or no such host
        "HTTPClientError",  # botocore: cut or timed out
        "IncompleteRead",
        "IncompleteReadError",
        "ResponseParserError",  # botocore: an overloaded server answers something that is no XML
        "ResponseStreamingError",
    )
)


_ABSENT = frozenset(("404", "410", "NotFound", "NoSuchKey", "NoSuchVersion", "NoSuchUpload"))
"""Answers of HTTP and S3 that mean that there is no such file, and not that it could not be looked for."""


class NotFoundError(StorageError):
    """The file asked for does not exist."""


class NoBucketError(StorageError):
    """The bucket that a URL names does not exist, or is not one of this account."""

    exit_code = 2


class UnknownSchemeError(StorageError):
    """A URL that no storage answers to."""

    exit_code = 2


def cause_of_absence(error: BaseException) -> Exception | None:
    """What is behind an error that says that a file is absent, if that is something else than its absence.

    fsspec's HTTP client says so whatever a look-up failed for; that of S3 also where there is no such bucket.
    """
    if not isinstance(error, FileNotFoundError):
        return None
    cause = error.__cause__
    if isinstance(cause, FileNotFoundError):
        return cause_of_absence(cause)
    # Of files in memory it is a key that is missing; and below a file there is nothing.
    known = (LookupError, NotADirectoryError)
    if not isinstance(cause, Exception) or isinstance(cause, known) or answer_code(cause) in _ABSENT:
        return None
    return cause


def is_transient(error: Exception) -> bool:
    """Whether trying again may help: timeouts, cut connections, busy or failing servers."""
    error = cause_of_absence(error) or error
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status in (408, 429) or status >= 500
    if isinstance(error, (TimeoutError, ConnectionError)):
        return True
    if isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS:
        return True
    return any(kind.__name__ in _TRANSIENT_CLASSES for kind in type(error).__mro__)


def answer_code(error: BaseException | None) -> str:
    """The S3 error code, or HTTP status, that an exception or one of its causes carries; empty if none does."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        status = getattr(error, "status", None)
        if isinstance(status, int):
            return str(status)
        error = error.__cause__
    return ""


def refuse_root(url: str) -> StorageError:
    """The error for deleting far more than anyone can mean."""
    return StorageError(
        "will not delete a bucket, a file system, a home directory or a directory at the root of the machine",
        where=display(url),
        remedy="name a directory further down",
    )


def explain(verb: str, url: str, error: Exception, attempts: int) -> StorageError:
    """Say on one line what `error` means for someone who wanted to `verb` the place `url`.

    Args:
        verb: What was being done, such as "read".
        url: The file or directory.
        error: What the system or the client library raised.
        attempts: How often it was tried.
    """
    where = display(url)
    error = cause_of_absence(error) or error
    code = answer_code(error)
    if code == "NoSuchBucket":
        remedy = "create it, or correct the URL; with another endpoint or account there are other buckets"
        bucket = where.partition("://")[2].partition("/")[0]
        return NoBucketError(f"there is no bucket {bucket}", where=where, remedy=remedy)
    number = getattr(error, "errno", None)
    # The place is told once, by the name that the user gave it.
    reason = hide_secrets(getattr(error, "strerror", None) or describe(error))
    if isinstance(error, IsADirectoryError):
        return NotFoundError("it is a directory, not a file", where=where, remedy="check the path")
    if isinstance(error, FileNotFoundError) or code in ("404", "410"):
        return NotFoundError("no such file or directory", where=where, remedy="check the path")
    if number in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free some space there, or choose another place"
        return StorageError(f"no space left on the disk: cannot {verb}", where=where, remedy=remedy)
    status = getattr(error, "status", None)
    if isinstance(error, PermissionError) or status in (401, 403) or "Credentials" in type(error).__name__:
        remedy = "check its owner and mode" if is_local(url) else "check the credentials and their rights"
        return StorageError(f"not allowed to {verb}: {reason}", where=where, remedy=remedy)
    if isinstance(error, ImportError):
        return StorageError(f"cannot {verb}: {reason}", where=where, remedy="install the package for this kind of URL")
    if attempts > 1:
        remedy = f"check the endpoint and the network; {attempts} attempts failed"
        return StorageError(f"cannot {verb}: {reason}", where=where, remedy=remedy)
    return StorageError(f"cannot {verb}: {reason}", where=where, remedy=remedy_for(error) or "check the path")
