"""Errors of the user's own code, told apart from those of the environment that a retry may cure."""

from __future__ import annotations

from collections.abc import Iterator

from ivr_dist.common.library_errors import explained
from ivr_dist.errors import IvrError, WorkerError

OWN_ERRORS = (Exception, SystemExit)
"""What the user's own code may raise: a call of `sys.exit` in it must not end the command as if it had succeeded."""

_COMMUNICATION = ("torch.distributed", "deepspeed.comm")
"""Packages that raise where another process is lost."""


def is_own_error(error: BaseException) -> bool:
    """Whether the user's own code raised an error, which would then recur on another attempt.

    It did not if the error is explained already, was raised by communication with a worker that is lost, or comes from
    memory or the device.
    """
    if isinstance(error, IvrError) or isinstance(explained(error), WorkerError) or "CUDA" in str(error):
        return False
    return not any(f"{module}.".startswith(f"{name}.") for module in _raised_in(error) for name in _COMMUNICATION)


def _raised_in(error: BaseException) -> Iterator[str]:
    """Modules of the frames that an error passed."""
    frame = error.__traceback__
    while frame is not None:
        yield str(frame.tb_frame.f_globals.get("__name__", ""))
        frame = frame.tb_next
