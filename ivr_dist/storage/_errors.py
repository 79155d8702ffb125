"""Storage errors: classifies and explains errors of the system and of client libraries.

fsspec's clients raise their own exception classes and those of libraries that may not be installed, so classes are
recognized by name, error number and status code.
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
        "ResponseParserError",  # botocore: an overloaded server answers something other than XML
        "ResponseStreamingError",
    )
)


_ABSENT = frozenset(("404", "410", "NotFound", "NoSuchKey", "NoSuchVersion", "NoSuchUpload"))
"""Answers of HTTP and S3 that mean that a file does not exist, not that the look-up failed."""


class NotFoundError(StorageError):
    """The file does not exist."""


class NoBucketError(StorageError):
    """The bucket of a URL does not exist, or belongs to another account."""

    exit_code = 2


class UnknownSchemeError(StorageError):
    """A URL with an unknown scheme."""

    exit_code = 2


def cause_of_absence(error: BaseException) -> Exception | None:
    """Return the actual error behind a FileNotFoundError; None if the file is really absent.

    fsspec's HTTP client raises FileNotFoundError for every failed look-up, and that of S3 also if the bucket is absent.
    """
    if not isinstance(error, FileNotFoundError):
        return None
    cause = error.__cause__
    if isinstance(cause, FileNotFoundError):
        return cause_of_absence(cause)
    # For files in memory the cause is a missing key; and nothing exists below a file.
    expected = (LookupError, NotADirectoryError)
    if not isinstance(cause, Exception) or isinstance(cause, expected) or answer_code(cause) in _ABSENT:
        return None
    return cause


def is_transient(error: Exception) -> bool:
    """Whether a retry may help: timeouts, broken connections, busy or failing servers."""
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
    """Return the S3 error code or HTTP status of an exception or one of its causes; empty if there is none."""
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
    """Make the error for deleting a whole bucket, file system or home directory."""
    return StorageError(
        "will not delete a bucket, a file system, a home directory or a directory at the root of the machine",
        where=display(url),
        remedy="name a directory below it",
    )


def explain(verb: str, url: str, error: Exception, attempts: int) -> StorageError:
    """Convert an error of the system or of a client library to one that a user understands, on one line.

    Args:
        verb: The operation, such as "read".
        url: The file or directory.
        error: The error.
        attempts: Number of attempts.
    """
    where = display(url)
    error = cause_of_absence(error) or error
    code = answer_code(error)
    if code == "NoSuchBucket":
        remedy = "create it, or correct the URL; with another endpoint or account there are other buckets"
        bucket = where.partition("://")[2].partition("/")[0]
        return NoBucketError(f"there is no bucket {bucket}", where=where, remedy=remedy)
    number = getattr(error, "errno", None)
    # Without the path, which `where` shows as the user wrote it.
    reason = hide_secrets(getattr(error, "strerror", None) or describe(error))
    if isinstance(error, IsADirectoryError):
        return NotFoundError("it is a directory, not a file", where=where, remedy="check the path")
    if isinstance(error, FileNotFoundError) or code in ("404", "410"):
        return NotFoundError("no such file or directory", where=where, remedy="check the path")
    if number in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free some space there, or choose another disk"
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
