"""Disks of a few kilobytes or megabytes that can be filled; only root can mount them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(size: str, place: Path) -> Iterator[Path]:
    """Mount a disk at a folder, which is made; the test skips itself where that is not allowed.

    Args:
        size: As `mount` takes it, such as 4k or 2m.
        place: The folder.
    """
    place.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
