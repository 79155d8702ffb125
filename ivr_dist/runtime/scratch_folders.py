"""Temporary directories on the local machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ivr_dist.errors import UserError

# The path of a socket has at most 107 bytes. Below its directory Ray creates
# session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store, and longer names for its agents.
_SOCKET_BYTES = 107
_RAY_BYTES = len("/session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store") + 4


def ray_folder() -> str:
    """Create a directory for the sockets and logs of a Ray cluster, accessible to its owner only.

    It is created in `TMPDIR`, or in /tmp if that path is too long for sockets.

    Raises:
        UserError: No directory is writable and short enough.
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
    # mkdtemp adds eight letters. Ray gets a directory below, since it makes its own accessible to all users.
    return len(os.fsencode(str(Path(parent) / "ivr-ray-12345678" / "ray"))) + _RAY_BYTES <= _SOCKET_BYTES
