"""Contents of the batches of a checkpoint with several corpora, from and to its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ivr_dist.checkpoint.pool_state import PoolState
from ivr_dist.data.batches.pool_spec import PoolSpec, Scaling
from ivr_dist.data.batches.tokenization import Tokenizer
from ivr_dist.planning.pool_layout import PoolLayout
from ivr_dist.shards.specs import TaskSpec


def pool_state(spec: PoolSpec) -> PoolState:
    """Take what is stored from the contents of batches."""
    layout = spec.layout
    return PoolState(
        corpora=layout.corpora,
        sets={m: {name: list(form) for name, form in sets.items()} for m, sets in layout.sets.items()},
        scale=layout.scale,
        statistics=_to_lists(spec.statistics),
        set_statistics=_to_lists(spec.set_statistics),
    )


def stored_pool_spec(state: PoolState, heads: Mapping[str, TaskSpec], tokenizer: Tokenizer | None) -> PoolSpec:
    """Return the contents of the batches that the model reads.

    Args:
        state: The corpora of a checkpoint.
        heads: What each head predicts, `CheckpointState.tasks`.
        tokenizer: Splits words into pieces, where a set is of words.
    """
    layout = PoolLayout(
        corpora=tuple(state.corpora),
        sets={
            m: {name: (str(kind), int(width)) for name, (kind, width) in own.items()} for m, own in state.sets.items()
        },
        heads=heads,
        scale=state.scale,
        is_pool=True,
    )
    return PoolSpec(
        layout, _to_arrays(state.statistics), tokenizer=tokenizer, set_statistics=_to_arrays(state.set_statistics)
    )


def _to_lists(statistics: Mapping[str, Mapping[str, Scaling]]) -> dict[str, dict[str, list[list[float]]]]:
    return {
        outer: {inner: [part.tolist() for part in parts] for inner, parts in own.items()}
        for outer, own in statistics.items()
    }


def _to_arrays(
    statistics: Mapping[str, Mapping[str, Sequence[Sequence[float]]]],
) -> dict[str, dict[str, Scaling]]:
    return {
        outer: {
            inner: (np.array(mean, np.float32), np.array(deviation, np.float32))
            for inner, (mean, deviation) in own.items()
        }
        for outer, own in statistics.items()
    }
