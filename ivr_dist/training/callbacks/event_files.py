"""TensorBoard event files, written by a thread and mirrored to remote storage.

A full, slow or missing disk never stops training: events that cannot be written are buffered in memory, up to a limit,
and written once there is room again.
"""

from __future__ import annotations

import errno
import os
import socket
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO, FileIO
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from ivr_dist import storage
from ivr_dist.common.library_errors import describe
from ivr_dist.errors import IvrError
from ivr_dist.run.paths import RunPaths
from ivr_dist.sanitize import plain, plain_lines

_FLUSH_PERIOD_S = 5.0
_MIRROR_PERIOD_S = 15.0
_WAITING_BYTES = 16 << 20
"""Size limit of the buffer for a full disk; the oldest points are dropped first."""
_CLOSE_S = 30.0
"""Longest wait for an unresponsive disk at the end of an attempt."""


class TensorBoard:
    """Scalars of one attempt.

    Args:
        run_url: The run's directory.
        first_step: The first step this attempt will write; points that an earlier attempt wrote from there on are
            superseded and not shown any more.
        note: Called once when points cannot be written, and again if some were lost.
    """

    def __init__(self, run_url: str, first_step: int, note: Callable[[str], None]) -> None:
        self._target = RunPaths(run_url).tensorboard
        self._remote = not storage.is_local(run_url)
        self._note = note
        self._noted = False
        now = time.time()
        start = SessionLog(status=SessionLog.START)
        head = (
            Event(wall_time=now, file_version="brain.Event:2"),
            Event(wall_time=now, step=first_step, session_log=start),
        )
        self._file = _EventFile(None if self._remote else Path(storage.local_path(self._target)), head)
        self._sent = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ivr-tensorboard", daemon=True)
        self._thread.start()

    def scalars(self, values: Mapping[str, float | None], step: int) -> None:
        """Add one point to each named curve; None means no value. Never fails, and never waits for a disk."""
        points = [
            Summary.Value(tag=plain(name), simple_value=float(value))
            for name, value in values.items()
            if value is not None
        ]
        if points:
            self._file.add(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))

    def text(self, name: str, text: str, step: int) -> None:
        """Add a text, in Markdown, at a step."""
        from torch.utils.tensorboard.summary import text as summary

        value = summary(plain(name), plain_lines(text))  # type: ignore[no-untyped-call]
        self._file.add(Event(wall_time=time.time(), step=step, summary=value))

    def close(self) -> None:
        """Flush and close, once; gives up on an unresponsive disk."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join(_CLOSE_S)
        unsent = self._remote and self._sent < self._file.size
        if self._thread.is_alive() or self._file.lost or self._file.waiting or unsent:
            self._note(f"some points of TensorBoard's curves could not be written to {storage.display(self._target)}")
        if not self._thread.is_alive():
            self._file.close()

    def _run(self) -> None:
        mirrored = time.monotonic()
        while True:
            last = self._closed.wait(_FLUSH_PERIOD_S)
            self._try(self._file.flush)
            if self._remote and (last or time.monotonic() - mirrored >= _MIRROR_PERIOD_S):
                self._try(self._mirror)
                mirrored = time.monotonic()
            if last:
                return

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (OSError, IvrError) as error:
            if not self._noted:
                self._noted = True
                self._note(f"TensorBoard's curves cannot be written now, training continues: {describe(error)}")

    def _mirror(self) -> None:
        path, size = self._file.path, self._file.size
        if path is not None and size != self._sent:
            storage.upload(str(path), storage.join(self._target, path.name))
            self._sent = size


class _EventFile:
    """One event file; `add` and `flush` may run in different threads.

    Args:
        folder: Where it is created, at the first flush; None for a temporary folder.
        head: The events that it begins with.
    """

    def __init__(self, folder: Path | None, head: Sequence[Event]) -> None:
        self._folder = folder
        self._head = b"".join(map(_record, head))
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()
        self._records: deque[bytes] = deque()
        self._bytes = 0
        self.path: Path | None = None
        """The file, once it exists."""
        self.size = 0
        """Bytes of whole records in it."""
        self.lost = 0
        """Number of events dropped."""

    @property
    def waiting(self) -> int:
        """Events that are not written yet."""
        return len(self._records)

    def add(self, event: Event) -> None:
        """Buffer an event until the next flush."""
        record = _record(event)
        with self._lock:
            self._records.append(record)
            self._bytes += len(record)
            while self._bytes > _WAITING_BYTES:
                self._bytes -= len(self._records.popleft())
                self.lost += 1

    def flush(self) -> None:
        """Write the buffered records; a record that did not fit is not written in part.

        Raises:
            OSError: Some could not be written; they are written at the next flush.
        """
        with self._lock:
            records = list(self._records)
        if not records:
            return
        try:
            self.path = self.path or self._create()
            with open(self.path, "r+b", buffering=0) as file:
                if self.size == 0:
                    self._append(file, [self._head])
                written = self._append(file, records)
        except FileNotFoundError:
            # The file was deleted: the next flush begins another one.
            self.path, self.size = None, 0
            raise
        with self._lock:
            # `add` may have dropped the oldest meanwhile.
            for record in records[:written]:
                if self._records and self._records[0] is record:
                    self._bytes -= len(self._records.popleft())
        if written < len(records):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def close(self) -> None:
        """Delete the temporary folder, if there is one."""
        if self._scratch is not None:
            self._scratch.cleanup()

    def _append(self, file: FileIO, records: Sequence[bytes]) -> int:
        """Write as many records as fit, and return their number; raises OSError if none fits."""
        data, done, whole = b"".join(records), 0, 0
        file.seek(self.size)
        try:
            while done < len(data):
                done += file.write(data[done:])
        except OSError:
            if done < len(records[0]):
                raise
        finally:
            for record in records:
                if done < len(record):
                    break
                done, whole, self.size = done - len(record), whole + 1, self.size + len(record)
            file.truncate(self.size)
        return whole

    def _create(self) -> Path:
        if self._folder is None:
            self._scratch = self._scratch or tempfile.TemporaryDirectory(prefix="ivr-tensorboard-")
            folder = Path(self._scratch.name)
        else:
            folder = self._folder
            folder.mkdir(parents=True, exist_ok=True)
        name = (
            f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        )
        path = folder / name
        path.touch(exist_ok=False)
        return path


def _record(event: Event) -> bytes:
    """Serialize an event as TensorBoard stores it, with length and checksums."""
    buffer = BytesIO()
    RecordWriter(buffer).write(event.SerializeToString())
    return buffer.getvalue()
