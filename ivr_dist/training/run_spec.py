"""Layout of a run, and the contents of its batches, from the config and the manifests of the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ivr_dist.config import Config
from ivr_dist.config.corpora import SplitKey, entries, split_urls
from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.data.batches.pool_spec import PoolSpec, pool_spec
from ivr_dist.inspection.label_counts import class_counts
from ivr_dist.model.text.text_encoder import TextEncoder
from ivr_dist.planning.pool_layout import PoolLayout, pool_layout
from ivr_dist.shards.manifest import Manifest


def run_spec(
    config: Config,
    manifests: Mapping[str, Manifest],
    text: TextEncoder | None,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[PoolLayout, BatchSpec | PoolSpec]:
    """Return the layout of a run and the contents of its batches; a collective call where classes are balanced.

    Args:
        config: The run's config.
        manifests: Manifests of its splits, by the text of their `SplitKey`.
        text: The pretrained text encoder, if any.
        note: Called with warnings of its tokenizer.

    Raises:
        UserError: The data do not fit the config.
    """
    layout = pool_layout(config, manifests, text.width if text is not None else None)
    trains = {
        key.corpus: manifest
        for name, manifest in manifests.items()
        for key in [SplitKey.parse(name)]
        if key.split == "train"
    }
    if not layout.is_pool:
        (train,) = trains.values()
        spec = BatchSpec.from_manifest(
            train,
            config.data.modalities,
            config.data.standardize,
            common_length=config.model.preset == "release",
            text=text,
            note=note,
        )
        return layout, spec
    corpora = entries(config)
    return layout, pool_spec(
        layout,
        trains,
        config.data.standardize,
        by_set=config.data.mix.scale == "set",
        class_weights={
            name: _class_weights(config, name, trains[name]) for name in trains if corpora[name].class_weights
        },
        sample_weights={name: entry.sample_weight for name, entry in corpora.items() if entry.sample_weight},
        text=text,
        note=note,
    )


def _class_weights(
    config: Config, name: str, train: Manifest
) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """Weights by task: as given, or inverse to the frequency of each class, with a mean of 1 over the samples."""
    weights = {}
    for task, given in entries(config)[name].class_weights.items():
        if isinstance(given, str):
            url = split_urls(config)[str(SplitKey(name, "train"))]
            counts = class_counts(url, train, task)
            present = np.count_nonzero(counts)
            given = np.where(counts > 0, counts.sum() / (max(present, 1) * np.maximum(counts, 1)), 0.0).tolist()
        weights[task] = np.array(given, np.float32)
    return weights
