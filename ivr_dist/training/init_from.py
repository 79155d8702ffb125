"""Starts a new run from the weights of a checkpoint (`train.init_from`): what is taken, and how inputs are scaled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ivr_dist import storage
from ivr_dist.checkpoint import store, weights
from ivr_dist.checkpoint.part_manifest import part_name
from ivr_dist.checkpoint.state import CheckpointState
from ivr_dist.checkpoint.tensors import open_tensors
from ivr_dist.checkpoint.transfer import ModelInputsAndHeads, Transfer, match_tensors
from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.data.batches.pool_spec import PoolSpec, Scaling
from ivr_dist.data.pool_cursor import PoolCursor
from ivr_dist.errors import ConfigError
from ivr_dist.inference.load import resolve_checkpoint
from ivr_dist.planning.pool_layout import PoolLayout


@dataclass(frozen=True)
class InitialWeights:
    """The checkpoint that a run starts from."""

    url: str
    state: CheckpointState
    sha256: str
    """Identity of the checkpoint: checksum of its part manifests."""

    @classmethod
    def open(cls, path: str) -> InitialWeights:
        """Find and verify the checkpoint of a path to a checkpoint or a run.

        Raises:
            UserError: There is none.
            CheckpointError: It is not complete, or damaged.
        """
        url = resolve_checkpoint(path)
        state = store.verify(url)
        digest = hashlib.sha256()
        for number in range(len(store.parts(url))):
            digest.update(storage.read_bytes(storage.join(url, part_name(number))))
        return cls(url, state, digest.hexdigest())

    def load(self, model: nn.Module, layout: PoolLayout, *, new_heads: bool) -> Transfer:
        """Load the weights that fit into a model; see `checkpoint.transfer`.

        Args:
            model: The unpartitioned model, changed in place.
            layout: Its inputs and heads.
            new_heads: Whether all heads keep their fresh weights.

        Raises:
            CheckpointMismatchError: The checkpoint is of a model with other encoders or another fusion.
        """
        own = weights.model_tensors(model)
        with open_tensors(self.url, self.state) as tensors:
            transfer = match_tensors(
                {name: list(tensor.shape) for name, tensor in own.items()},
                ModelInputsAndHeads({m: list(sets) for m, sets in layout.sets.items()}, layout.heads),
                {name: list(shape) for name, shape in tensors.shapes.items()},
                ModelInputsAndHeads(_stored_sets(self.state), self.state.tasks),
                new_heads=new_heads,
                where=self.url,
            )
            with torch.no_grad():
                for name, source in transfer.taken.items():
                    own[name].copy_(tensors.weight(source))
        return transfer

    def first_uses(self, layout: PoolLayout, manifests: Mapping[str, str]) -> dict[str, int]:
        """Uses by corpus that the checkpoint knows, whose passes a new run goes on with.

        Args:
            layout: The corpora of the run.
            manifests: Manifest ids of its splits, by the text of their `SplitKey`.
        """
        cursor = self.state.cursor
        if not isinstance(cursor, PoolCursor):
            raise ConfigError(
                "data.mix.uses_from needs a checkpoint of several corpora",
                where="data.mix.uses_from",
                remedy="leave it unset: a run from a checkpoint of one corpus begins its passes",
            )
        return {
            name: cursor.uses[name]
            for name, identity in cursor.corpora.items()
            if manifests.get(f"{name}/train") == identity.manifest_id
            and any(corpus.name == name for corpus in layout.corpora)
        }

    def record(self, transfer: Transfer, statistics: str) -> dict[str, Any]:
        """Return what `run.json` keeps of it."""
        return {
            "checkpoint": storage.display(self.url),
            "sha256": self.sha256,
            **transfer.to_json(),
            "statistics": statistics,
        }


def _stored_sets(state: CheckpointState) -> dict[str, list[str]]:
    """Feature sets by modality; of a checkpoint that does not name its only set, an empty name."""
    if state.pool is not None:
        return {modality: list(sets) for modality, sets in state.pool.sets.items()}
    return {modality: [state.sets.get(modality, "")] for modality in state.features}


def kept_statistics(
    spec: BatchSpec | PoolSpec, layout: PoolLayout, state: CheckpointState
) -> tuple[BatchSpec | PoolSpec, str]:
    """Standardize inputs by the statistics of a checkpoint, whose weights were trained on inputs scaled by them.

    A corpus takes those of its namesake, else those of its feature set if the checkpoint has only one for it; otherwise
    it keeps its own.

    Args:
        spec: Contents of the run's batches.
        layout: Its corpora.
        state: The checkpoint.

    Returns:
        The contents, and what was chosen, in words.
    """
    stored = weights.batch_spec(state)
    by_corpus: dict[str, Mapping[str, Scaling]] = {}
    by_set: dict[tuple[str, str], list[Scaling]] = {}
    if isinstance(stored, PoolSpec):
        for corpus in stored.layout.corpora:
            by_corpus[corpus.name] = stored.statistics.get(corpus.name, {})
            for modality, scaling in by_corpus[corpus.name].items():
                by_set.setdefault((modality, corpus.sets[modality]), []).append(scaling)
    else:
        for modality, scaling in stored.statistics.items():
            by_set[modality, state.sets.get(modality, "")] = [scaling]
    kept: list[str] = []

    def choose(name: str, modality: str, own_set: str, own: Scaling) -> Scaling:
        # Without a name: the statistics of a set, for corpora that have none of their own.
        if modality in by_corpus.get(name, {}):
            kept.append(f"{modality} of {name}")
            return by_corpus[name][modality]
        known = by_set.get((modality, own_set)) or by_set.get((modality, "")) or []
        if len(known) == 1 and len(known[0][0]) == len(own[0]):
            if name:
                kept.append(f"{modality} of {name}")
            return known[0]
        return own

    if isinstance(spec, PoolSpec):
        statistics = {
            corpus.name: {
                modality: choose(corpus.name, modality, corpus.sets[modality], own)
                for modality, own in spec.statistics.get(corpus.name, {}).items()
            }
            for corpus in layout.corpora
        }
        of_sets = {
            modality: {own: choose("", modality, own, scaling) for own, scaling in sets.items()}
            for modality, sets in spec.set_statistics.items()
        }
        changed: BatchSpec | PoolSpec = replace(spec, statistics=statistics, set_statistics=of_sets)
    else:
        (corpus,) = layout.corpora
        changed = replace(
            spec,
            statistics={
                modality: choose(corpus.name, modality, corpus.sets[modality], own)
                for modality, own in spec.statistics.items()
            },
        )
    return changed, f"kept for {', '.join(kept)}" if kept else "the data's own"
