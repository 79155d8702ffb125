"""Finds the processes of a run on this machine by their role."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ivr_dist.orchestration.supervisor import MARK

KINDS = {
    "worker": "ray::RayTrainWorker",
    "controller": "ray::TrainController",
    "channel": "ray::_Channel",
    "raylet": "/raylet/raylet",
    "gcs": "/gcs/gcs_server",
    "session": "ivr_dist.orchestration.ray_process",
}
"""Words of each kind's command line; the driver is the command itself."""


def of_command(command: int) -> dict[str, list[int]]:
    """Process ids by kind, `driver` among them, and `other` for the rest of Ray's."""
    marks = {_mark(pid) for pid in _children(command)} - {""}
    found: dict[str, list[int]] = {kind: [] for kind in KINDS} | {"driver": [command], "other": []}
    for pid in _all():
        if _mark(pid) in marks:
            line = _command_line(pid)
            found[next((kind for kind, words in KINDS.items() if words in line), "other")].append(pid)
    return found


def left_over(run: Path) -> list[str]:
    """Command lines of processes of any session that trains a run: those that were started with its folder in sight."""
    return [
        f"{pid} {_command_line(pid)[:90]}" for pid in _all() if _mark(pid) and _environment(pid).get("RUN") == str(run)
    ]


def descriptors(pid: int) -> int:
    """Open files."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    """Threads."""
    return len(os.listdir(f"/proc/{pid}/task"))


def memory(pid: int) -> int:
    """Bytes of memory, shared pages by their share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _all() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def _children(pid: int) -> list[int]:
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _environment(pid: int) -> dict[str, str]:
    with suppress(OSError):
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        return {name: value for name, _, value in (entry.partition("=") for entry in entries)}
    return {}


def _mark(pid: int) -> str:
    return _environment(pid).get(MARK, "")


def _command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
