"""The exception hierarchy. Every error that a user is meant to see is an `IvrError`; indentation means inheritance.

    Exception
      IvrError                      something failed; exit code 1
        UserError                   the command, config or input cannot work as given, nothing was started; exit code 2
          ConfigError               a key or value of the config is wrong, or two keys contradict each other
            FaultsError             several errors that can be corrected at once, one line each
          DataError                 the data set is missing or empty, or does not fit the config or the model
          CheckpointMismatchError   an intact checkpoint of another model, data set or layout; a run of another config
        CorruptDataError            bytes that were read do not match their index, checksum or declared layout
        StorageError                storage is full or unreachable, or refused the operation, after all retries
          NotFoundError and others  see `ivr_dist.storage`
        CheckpointError             a checkpoint cannot be written or read, or is not complete
        SupersededError             a newer attempt or another driver has taken over the run
        DivergedError               the loss or gradient is not a finite number, or loss spikes repeat
        WorkerError                 a worker process failed: out of memory, a bug, a lost machine

Each message says what is wrong, where, and what to do about it: `what (where); remedy`. The command line prints that
line and exits with `exit_code`. `WorkerError` is the only one that a retry may cure: the driver restarts the workers
for it, and ends the run for all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ivr_dist.sanitize import hide_secrets, plain


class IvrError(Exception):
    """An error that is explained to the user in one line instead of shown as a traceback.

    Args:
        what: The problem, as a sentence without its full stop.
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
    """The command, the config or the input cannot work as given; raised before anything is started."""

    exit_code = 2


class ConfigError(UserError):
    """A key or value of the config is wrong, or two of them contradict each other."""


class FaultsError(ConfigError):
    """Several errors that the user can correct at once; the only error of more than one line: a head, then one each.

    Args:
        faults: The single errors, at least two.
        where: The file that they are about; it is left out of their own `where`, which then names a line of it.
    """

    def __init__(self, faults: Sequence[UserError], where: str = "") -> None:
        super().__init__(f"{len(faults)} faults", where=where)
        self.faults = tuple(faults)

    def __str__(self) -> str:
        """Render the head and one line for each error."""
        lines = [super().__str__()]
        for fault in self.faults:
            where = fault.where.replace(f"{self.where}:", "line ") if self.where else fault.where
            lines.append(f"  {_rebuild(type(fault), fault.what, where, fault.remedy)}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the single errors through pickle."""
        return (FaultsError, (self.faults, self.where))


def raise_together(faults: Sequence[UserError], where: str = "") -> None:
    """Raise the errors that were collected: one as it is, several as a `FaultsError`; without any, return.

    Args:
        faults: The errors; a `FaultsError` among them is flattened, and of equal ones only the first is kept.
        where: The file that they are about; empty if there is none.
    """
    single = [each for fault in faults for each in (fault.faults if isinstance(fault, FaultsError) else (fault,))]
    different = list({str(fault): fault for fault in single}.values())
    if len(different) == 1:
        raise different[0]
    if different:
        raise FaultsError(different, where)


class DataError(UserError):
    """The data set is missing or empty, or does not fit the config or the model."""


class CorruptDataError(IvrError):
    """Bytes that were read do not match their index, checksum or declared layout."""


class StorageError(IvrError):
    """Storage is full or unreachable, or refused the operation; raised after all retries."""


class CheckpointError(IvrError):
    """A checkpoint cannot be written or read, or is not complete."""


class SupersededError(IvrError):
    """A newer attempt or another driver has taken over the run; this one must not write any more."""


class CheckpointMismatchError(UserError):
    """A checkpoint is intact but belongs to another model, data set or layout; or a run to another config."""


class DivergedError(IvrError):
    """The loss or gradient is no longer a finite number, or loss spikes repeat."""


class WorkerError(IvrError):
    """A worker process failed: out of memory, a bug, a lost machine. A retry may succeed."""
