"""The one hierarchy of errors that a user meets.

Every error says what is wrong, where, and what to do about it, on one line. The command line prints that line and exits
with `exit_code`: 2 when the user can mend it by typing something else, 1 when something failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ivr_dist.sanitize import hide_secrets, plain


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


class FaultsError(ConfigError):
    """Several faults that the user can mend at once; the only error of more than one line: a head, then a line each.

    Args:
        faults: At least two.
        where: The file that they are about; in their own places only its lines are told.
    """

    def __init__(self, faults: Sequence[UserError], where: str = "") -> None:
        super().__init__(f"{len(faults)} faults", where=where)
        self.faults = tuple(faults)

    def __str__(self) -> str:
        """Render all of them."""
        lines = [super().__str__()]
        for fault in self.faults:
            place = fault.where.replace(f"{self.where}:", "line ") if self.where else fault.where
            lines.append(f"  {_rebuild(type(fault), fault.what, place, fault.remedy)}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the single faults through pickle."""
        return (FaultsError, (self.faults, self.where))


def raise_together(faults: Sequence[UserError], where: str = "") -> None:
    """Raise what was found: nothing, the only fault as it is, or all of them as one `FaultsError`.

    Args:
        faults: Those that are themselves several are taken apart, and what is said twice is said once.
        where: The file that several of them are about; empty if there is none.
    """
    single = [each for fault in faults for each in (fault.faults if isinstance(fault, FaultsError) else (fault,))]
    different = list({str(fault): fault for fault in single}.values())
    if len(different) == 1:
        raise different[0]
    if different:
        raise FaultsError(different, where)


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
