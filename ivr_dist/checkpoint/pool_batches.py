"""Contents of the batches of a checkpoint with several corpora, from and to its state."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ivr_dist.checkpoint.pool_state import CorpusState, PoolState
from ivr_dist.data.batches.pool_spec import PoolSpec
from ivr_dist.data.batches.tokenization import Tokenizer
from ivr_dist.planning.pool_layout import CorpusLayout, PoolLayout
from ivr_dist.shards.specs import TaskSpec


def pool_state(spec: PoolSpec) -> PoolState:
    """Take what is stored from the contents of batches."""
    layout = spec.layout
    return PoolState(
        corpora=[
            CorpusState(
                name=corpus.name,
                sets=corpus.sets,
                tasks=corpus.tasks,
                heads=corpus.heads,
                held_out=corpus.held_out,
                loss_weight=corpus.loss_weight,
                statistics={
                    modality: [part.tolist() for part in parts]
                    for modality, parts in spec.statistics.get(corpus.name, {}).items()
                },
            )
            for corpus in layout.corpora
        ],
        sets={m: {name: list(form) for name, form in sets.items()} for m, sets in layout.sets.items()},
        scale=layout.scale,
    )


def stored_pool_spec(state: PoolState, heads: Mapping[str, TaskSpec], tokenizer: Tokenizer | None) -> PoolSpec:
    """Return the contents of the batches that the model reads.

    Args:
        state: The corpora of a checkpoint.
        heads: What each head predicts, `CheckpointState.tasks`.
        tokenizer: Splits words into pieces, where a set is of words.
    """
    {
        modality: {name: (str(kind), int(width)) for name, (kind, width) in own.items()}
        for modality, own in state.sets.items()
    }
    layout = PoolLayout(
        corpora=tuple(
            CorpusLayout(
                name=corpus.name,
                sets=corpus.sets,
                tasks=corpus.tasks,
                heads=corpus.heads,
                held_out=corpus.held_out,
                loss_weight=corpus.loss_weight,
            )
            for corpus in state.corpora
        ),
        sets={
            m: {name: (str(kind), int(width)) for name, (kind, width) in own.items()} for m, own in state.sets.items()
        },
        heads=heads,
        scale=state.scale,
        is_pool=True,
    )
    statistics = {
        corpus.name: {
            modality: (np.array(mean, np.float32), np.array(deviation, np.float32))
            for modality, (mean, deviation) in corpus.statistics.items()
        }
        for corpus in state.corpora
    }
    return PoolSpec(layout, statistics, tokenizer=tokenizer)
