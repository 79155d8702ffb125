"""Look up the splits of the run that wrote a checkpoint."""

from __future__ import annotations

from ivr_dist import storage
from ivr_dist.checkpoint.store import read_state
from ivr_dist.checkpoint.weights import stored_config
from ivr_dist.config.corpora import SplitKey, split_urls
from ivr_dist.errors import DataError
from ivr_dist.shards.manifest import Manifest


def own_splits(checkpoint: str, split: str, corpus: str = "") -> dict[str, str]:
    """Return the paths or URLs of one split of the run that wrote a checkpoint, by corpus.

    Args:
        checkpoint: The checkpoint's directory or URL.
        split: `train`, `valid` or `test`.
        corpus: The corpus; empty: all that have the split.

    Returns:
        By name of the corpus; of a run on one corpus the name is empty.

    Raises:
        CheckpointError: There is no such checkpoint.
        DataError: The run had no such split, or its data has changed since (by the manifest's id).
    """
    state = read_state(checkpoint)
    urls = {SplitKey.parse(key): url for key, url in split_urls(stored_config(state, checkpoint)).items()}
    found = {key.corpus: url for key, url in urls.items() if key.split == split and corpus in ("", key.corpus)}
    if not found:
        of_corpus = f" of {corpus}" if corpus else ""
        raise DataError(
            f"the run had no {split} split{of_corpus}",
            where=checkpoint,
            remedy="give one with --shards, or another --split",
        )
    for name, url in found.items():
        key = str(SplitKey(name, split))
        # Checkpoints of older versions have no manifest ids.
        if state.manifests.get(key, "") not in ("", Manifest.load(url).id):
            raise DataError(
                f"the {key} split is not that of the run: its manifest differs",
                where=storage.display(url),
                remedy=f"to score it anyway, give it explicitly: --shards {url}",
            )
    return found
