"""The cards of CMU-MOSI against the real files, if available."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ivr_dist.corpora.card import find_card
from ivr_dist.corpora.registry import open_source
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.packing.pack import PackOptions, PackSummary, pack
from ivr_dist.shards.decode import RawSample
from ivr_dist.shards.manifest import Manifest

FOLDER = Path(os.environ.get("IVR_DIST_REAL_DATA", "/nonexistent")) / "cmu-mosi"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="IVR_DIST_REAL_DATA names no folder with cmu-mosi in it"),
]


def pack_card(name: str, out: Path) -> PackSummary:
    return pack(open_source(str(FOLDER), find_card(name)), str(out), PackOptions(shard_samples=500))


def read(place: Path) -> Iterator[tuple[Manifest, list[RawSample]]]:
    manifest = Manifest.load(str(place))
    reader = ShardReader(str(place), manifest, 64 << 20)
    yield manifest, list(reader.read(np.arange(manifest.samples)))


def splits(out: Path) -> dict[str, tuple[Manifest, dict[str, RawSample]]]:
    return {
        place.name: (manifest, {sample.id: sample for sample in samples})
        for place in sorted(out.iterdir())
        for manifest, samples in read(place)
    }


@pytest.fixture(scope="module")
def segments() -> dict[str, dict[str, Any]]:
    return {segment["id"]: segment for segment in json.loads((FOLDER / "segments.json").read_text())}


def counts(summary: PackSummary) -> dict[str, int]:
    return {split.split: split.samples for split in summary.splits}


def test_words(tmp_path: Path, segments: dict[str, dict[str, Any]]) -> None:
    summary = pack_card("mosi_words", tmp_path)
    assert counts(summary) == {"train": 1284, "valid": 229, "test": 686}
    assert sum(split.missing.get("text", 0) for split in summary.splits) == 2
    assert not any(split.missing.get("audio") or split.replaced for split in summary.splits)
    found = splits(tmp_path)
    with np.load(FOLDER / "mosi_words_all.npz") as words, np.load(FOLDER / "glove300_mosi_vocab.npz") as glove:
        row = {str(segment): number for number, segment in enumerate(words["segment"])}
        glove_id, offset, vectors = words["glove_id"], words["offset"], glove["vectors"]
    for split, (manifest, samples) in found.items():
        assert {name: spec.dim for name, spec in manifest.features.items()} == {"text": 300, "audio": 73}
        assert set(samples) == {id_ for id_, segment in segments.items() if segment["split"] == split}
        for id_, sample in samples.items():
            assert sample.labels["sentiment"] == pytest.approx(segments[id_]["label"], abs=1e-6)
            ids = glove_id[offset[row[id_]] : offset[row[id_] + 1]]
            assert np.array_equal(sample.arrays.get("text", np.zeros((0, 300))), vectors[ids])
            assert sample.arrays["audio"].shape == (1, 73)
    statistics = found["train"][0].statistics["audio"]
    audio = np.concatenate([sample.arrays["audio"] for sample in found["train"][1].values()]).astype(np.float64)
    assert np.allclose(statistics.mean, audio.mean(axis=0), rtol=1e-9)
    assert statistics.steps == 1284
    assert not found["test"][0].statistics


def test_transcripts(tmp_path: Path, segments: dict[str, dict[str, Any]]) -> None:
    assert counts(pack_card("mosi_transcripts", tmp_path)) == {"train": 1284, "valid": 229, "test": 686}
    for split, (manifest, samples) in splits(tmp_path).items():
        assert list(manifest.features) == ["audio"] and manifest.transcripts == manifest.samples
        assert set(samples) == {id_ for id_, segment in segments.items() if segment["split"] == split}
        for id_, sample in samples.items():
            assert sample.words == tuple(segments[id_]["text"].split())
            assert sample.labels["sentiment"] == pytest.approx(segments[id_]["label"], abs=1e-6)
            assert sample.arrays["audio"].shape == (1, 73)


def test_word_level(tmp_path: Path, segments: dict[str, dict[str, Any]]) -> None:
    assert counts(pack_card("mosi_wordlevel", tmp_path)) == {"train": 128, "valid": 52, "test": 49}
    videos: dict[str, set[str]] = {}
    for split, (manifest, samples) in splits(tmp_path).items():
        assert {name: spec.dim for name, spec in manifest.features.items()} == {"text": 300, "audio": 74, "vision": 47}
        for id_, sample in samples.items():
            assert segments[id_]["split"] == "valid"
            assert sample.labels["sentiment"] == pytest.approx(segments[id_]["label"], abs=1e-6)
            assert len({len(array) for array in sample.arrays.values()}) == 1 and len(sample.arrays) == 3
            # As the files' notes say: every feature has mean 0 over each segment.
            assert abs(sample.arrays["audio"].mean(axis=0)).max() < 1e-3
            videos.setdefault(split, set()).add(segments[id_]["video"])
    assert {split: len(found) for split, found in videos.items()} == {"train": 6, "valid": 2, "test": 2}


def test_utterance_level(tmp_path: Path, segments: dict[str, dict[str, Any]]) -> None:
    assert counts(pack_card("mosi_utterance", tmp_path)) == {"train": 1447, "test": 752}
    with np.load(FOLDER / "mosi_utterance.npz") as arrays:
        row = {str(segment): number for number, segment in enumerate(arrays["segment"])}
        features = {"text": arrays["text_feat"], "audio": arrays["audio_feat"], "vision": arrays["video_feat"]}
    at = {(segment["video"], segment["index"]): id_ for id_, segment in segments.items()}
    lengths = []
    for manifest, samples in splits(tmp_path).values():
        assert {name: spec.dim for name, spec in manifest.features.items()} == {"text": 100, "audio": 73, "vision": 100}
        for id_, sample in samples.items():
            video, index = segments[id_]["video"], segments[id_]["index"]
            before = [at[video, earlier] for earlier in range(index, max(-1, index - 21), -1)]
            rows = [row[earlier] for earlier in before]
            assert all(np.array_equal(sample.arrays[name], features[name][rows]) for name in features)
            assert sample.labels["sentiment"] == pytest.approx(segments[id_]["label"], abs=1e-6)
            lengths.append(len(rows))
    assert min(lengths) == 1 and max(lengths) == 21


def test_packing_again_changes_nothing(tmp_path: Path) -> None:
    first = pack_card("mosi_wordlevel", tmp_path)
    second = pack_card("mosi_wordlevel", tmp_path)
    assert {split.status for split in second.splits} == {"already packed"}
    assert [split.manifest_id for split in first.splits] == [split.manifest_id for split in second.splits]
