"""The one hierarchy of errors that a user meets.

Every error says what is wrong, where, and what to do about it, on one line. The command line prints that line and exits
with `exit_code`: 2 when the user can mend it by typing something else, 1 when something failed.
"""

from __future__ import annotations

from typing import Any

from ivr_dist.plain import hide_secrets, plain


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
        """Render the one line: `what (where); remedy`, without secrets, line breaks or invisible characters."""
        text = f"{self.what} ({self.where})" if self.where else self.what
        text = f"{text}; {self.remedy}" if self.remedy else text
        return plain(" ".join(hide_secrets(text).split()))

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
