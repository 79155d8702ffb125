"""The one hierarchy of errors that a user meets.

Every error says what is wrong, where, and what to do about it, on one line. The command line prints that line and exits
with `exit_code`: 2 when the user can mend it by typing something else, 1 when something failed.
"""

from __future__ import annotations

import re
from typing import Any

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"<>]+")
_CLOSING = ".,;:?)]}'"
_PORT = re.compile(r"[^@]*:\d*|[^:]*")


def hide_secrets(text: str) -> str:
    """Text in which URLs have neither a password nor the query that signs a request; nothing else is changed."""
    return _URL.sub(_without_secrets, text) if "://" in text else text


def _without_secrets(match: re.Match[str]) -> str:
    found = match[0].rstrip(_CLOSING)
    closing = match[0][len(found) :]
    scheme, _, rest = found.partition("://")
    if scheme.lower() in ("file", "local"):
        return match[0]
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    # A password may hold a slash that should have been written as %2F.
    if "@" in host or ("@" in rest and not _PORT.fullmatch(host)):
        rest = "***@" + (rest[len(host.rpartition("@")[0]) + 1 :] if "@" in host else rest.rpartition("@")[2])
    rest = rest.partition("?")[0]
    return f"{scheme}://{rest.partition('#')[0] if scheme.lower() in ('http', 'https') else rest}{closing}"


class IvrError(Exception):
    """A failure that is explained to the user instead of shown as a traceback.

    Args:
        what: The fault, as a sentence without its full stop.
        where: The file, key, shard or checkpoint it is about; empty when `what` names it.
        remedy: What the user can do now, as an imperative without its full stop.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        """Render the one line: `what (where): remedy`, always without line breaks and without secrets in URLs."""
        text = f"{self.what} ({self.where})" if self.where else self.what
        text = f"{text}; {self.remedy}" if self.remedy else text
        return " ".join(hide_secrets(text).split())

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep keyword arguments through pickle: errors travel from Ray workers to the driver."""
        return (_rebuild, (type(self), self.what, self.where, self.remedy))


def _rebuild(kind: type[IvrError], what: str, where: str, remedy: str) -> IvrError:
    return kind(what, where=where, remedy=remedy)


class UserError(IvrError):
    """The command, the config or the input cannot work as given; nothing was started."""

    exit_code = 2


class ConfigError(UserError):
    """A key or value of the config is wrong, or two of them contradict each other."""


class DataError(UserError):
    """The data a run was pointed at is missing, empty or does not fit the config."""


class CorruptDataError(IvrError):
    """Bytes that were read do not match their index, checksum or declared layout."""


class StorageError(IvrError):
    """Storage failed: full, unreachable, or refused the operation."""


class CheckpointError(IvrError):
    """A checkpoint cannot be written or read."""


class SupersededError(IvrError):
    """Another attempt of the same run has begun: this one must not write any more."""


class CheckpointMismatchError(UserError):
    """A checkpoint is sound but belongs to another model, data set or layout."""


class DivergedError(IvrError):
    """Loss or gradient is no longer a finite number."""


class WorkerError(IvrError):
    """A worker failed for a reason of its own (out of memory, a bug, a lost machine)."""
