"""Look up the splits of the run that wrote a checkpoint."""

from __future__ import annotations

from ivr_dist import storage
from ivr_dist.checkpoint.store import read_state
from ivr_dist.checkpoint.weights import stored_config
from ivr_dist.errors import DataError
from ivr_dist.shards.manifest import Manifest


def own_split(checkpoint: str, split: str) -> str:
    """Return the path or URL of a split of the run that wrote a checkpoint.

    Args:
        checkpoint: The checkpoint's directory or URL.
        split: `train`, `valid` or `test`.

    Raises:
        CheckpointError: There is no such checkpoint.
        DataError: The run had no such split, or its data has changed since (by the manifest's id).
    """
    state = read_state(checkpoint)
    data = stored_config(state, checkpoint).data
    url = {"train": data.train, "valid": data.valid, "test": data.test}.get(split, "")
    if not url:
        raise DataError(
            f"the run had no {split} split", where=checkpoint, remedy="give one with --shards, or another --split"
        )
    # Checkpoints of older versions have no manifest ids.
    if state.manifests.get(split, "") not in ("", Manifest.load(url).id):
        raise DataError(
            f"the {split} split is not that of the run: its manifest differs",
            where=storage.display(url),
            remedy=f"to score it anyway, give it explicitly: --shards {url}",
        )
    return url
