"""TensorBoard event files, written locally and mirrored to the run's storage.

Writing events straight to an object store uploads the whole file at every flush of every writer, in the training loop's
time. Here the writer sees a local directory; for a remote run a thread copies changed files to RUN/tensorboard.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from ivr_dist import storage
from ivr_dist.errors import StorageError

FOLDER = "tensorboard"
_MIRROR_PERIOD_S = 15.0


class TensorBoard:
    """Scalars of one attempt.

    Args:
        run_url: The run's directory.
        first_step: The first step this attempt will write; points that an earlier attempt wrote from there on are
            superseded and not shown any more.
    """

    def __init__(self, run_url: str, first_step: int) -> None:
        self._target = storage.join(run_url, FOLDER)
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        if storage.is_local(run_url):
            local = storage.local_path(self._target)
        else:
            self._scratch = tempfile.TemporaryDirectory(prefix="ivr-tensorboard-")
            local = self._scratch.name
        self._local = Path(local)
        self._writer = SummaryWriter(local, purge_step=first_step, flush_secs=5)
        self._sent: dict[Path, int] = {}
        self._closed = threading.Event()
        self._error: StorageError | None = None
        self._thread = threading.Thread(target=self._mirror_loop, name="ivr-tensorboard", daemon=True)
        if self._scratch is not None:
            self._thread.start()

    def scalars(self, values: Mapping[str, float | None], step: int) -> None:
        """Add one point to each named curve; None means no value."""
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def text(self, name: str, text: str, step: int) -> None:
        """Add a text at a step."""
        self._writer.add_text(name, text, step)

    def close(self) -> None:
        """Write everything out; for a remote run, raises the StorageError that mirroring met last."""
        self._writer.close()
        if self._scratch is None:
            return
        self._closed.set()
        self._thread.join()
        self._mirror()
        self._scratch.cleanup()
        if self._error is not None:
            raise self._error

    def _mirror_loop(self) -> None:
        while not self._closed.wait(_MIRROR_PERIOD_S):
            self._writer.flush()
            self._mirror()

    def _mirror(self) -> None:
        self._error = None
        for path in sorted(p for p in self._local.rglob("*") if p.is_file()):
            size = path.stat().st_size
            if self._sent.get(path) != size:
                try:
                    storage.upload(str(path), storage.join(self._target, path.name))
                    self._sent[path] = size
                except StorageError as error:
                    # Curves are not worth a run; the next round tries again, and close() reports what is left.
                    self._error = error
