"""Samples written by the webdataset library, and their index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from ivr_dist.errors import DataError, IvrError
from ivr_dist.packing.index_tars import index_tars
from ivr_dist.shards.manifest import Manifest

Sample = dict[str, Any]


def corpus(count: int = 23) -> list[Sample]:
    """Samples as WebDataset takes them: some without vision, one without a label."""
    random = np.random.default_rng(1)
    samples: list[Sample] = []
    for number in range(count):
        about = {"id": f"clip {number}", "labels": {"sentiment": None if number == 3 else number / 4 - 2}}
        sample: Sample = {"__key__": f"clip{number:04d}", "json": about}
        sample["text.npy"] = random.integers(0, 999, number % 5).astype(np.int32)
        sample["audio.npy"] = random.normal(2, 3, (number % 7 + 1, 74)).astype(np.float32)
        if number % 3:
            sample["vision.npy"] = random.normal(size=(number % 4, 35)).astype(np.float16)
        samples.append(sample)
    return samples


def write(place: Path, samples: list[Sample], shards: int = 3) -> Path:
    place.mkdir(exist_ok=True)
    for shard in range(shards):
        with webdataset.TarWriter(str(place / f"part-{shard}.tar")) as writer:
            for sample in samples[shard::shards]:
                writer.write(sample)
    return place


def written(samples: list[Sample], shards: int = 3) -> list[Sample]:
    """In the order in which they stand in the tars."""
    return [sample for shard in range(shards) for sample in samples[shard::shards]]


def index(place: Path, split: str = "train") -> Manifest:
    return index_tars(str(place), corpus="clips", split=split, scale="mosi")


def failure(place: Path, kind: type[IvrError] = DataError) -> str:
    with pytest.raises(kind) as caught:
        index(place)
    assert caught.value.where
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    assert not (place / "manifest.json").exists()
    return str(caught.value)
