"""Folders for what must lie on this machine for a while."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ivr_dist.errors import UserError

# A socket's path has at most 107 bytes. Below the folder that Ray is given it makes
# session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store, and longer names for its agents.
_SOCKET_BYTES = 107
_RAY_BYTES = len("/session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store") + 4


def ray_folder() -> str:
    """A new folder for the sockets and logs of a Ray cluster, which its owner alone may enter.

    It lies in `TMPDIR`, or in /tmp where that is too long for sockets.

    Raises:
        UserError: There is no folder that will do.
    """
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        if _fits(parent) and os.access(parent, os.W_OK | os.X_OK):
            return tempfile.mkdtemp(prefix="ivr-ray-", dir=parent)
    raise UserError(
        f"the path of the folder for temporary files is too long: those of Ray's sockets have {_SOCKET_BYTES} bytes",
        where=f"TMPDIR={tempfile.gettempdir()}",
        remedy="set TMPDIR to a shorter path",
    )


def _fits(parent: str) -> bool:
    # mkdtemp adds eight letters, and Ray gets a folder below, which it opens to everybody.
    return len(os.fsencode(str(Path(parent) / "ivr-ray-12345678" / "ray"))) + _RAY_BYTES <= _SOCKET_BYTES
