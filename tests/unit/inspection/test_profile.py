"""Data profile of packed splits against the source that they were packed from."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.errors import CorruptDataError, DataError
from ivr_dist.inspection import profile as profile_module
from ivr_dist.inspection.profile import SplitProfile, profile
from ivr_dist.packing.pack import pack
from ivr_dist.shards.manifest import Manifest
from tests.packed import with_manifest
from tests.three_splits import SOURCE, SPLITS


def test_the_numbers_are_those_of_the_source(profiles: list[SplitProfile]) -> None:
    for split, found in zip(SPLITS, profiles, strict=True):
        refs = SOURCE.splits()[split]
        samples = [SOURCE.load(split, ref) for ref in refs]
        assert (found.corpus, found.split, found.samples) == ("synth", split, len(samples))
        assert found.scanned.is_all and found.scanned.samples == len(samples)
        patterns = Counter("+".join(name for name in SOURCE.features if name in s.arrays) or "none" for s in samples)
        assert found.coverage == patterns
        assert (found.groups, found.ungrouped) == (len({ref.group for ref in refs}), 0)
        assert found.provenance["group"].distinct == found.groups
        labels = np.array([s.labels["sentiment"] for s in samples], float)
        summary = found.labels["sentiment"]
        assert (summary.labelled, summary.missing, summary.max) == (len(samples), 0, labels.max())
        assert (summary.mean, summary.std) == (pytest.approx(labels.mean()), pytest.approx(labels.std()))
        assert found.words is not None and found.words.max == max(len(s.transcript.split()) for s in samples)
        for name, one in found.modalities.items():
            arrays = [s.arrays[name] for s in samples if name in s.arrays]
            assert (one.present, one.steps) == (len(arrays), sum(map(len, arrays)))
            assert one.lengths is not None and one.lengths.mean == pytest.approx(np.mean([len(a) for a in arrays]))
            every = np.concatenate(arrays).astype(np.float64)
            assert (one.values.min, one.values.max) == (every.min(), every.max())  # type: ignore[union-attr]
            assert one.values.std == pytest.approx(every.std())  # type: ignore[union-attr]
    edges = [split.labels["sentiment"].histogram.edges for split in profiles]  # type: ignore[union-attr]
    assert edges[0] == edges[1] == edges[2]


def test_only_some_segments_are_read(three_splits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_module, "SEGMENTS", 2)
    (part,) = profile([str(three_splits / "train")])
    (whole,) = profile([str(three_splits / "train")], full=True)
    assert part.scanned.segments == 2 < part.scanned.of_segments == whole.scanned.segments
    assert 0 < part.scanned.samples < part.samples == part.scanned.of_samples
    assert part.labels["sentiment"].labelled == part.scanned.samples
    assert part.coverage == whole.coverage
    assert part.modalities["text"].lengths == whole.modalities["text"].lengths
    assert part.modalities["text"].values.steps < whole.modalities["text"].values.steps  # type: ignore[union-attr]


def test_damaged_data_is_not_summarized(three_splits: Path, tmp_path: Path) -> None:
    pack(SynthSource(20), str(tmp_path))
    tar = next((tmp_path / "train").glob("*.tar"))
    content = bytearray(tar.read_bytes())
    content[2000] ^= 1
    tar.write_bytes(content)
    with pytest.raises(CorruptDataError, match="do not match their checksum"):
        profile([str(tmp_path / "train")])


@pytest.mark.parametrize(
    "dtype", ["float32<script>", "f4,f4", "object", "O", "<U8", "bool", "float33", "", "M8[s]", "int32 "]
)
def test_a_dtype_that_is_not_numeric_is_refused(dtype: str, three_splits: Path, tmp_path: Path) -> None:
    shutil.copytree(three_splits / "valid", tmp_path / "valid")
    manifest = Manifest.load(str(three_splits / "valid"))
    spec = replace(manifest.features["text"], dtype=dtype)
    with_manifest(tmp_path / "valid", features={**manifest.features, "text": spec})
    with pytest.raises(DataError, match=r"features.text.dtype is"):
        Manifest.load(str(tmp_path / "valid"))


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint16", ">f4", "longdouble"])
def test_numeric_dtypes_are_accepted_by_their_names(dtype: str, three_splits: Path, tmp_path: Path) -> None:
    shutil.copytree(three_splits / "valid", tmp_path / "valid")
    manifest = Manifest.load(str(three_splits / "valid"))
    name = str(np.dtype(dtype))
    spec = replace(manifest.features["text"], dtype=name)
    with_manifest(tmp_path / "valid", features={**manifest.features, "text": spec})
    assert Manifest.load(str(tmp_path / "valid")).features["text"].dtype == name


def test_manifests_of_the_splits_are_not_changed(three_splits: Path, profiles: list[SplitProfile]) -> None:
    assert [split.manifest_id for split in profiles] == [
        Manifest.load(str(three_splits / split)).id for split in SPLITS
    ]
