"""Manifests: saving and loading; damaged and contradictory ones are refused with a one-line error."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivr_dist.errors import DataError
from ivr_dist.shards import manifest as manifest_module
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.shard_table import IndexEntry, ShardEntry
from ivr_dist.shards.specs import FeatureSpec, HashesEntry, Statistics, TaskSpec

Change = Callable[[dict[str, Any]], object]


def shard(number: int, samples: int = 5) -> ShardEntry:
    name = f"mosi-train-{number:06d}"
    index = IndexEntry(name=f"{name}.idx", bytes=20 + number, sha256="cd" * 32)
    return ShardEntry(name=f"{name}.tar", samples=samples, bytes=100 + number, sha256="ab" * 32, index=index)


def stored(manifest: Manifest) -> dict[str, Any]:
    """The fields as they are written."""
    return {**asdict(manifest), "tasks": {name: task.to_json() for name, task in manifest.tasks.items()}}


def example() -> Manifest:
    return Manifest.create(
        corpus="mosi",
        split="train",
        seed=7,
        features={
            "text": FeatureSpec(set="bert", dim=1, dtype="int32", kind="tokens"),
            "audio": FeatureSpec(set="covarep", dim=2, dtype="float32", kind="features"),
        },
        tasks={
            "sentiment": TaskSpec(type="regression", low=-3.0, high=3, scale="mosi"),
            "emotion": TaskSpec(type="classification", classes=4),
        },
        shards=[shard(0), shard(1, 0), shard(2, 6)],
        statistics={"audio": Statistics(mean=[0.1, -1e-9], std=[1.0, 2.5], steps=40)},
    )


def write_files(place: Path) -> None:
    for entry in example().shards:
        (place / entry.name).write_bytes(bytes(entry.bytes))
        (place / entry.index.name).write_bytes(bytes(entry.index.bytes))


def refusal(place: Path) -> str:
    with pytest.raises(DataError) as caught:
        Manifest.load(str(place))
    assert str(place) in caught.value.where
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return str(caught.value)


def saved_as(place: Path, change: Change, forge: bool = True) -> Path:
    """Save the example changed by hand; forged, its id fits the change, so that only what it says can be refused."""
    content = {"format": "ivr-shards", "version": 1, **stored(example())}
    for key in (
        "vocabulary",
        "transcripts",
        "labels",
        "hashes",
        "words",
        "split_by",
        "segmented",
    ):  # nothing was counted or named
        del content[key]
    change(content)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    identity = hashlib.sha256(canonical.encode()).hexdigest() if forge else example().id
    (place / "manifest.json").write_text(json.dumps({**content, "id": identity}))
    return place


def test_saved_manifests_are_loaded(tmp_path: Path) -> None:
    example().save(str(tmp_path))
    found = Manifest.load(str(tmp_path))
    assert found == example()
    assert found.id == example().id
    assert found.samples == 11
    assert list(found.features) == ["text", "audio"]
    assert isinstance(found.shards[0].index, IndexEntry)
    with pytest.raises(FrozenInstanceError):
        found.samples = 3  # type: ignore[misc]


def test_the_id_is_over_everything_else_and_does_not_change_between_versions(tmp_path: Path) -> None:
    assert example().id == saved_id(tmp_path, lambda content: None)
    # A changed digest means that checkpoints no longer know the data they were trained on.
    assert example().id[:16] == "5ab6e9f2a62c4f02"
    assert len({example().id, saved_id(tmp_path, lambda content: content.update(seed=8))}) == 2


def saved_id(place: Path, change: Change) -> str:
    return str(json.loads((saved_as(place, change) / "manifest.json").read_text())["id"])


def test_hand_forged_content_that_is_sound_loads(tmp_path: Path) -> None:
    assert Manifest.load(str(saved_as(tmp_path, lambda content: None))) == example()
    assert Manifest.load(str(saved_as(tmp_path, lambda content: content.update(split="x")))).split == "x"


def test_without_a_manifest(tmp_path: Path) -> None:
    assert "there is no manifest.json" in refusal(tmp_path)
    assert "there is no manifest.json" in refusal(tmp_path / "nowhere")
    assert "name the directory of one split" in refusal(tmp_path)


@pytest.mark.parametrize(
    "text,message",
    [
        ("", "the manifest is empty"),
        ("  \n", "the manifest is empty"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"samples": ' + "9" * 5000 + "}", "not JSON"),
        ("{}", "not a manifest of packed shards"),
        ("[]", "not a manifest of packed shards"),
        ("null", "not a manifest of packed shards"),
        ('"ivr-shards"', "not a manifest of packed shards"),
        ('{"format": "other"}', "not a manifest of packed shards"),
        ('{"format": "ivr-shards"}', "has version None, this program reads 1"),
        ('{"format": "ivr-shards", "version": 2}', "has version 2, this program reads 1"),
        ('{"format": "ivr-shards", "version": 1}', "key corpus is missing"),
    ],
)
def test_files_that_are_no_manifest(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    assert message in refusal(tmp_path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe{}}")
    assert "line 1 is not UTF-16 text" in refusal(tmp_path)


@pytest.mark.parametrize("shards", [[], [asdict(shard(0, 0)), asdict(shard(1, 0))]])
def test_no_samples(tmp_path: Path, shards: list[dict[str, Any]]) -> None:
    text = refusal(saved_as(tmp_path, lambda content: content.update(shards=shards, samples=0)))
    assert f"the manifest is empty: 0 samples in {len(shards)} shards" in text


CHANGES: dict[str, tuple[Change, str]] = {
    "unknown": (lambda m: m.update(color=1), "unknown key color"),
    "unknown in a shard": (lambda m: m["shards"][1].update(color=1), "unknown key shards[1].color"),
    "unknown in an index": (lambda m: m["shards"][0]["index"].update(x=1), "unknown key shards[0].index.x"),
    "unknown in a feature": (lambda m: m["features"]["text"].update(x=1), "unknown key features.text.x"),
    "missing": (lambda m: m.pop("tasks"), "key tasks is missing"),
    "missing in a shard": (lambda m: m["shards"][2].pop("index"), "key shards[2].index is missing"),
    "text for a number": (lambda m: m.update(seed="7"), "seed: '7' is not a whole number"),
    "float for an integer": (lambda m: m.update(samples=11.0), "samples: 11.0 is not a whole number"),
    "bool for an integer": (lambda m: m.update(seed=True), "seed: true is not a whole number"),
    "number for text": (lambda m: m.update(corpus=3), "corpus: 3 is not a string"),
    "null": (lambda m: m.update(split=None), "split: null is not a string"),
    "list for an object": (lambda m: m.update(features=[]), "features: [] is not a mapping of names"),
    "object for a list": (lambda m: m.update(shards={}), "shards is neither a list nor the description of a table"),
    "text for an object": (lambda m: m["features"].update(text="x"), "features.text: 'x' is not a mapping"),
    "unknown kind": (lambda m: m["features"]["text"].update(kind="words"), "kind: 'words' is not one of features"),
    "unknown scale": (lambda m: m["tasks"]["emotion"].update(scale=["mosi"]), "not one of mosi"),
    "text for a bound": (lambda m: m["tasks"]["sentiment"].update(low="x"), "tasks.sentiment.low: 'x' is not a number"),
    "not a number": (lambda m: m["tasks"]["sentiment"].update(low=float("nan")), "low: nan is not a finite number"),
    "infinite mean": (lambda m: m["statistics"]["audio"]["mean"].append(float("inf")), "mean[2]: inf is not a finite"),
    "huge bound": (lambda m: m["tasks"]["sentiment"].update(high=10**400), "... is not a finite number"),
    "modality": (lambda m: m["features"].update(smell=m["features"]["audio"]), "features.smell is not a modality"),
    "width": (lambda m: m["features"]["text"].update(dim=0), "features.text is not a modality with features"),
    "statistics of nothing": (lambda m: m["features"].pop("audio"), "statistics.audio does not match"),
    "short statistics": (lambda m: m["statistics"]["audio"]["std"].pop(), "statistics.audio does not match"),
    "too wide": (lambda m: m["features"]["audio"].update(dim=1 << 60), "features.audio is not a modality with feat"),
    "no deviation": (lambda m: m["statistics"]["audio"]["std"].__setitem__(0, 0.0), "positive deviations in float32"),
    "negative deviation": (
        lambda m: m["statistics"]["audio"]["std"].__setitem__(0, -1.0),
        "positive deviations in float32",
    ),
    "huge mean": (lambda m: m["statistics"]["audio"]["mean"].__setitem__(0, 1e39), "positive deviations in float32"),
    "steps": (lambda m: m["statistics"]["audio"].update(steps=-1), "statistics.audio is not of means"),
    "no classes": (lambda m: m["tasks"]["emotion"].update(classes=None), "tasks.emotion.classes is null of a class"),
    "fewer than none": (lambda m: m["tasks"]["emotion"].update(classes=-1), "tasks.emotion.classes is -1 of a class"),
    "many classes": (lambda m: m["tasks"]["emotion"].update(classes=1 << 60), "of a classification"),
    "classes": (lambda m: m["tasks"]["sentiment"].update(classes=7), "tasks.sentiment.classes is 7 of a regression"),
    "grades": (
        lambda m: m["tasks"]["sentiment"].update(ordered=True),
        "tasks.sentiment.ordered is of classes, in a reg",
    ),
    "sum": (lambda m: m.update(samples=12), "samples is 12, which is not the sum"),
    "negative": (
        lambda m: (m["shards"][0].update(samples=-1), m["shards"][1].update(samples=6)),
        "which is not the sum",
    ),
    "huge": (lambda m: (m["shards"][0].update(samples=2**70), m.update(samples=2**70 + 6)), "which is not the sum"),
    "path up": (lambda m: m["shards"][0].update(name="../x.tar"), "'../x.tar' is not the name of a file"),
    "path": (lambda m: m["shards"][0].update(name="/x.tar"), "'/x.tar' is not the name of a file"),
    "index path": (lambda m: m["shards"][0]["index"].update(name="a/b"), "'a/b' is not the name of a file"),
    "dots": (lambda m: m["shards"][0].update(name=".."), "'..' is not the name of a file"),
    "no name": (lambda m: m["shards"][0].update(name=""), "'' is not the name of a file"),
    "twice": (lambda m: m["shards"].__setitem__(1, m["shards"][0]) or m.update(samples=16), "have the same name"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_content_that_cannot_be_is_named(tmp_path: Path, name: str) -> None:
    change, message = CHANGES[name]
    text = refusal(saved_as(tmp_path, change))
    assert message in text
    assert len(text) < 400 + len(str(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(seed=8),
        lambda m: m["shards"].reverse(),
        lambda m: m["shards"][0].update(sha256="00" * 32),
        lambda m: m["statistics"].clear(),
        lambda m: m["tasks"]["sentiment"].update(high=3.5),
    ],
)
def test_changed_content_is_noticed(tmp_path: Path, change: Change) -> None:
    assert "changed after it was written" in refusal(saved_as(tmp_path, change, forge=False))


def test_an_id_that_is_not_there_is_noticed(tmp_path: Path) -> None:
    example().save(str(tmp_path))
    content = json.loads((tmp_path / "manifest.json").read_text())
    del content["id"]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    assert "its id differs" in refusal(tmp_path)


class TestCheckShards:
    def failure(self, place: Path) -> str:
        with pytest.raises(DataError) as caught:
            example().check_shards(str(place))
        assert caught.value.where == str(place)
        assert "copy the split again" in str(caught.value)
        assert "\n" not in str(caught.value)
        return caught.value.what

    def test_all_there(self, tmp_path: Path) -> None:
        write_files(tmp_path)
        (tmp_path / "more").write_bytes(b"not ours")
        example().check_shards(str(tmp_path))

    def test_a_missing_shard(self, tmp_path: Path) -> None:
        write_files(tmp_path)
        (tmp_path / "mosi-train-000001.tar").unlink()
        assert self.failure(tmp_path) == "mosi-train-000001.tar is missing"

    def test_a_missing_index(self, tmp_path: Path) -> None:
        write_files(tmp_path)
        (tmp_path / "mosi-train-000002.idx").unlink()
        assert self.failure(tmp_path) == "mosi-train-000002.idx is missing"

    def test_another_size(self, tmp_path: Path) -> None:
        write_files(tmp_path)
        (tmp_path / "mosi-train-000002.tar").write_bytes(bytes(99))
        assert self.failure(tmp_path) == "mosi-train-000002.tar has 99 bytes instead of 102"

    def test_several(self, tmp_path: Path) -> None:
        write_files(tmp_path)
        (tmp_path / "mosi-train-000000.tar").write_bytes(b"")
        (tmp_path / "mosi-train-000001.idx").unlink()
        assert self.failure(tmp_path) == "mosi-train-000000.tar (and 1 more) has 0 bytes instead of 100"

    def test_all_missing(self, tmp_path: Path) -> None:
        assert self.failure(tmp_path / "nowhere") == "mosi-train-000000.tar (and 5 more) is missing"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PLACES: list[tuple[str | int, ...]] = [
    *((name,) for name in stored(example())),
    ("features", "text"),
    ("features", "text", "dim"),
    ("tasks", "emotion"),
    ("tasks", "emotion", "classes"),
    ("shards", 1),
    ("shards", 1, "samples"),
    ("shards", 1, "index"),
    ("statistics", "audio"),
    ("statistics", "audio", "mean", 1),
]


@settings(max_examples=500)
@given(st.sampled_from(PLACES), JSON)
def test_anything_anywhere_is_loaded_or_refused(place: tuple[str | int, ...], value: Any) -> None:
    content: Any = {"format": "ivr-shards", "version": 1, **stored(example())}
    del content["labels"]
    target = content
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    identity = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    check_harmless(json.dumps({**content, "id": identity}))


TEXT = json.dumps({"format": "ivr-shards", "version": 1, **stored(example()), "id": example().id})


@settings(max_examples=300)
@given(st.integers(0, len(TEXT) - 1), st.text(max_size=3), st.integers(0, 3))
def test_mutated_text_is_loaded_or_refused(position: int, inserted: str, removed: int) -> None:
    check_harmless(TEXT[:position] + inserted + TEXT[position + removed :])


def check_harmless(text: str) -> None:
    try:
        found = manifest_module._parse(text.encode("utf-8", "surrogatepass"), "", "manifest.json")
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert found.samples == sum(entry.samples for entry in found.shards) > 0


def test_counts_of_tokens_and_transcripts_are_kept(tmp_path: Path) -> None:
    hashes = HashesEntry(name="manifest.hashes", version=1, bytes=900, directory_bytes=300, sha256="ab" * 32)
    counted = replace(example(), vocabulary={"text": 30}, transcripts=9, labels={"sentiment": 0}, hashes=hashes)
    counted.save(str(tmp_path))
    assert Manifest.load(str(tmp_path)) == counted
    assert counted.id == example().id, "the counts follow from the shards"
    assert "transcripts" not in json.loads(
        saved_as(tmp_path, lambda content: None).joinpath("manifest.json").read_text()
    )
    assert Manifest.load(str(tmp_path)) == example()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary": {"audio": 3}}, "vocabulary.audio does not match features.audio"),
        ({"vocabulary": {"text": 0}}, "vocabulary.text does not match"),
        ({"transcripts": 12}, "transcripts is 12 of 11 samples"),
        ({"labels": {"sentiment": 12}}, "labels.sentiment is 12 of 11 samples"),
        ({"labels": {"mood": 1}}, "labels.mood is 1 of 11 samples, or belongs to no task"),
    ],
)
def test_counts_that_cannot_be_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    assert message in refusal(saved_as(tmp_path, lambda content: content.update(change)))
