"""Asynchronous checkpoints: the loop stops for a copy to host memory, a thread writes the copy to storage.

Each rank writes its own part, and the last part makes the checkpoint complete: no rank waits for another (decision
012). The loop fetches errors of the thread, since an error raised on one rank alone would cause a deadlock.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ivr_dist.checkpoint import store
from ivr_dist.checkpoint.fragments import Fragment
from ivr_dist.checkpoint.state import CheckpointState
from ivr_dist.checkpoint.store import CheckpointName
from ivr_dist.checkpoint.tensors import describe_fragments, tensor_files
from ivr_dist.engine.deepspeed_engine import Engine
from ivr_dist.errors import CheckpointError, IvrError
from ivr_dist.run import attempts
from ivr_dist.run.attempts import Span
from ivr_dist.runtime import collectives, device

_POLL_S = 0.05


@dataclass(frozen=True)
class Saved:
    """A checkpoint that this rank has written; rank 0 reports it when all parts are present."""

    name: CheckpointName
    stall_s: float
    """Seconds that training was stalled for it."""
    seconds: float
    """Seconds until it was complete."""


class Checkpointer:
    """Writes the checkpoints of one attempt.

    Args:
        run_url: The run's directory.
        attempt: The attempt's number, part of each checkpoint's name.
        spans: The run's lineage up to this attempt, for retention.
        engine: Provides weights and optimizer state.
        keep_last: Newest complete checkpoints kept.
        keep_every: Checkpoints whose step is a multiple of it are kept too.
        files: Further files of every checkpoint, by name; rank 0 writes them.
        asynchronous: Whether training continues while a checkpoint is written.
        token: Identifies this attempt's checkpoints in their part manifests; equal on all ranks.
    """

    def __init__(
        self,
        run_url: str,
        attempt: int,
        spans: Sequence[Span],
        engine: Engine,
        *,
        keep_last: int,
        keep_every: int | None = None,
        files: Mapping[str, bytes] | None = None,
        asynchronous: bool = True,
        token: str = "",
    ) -> None:
        self._run_url = run_url
        self._attempt = attempt
        self._spans = spans
        self._engine = engine
        self._keep_last = keep_last
        self._keep_every = keep_every
        self._files = dict(files or {})
        self._asynchronous = asynchronous
        self._token = token
        self._copies: dict[tuple[str, str], Tensor] = {}
        self._thread: threading.Thread | None = None
        self._given_up = threading.Event()
        self._written = threading.Event()
        self._saved: list[Saved] = []
        self._error: IvrError | None = None

    def name(self, step: int) -> CheckpointName:
        """Return the name of this attempt's checkpoint after `step` steps."""
        return CheckpointName(step, self._attempt)

    def save(
        self, state: CheckpointState, best: str | None, first: Sequence[Callable[[], None]] = ()
    ) -> CheckpointName:
        """Copy the training state and write it in a thread; waits first for a checkpoint that is still being written.

        Args:
            state: Content of `state.json` without shapes; the same on every rank.
            best: Name of the checkpoint that retention must keep besides the newest.
            first: Called in the thread before this rank's part is written, to make the run's records durable.
        """
        started = time.monotonic()
        self._join()
        name = self.name(state.step)
        fragments = [self._copied(fragment) for fragment in self._engine.fragments()]
        device.finish_copies()
        files = {}
        if collectives.rank() == 0:
            content = replace(state, shapes=self._engine.shapes()).to_json()
            files = {**self._files, store.STATE: json.dumps(content, indent=1).encode()}
        self._given_up.clear()
        self._written.clear()
        part = _Part(name, collectives.rank(), collectives.world_size(), fragments, files, best)
        self._thread = threading.Thread(
            target=self._write, args=(part, list(first), started, time.monotonic()), name="ivr-checkpoint", daemon=True
        )
        self._thread.start()
        if not self._asynchronous:
            self._written.wait()
        return name

    def take_saved(self) -> list[Saved]:
        """Return and clear the checkpoints that have become complete."""
        saved, self._saved = self._saved, []
        return saved

    def take_error(self) -> IvrError | None:
        """Return and clear the error of this rank's thread."""
        error, self._error = self._error, None
        return error

    def give_up(self) -> None:
        """Stop waiting for the parts of other ranks, since one of them failed to write."""
        self._given_up.set()

    def finish(self) -> None:
        """Wait until the checkpoint being written is complete; a collective call.

        Raises:
            IvrError: A rank could not write; all ranks raise then.
        """
        if self._thread is not None:
            self._written.wait()
        try:
            collectives.raise_together(self.take_error())
        except IvrError:
            self.give_up()
            raise
        self._join()
        collectives.raise_together(self.take_error())

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _copied(self, fragment: Fragment) -> Fragment:
        """Copy a fragment to host memory, into buffers that are reused for the next checkpoint."""
        tensors = {}
        for state, tensor in fragment.tensors.items():
            key = (fragment.parameter, state)
            copy = self._copies.get(key)
            if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
                copy = self._copies[key] = device.host_buffer(tensor)
            copy.copy_(tensor, non_blocking=True)
            tensors[state] = copy
        return Fragment(fragment.parameter, fragment.offset, fragment.numel, tensors, fragment.scalars)

    def _write(self, part: _Part, first: Sequence[Callable[[], None]], started: float, copied: float) -> None:
        try:
            for make_durable in first:
                make_durable()
            attempts.check_newest(self._run_url, self._attempt)
            url = part.name.url(self._run_url)
            files = {**{name: [data] for name, data in part.files.items()}, **tensor_files(part.fragments, part.rank)}
            store.write_part(url, part.rank, part.world, files, describe_fragments(part.fragments), self._token)
            self._written.set()
            if part.rank == 0 and not self._completed(url, part.world):
                return
            stall = (time.monotonic() if not self._asynchronous else copied) - started
            self._saved.append(Saved(part.name, stall, time.monotonic() - started))
            if part.rank == 0:
                self._retain(part)
        except IvrError as error:
            self._error = error
        except Exception as error:  # any error must reach the other ranks
            self._error = CheckpointError(
                f"checkpoint {part.name} could not be written: {type(error).__name__}: {error}",
                where=self._run_url,
                remedy="start the same command again",
            )
        finally:
            self._written.set()

    def _completed(self, url: str, world: int) -> bool:
        """Wait for the parts of the other ranks."""
        while not store.is_whole(url, world):
            if self._given_up.wait(_POLL_S):
                return False
        return True

    def _retain(self, part: _Part) -> None:
        # A worker of an abandoned attempt must not delete checkpoints that a newer attempt may continue.
        attempts.check_newest(self._run_url, self._attempt)
        store.retain(
            self._run_url,
            self._spans,
            newest=part.name,
            keep_last=self._keep_last,
            best=part.best,
            keep_every=self._keep_every,
        )


@dataclass(frozen=True)
class _Part:
    """One rank's part of a checkpoint."""

    name: CheckpointName
    rank: int
    world: int
    fragments: Sequence[Fragment]
    files: Mapping[str, bytes]
    best: str | None
