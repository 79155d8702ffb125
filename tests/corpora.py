"""Helpers of the converter tests: cards, pickles, and a corpus packed and read back."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ivr_dist.corpora.card import load_card
from ivr_dist.corpora.registry import open_source
from ivr_dist.corpora.source import Source
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.packing.pack import PackOptions, PackSummary, pack
from ivr_dist.shards.decode import RawSample
from ivr_dist.shards.manifest import Manifest


def write_pickle(path: Path, value: Any, protocol: int = 4) -> None:
    with path.open("wb") as file:
        pickle.dump(value, file, protocol=protocol)


def open_corpus(folder: Path, card: str) -> Source:
    (folder / "card.yaml").write_text(card)
    return open_source(str(folder), load_card(str(folder / "card.yaml")))


def round_trip(
    source: Source, out: Path, shard_samples: int = 3
) -> tuple[PackSummary, dict[str, dict[str, RawSample]]]:
    """Pack a corpus and read it back; the summary, and every sample by split and id."""
    summary = pack(source, str(out), PackOptions(shard_samples=shard_samples))
    found = {}
    for split in summary.splits:
        manifest = Manifest.load(split.url)
        reader = ShardReader(split.url, manifest, 1 << 24)
        samples = reader.read(np.arange(manifest.samples))
        reader.close()
        assert split.samples == manifest.samples == len({sample.id for sample in samples})
        found[split.split] = {sample.id: sample for sample in samples}
    return summary, found


def same_bits(found: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Whether two samples have the same modalities with the same bits; what is expected is brought to float32 first,
    whole numbers to int32."""
    if set(found) != set(expected):
        return False
    for name, values in expected.items():
        wanted = np.ascontiguousarray(values)
        wanted = wanted.astype(np.int32 if wanted.dtype.kind in "iu" else np.float32)
        if found[name].dtype != wanted.dtype or found[name].shape != wanted.shape:
            return False
        if found[name].tobytes() != wanted.tobytes():
            return False
    return True
