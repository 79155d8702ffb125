"""Saving: all ranks together, from the running engine to a complete checkpoint in storage."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ivr_dist import collectives
from ivr_dist.attempts import Span
from ivr_dist.checkpoint import store
from ivr_dist.checkpoint.store import CheckpointName
from ivr_dist.engine import Engine
from ivr_dist.errors import CheckpointError, IvrError


class Saver:
    """Writes the checkpoints of one attempt.

    Args:
        run_url: The run's directory.
        attempt: The attempt's number, part of each checkpoint's name.
        spans: The run's lineage up to this attempt, for retention.
        keep_last: Newest complete checkpoints kept.
        engine: What is saved.
        files: What else every checkpoint holds, by name.
    """

    def __init__(
        self,
        run_url: str,
        attempt: int,
        spans: Sequence[Span],
        keep_last: int,
        engine: Engine,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        self._run_url = run_url
        self._attempt = attempt
        self._spans = spans
        self._keep_last = keep_last
        self._engine = engine
        self._files = dict(files or {})

    def name(self, step: int) -> CheckpointName:
        """The name of this attempt's checkpoint after `step` steps."""
        return CheckpointName(step, self._attempt)

    def save(self, step: int, state: dict[str, Any], best: str | None) -> CheckpointName:
        """Write and complete a checkpoint, then delete those that are not kept; a collective call.

        Args:
            step: Completed steps.
            state: What `state.json` holds besides the format; the same on every rank.
            best: Name of the checkpoint that retention must keep besides the newest.

        Raises:
            StorageError: A rank could not write; all ranks raise then.
        """
        name = self.name(step)
        with tempfile.TemporaryDirectory(prefix="ivr-checkpoint-") as scratch:
            collectives.raise_together(self._write(name, Path(scratch), state))
        if collectives.rank() == 0:
            store.retain(self._run_url, self._spans, newest=name, keep_last=self._keep_last, best=best)
        return name

    def _write(self, name: CheckpointName, staged: Path, state: dict[str, Any]) -> Exception | None:
        """Stage this rank's files and upload them; an error is returned, so that all ranks can agree on it."""
        try:
            self._engine.save(staged)
            weights = self._engine.full_weights()
            if collectives.rank() == 0:
                save_file(weights, str(staged / store.WEIGHTS))
                for file, content in self._files.items():
                    (staged / file).parent.mkdir(exist_ok=True)
                    (staged / file).write_bytes(content)
                (staged / store.STATE).write_text(json.dumps({"format": store.FORMAT, **state}, indent=1))
            store.write_part(name.url(self._run_url), collectives.rank(), collectives.world_size(), staged)
        except IvrError as error:
            return error
        except (OSError, RuntimeError) as error:
            return CheckpointError(
                f"checkpoint {name} could not be written: {str(error).splitlines()[0]}",
                where=str(staged),
                remedy="free space in the temporary directory (TMPDIR) and start the same command again",
            )
        return None
