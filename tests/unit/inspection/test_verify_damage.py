"""`verify`: each kind of damage to packed data is reported, by itself."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.display.data_tables import MAX_SHOWN, print_verification
from ivr_dist.inspection.checks.findings import Kind
from ivr_dist.inspection.verify import Verification, verify
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.shards.index import ShardIndex, load
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.specs import TaskSpec
from tests.packed import Members, change_array, change_json, change_members, members, refit, with_manifest, write_tar


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Valid data of three splits, train in three shards; not to be changed."""
    place = tmp_path_factory.mktemp("packed")
    pack(SynthSource(60, missing=0), str(place), PackOptions(shard_samples=15))
    return place


@pytest.fixture
def corpus(packed: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(packed, tmp_path / "corpus"))


def shard(place: Path, number: int = 0) -> Path:
    return place / Manifest.load(str(place)).shards[number].name


def index_of(place: Path, number: int = 0) -> Path:
    return place / Manifest.load(str(place)).shards[number].index.name


def rewrite(file: Path, change: Callable[[bytearray], Any]) -> None:
    content = bytearray(file.read_bytes())
    change(content)
    file.write_bytes(content)


def with_index(place: Path, **columns: Any) -> None:
    """A wrong index that the manifest takes for the right one."""
    index = load(str(index_of(place)))
    refit(place, index=replace(index, **columns))


def set_entry(place: Path, **changes: Any) -> None:
    manifest = Manifest.load(str(place))
    shards = [replace(manifest.shards[0], **changes), *manifest.shards[1:]]
    with_manifest(place, shards=shards, samples=sum(entry.samples for entry in shards), transcripts=0, labels={})


def without(suffix: str, number: int = 0) -> Callable[[Members], Members]:
    """Leave out one member that ends so."""

    def change(content: Members) -> Members:
        name = [name for name, _ in content if name.endswith(suffix)][number]
        return [member for member in content if member[0] != name]

    return change


def poke(step: int, column: int, value: float) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    def change(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        array[step, column] = value
        return array

    return change


def flip_payload(content: bytearray) -> None:
    # The lowest bits of a float of the first array: nothing but the checksums can tell.
    content[content.index(b"NUMPY") + 300] ^= 1


def flip_header(content: bytearray) -> None:
    content[content.index(b"ustar") - 200] ^= 1


def lose_index_sample(place: Path) -> None:
    index = load(str(index_of(place)))
    shorter = ShardIndex(
        keys=index.keys[1:],
        offset=index.offset[1:],
        size=index.size[1:],
        lengths=index.lengths[1:],
        segment=np.array([0, len(index.keys) - 1]),
        xxh3=index.xxh3,
    )
    refit(place, index=shorter)


def lose_tar_sample(place: Path) -> None:
    right = load(str(index_of(place)))
    content = members(shard(place))
    write_tar(shard(place), [member for member in content if not member[0].startswith(f"{right.keys[-1]}.")])
    refit(place, index=right)


def scatter(place: Path) -> None:
    """The first member of the first sample goes behind the second sample."""
    content = members(shard(place))
    write_tar(shard(place), [*content[1:8], content[0], *content[8:]])
    right = load(str(index_of(place)))
    refit(place, index=right)


def replace_by_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def copy_sample(place: Path, source: Path) -> None:
    """Add a sample of another split as it is."""
    foreign = [member for member in members(shard(source))][:4]
    change_members(place, lambda content: content + foreign)
    change_json(place, -1, split=place.name)


def edit_manifest(place: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((place / "manifest.json").read_text())
    change(content)
    (place / "manifest.json").write_text(json.dumps(content))


Damage = Callable[[Path], Any]

# What is done to the folder of splits, and the findings that it must cause: no more and no fewer.
DAMAGES: dict[str, tuple[Damage, list[tuple[Kind, str]]]] = {
    "manifest changed by hand": (
        lambda at: edit_manifest(at / "train", lambda content: content.update(seed=7)),
        [("manifest", r"train/manifest\.json: the manifest was changed after it was written")],
    ),
    "manifest lost": (
        lambda at: (at / "valid/manifest.json").unlink(),
        [("manifest", r"valid/manifest\.json: .*there is no manifest\.json")],
    ),
    "manifest of another layout": (
        lambda at: with_manifest(at / "test", tasks={"sentiment": TaskSpec(type="regression", low=-9, high=9)}),
        [("manifest", r"test/manifest\.json: tasks differs from that of split train")],
    ),
    "shard lost": (lambda at: shard(at / "train").unlink(), [("missing", r"train-000000\.tar: the file is missing")]),
    "index lost": (lambda at: index_of(at / "test").unlink(), [("missing", r"test-000000\.idx: the file is missing")]),
    "shard is a link to itself": (
        lambda at: replace_by_loop(shard(at / "train", 1)),
        [("unreadable", r"train-000001\.tar: .*symbolic links")],
    ),
    "shard is a folder": (
        lambda at: replace_by_folder(shard(at / "train", 1)),
        [("missing", r"train-000001\.tar: the file is missing")],
    ),
    "leftover": (
        lambda at: ((at / "train/old.tar").touch(), (at / "valid/notes").mkdir(), (at / "valid/notes/1").touch()),
        [("leftover", r"train/old\.tar: the manifest does not list"), ("leftover", r"valid/notes: the manifest")],
    ),
    "longer": (
        lambda at: rewrite(shard(at / "train"), lambda content: content.extend(bytes(512))),
        [("size", r"has \d+ bytes, the manifest says \d+"), ("sha256", r"does not match the manifest's checksum")],
    ),
    "other checksum": (
        lambda at: set_entry(at / "train", sha256="0" * 64),
        [("sha256", r"train-000000\.tar: the file does not match the manifest's checksum")],
    ),
    "a bit of a value": (
        lambda at: rewrite(shard(at / "train"), flip_payload),
        [("sha256", r"000000\.tar"), ("xxh3", r"samples synth_\d+ to synth_\d+, bytes 0 to \d+: do not match")],
    ),
    "a bit of a header": (
        lambda at: rewrite(shard(at / "train"), flip_header),
        [
            ("sha256", r"000000\.tar"),
            ("xxh3", r"do not match the index's checksum"),
            ("tar", r"train-000000\.tar: no tar header at byte 0"),
            ("tar", r"train-000000\.tar, sample synth_\d+: no tar header at byte 0"),
        ],
    ),
    "cut off": (
        lambda at: rewrite(shard(at / "train"), lambda content: content.__delitem__(slice(20_000, None))),
        [
            ("size", r"has 20000 bytes"),
            ("sha256", r"000000\.tar"),
            ("xxh3", r"the file ends at 20000"),
            ("tar", r"the tar is cut off"),
        ],
    ),
    "index damaged": (
        lambda at: rewrite(index_of(at / "test"), lambda content: content.__delitem__(slice(100, None))),
        [
            ("size", r"test-000000\.idx: the file has 100 bytes"),
            ("sha256", r"test-000000\.idx"),
            ("index", r"the index cannot be read"),
        ],
    ),
    "segment checksum": (
        lambda at: with_index(at / "train", xxh3=np.array([3], np.uint64)),
        [("xxh3", r"do not match the index's checksum")],
    ),
    "place in index": (
        lambda at: with_index(at / "train", size=load(str(index_of(at / "train"))).size - np.eye(15, dtype=int)[3]),
        [("index", r"sample synth_\d+: the index has bytes \d+ to \d+, the tar \d+ to \d+")],
    ),
    "lengths in index": (
        lambda at: with_index(
            at / "train", lengths=load(str(index_of(at / "train"))).lengths + np.eye(15, 3, dtype=int)
        ),
        3 * [("index", r"sample synth_\d+: the index has \[.*\] steps of text, audio and vision, the tar \[")],
    ),
    "key in index": (
        lambda at: with_index(at / "valid", keys=["other", *load(str(index_of(at / "valid"))).keys[1:]]),
        [("index", r"the index lacks the sample"), ("index", r"sample other: .* that is not in the tar")],
    ),
    "sample not in index": (
        lambda at: lose_index_sample(at / "valid"),
        [
            ("xxh3", r"do not match"),
            ("index", r"the index lacks the sample"),
            ("count", r"the shard has 9 samples, the manifest says 8"),
        ],
    ),
    "sample not in tar": (
        lambda at: lose_tar_sample(at / "valid"),
        [
            ("xxh3", r"the file ends at"),
            ("index", r"the index has a sample that is not in the tar"),
            ("count", r"the shard has 8 samples, the manifest says 9"),
        ],
    ),
    "members not adjacent": (
        lambda at: scatter(at / "valid"),
        [
            ("xxh3", r"do not match"),
            ("count", r"the shard has 10 samples, the manifest says 9"),
            ("tar", r"sample synth_\d+: the sample is in the tar twice, or its members are not adjacent"),
            *3 * [("index", r"the index has bytes")],
            ("index", r"the index has \[\d+, -1, \d+\] steps|the index has \[\d+, \d+, \d+\] steps"),
            ("sample", r"there is no synth_\d+\.json"),
            ("duplicate", r"occurs 2 times, in split valid"),
        ],
    ),
    "no json": (
        lambda at: change_members(at / "train", without(".json")),
        [("sample", r"sample synth_\d+: there is no synth_\d+\.json")],
    ),
    "json cut off": (
        lambda at: change_members(
            at / "train", lambda c: [(name, data[:20] if name == c[1][0] else data) for name, data in c]
        ),
        [("sample", r"the JSON cannot be read")],
    ),
    "json is a list": (
        lambda at: change_members(
            at / "train", lambda c: [(name, b"[]" if name == c[1][0] else data) for name, data in c]
        ),
        [("sample", r"the JSON is not an object")],
    ),
    "json fields": (
        lambda at: change_json(
            at / "test", 0, id=[1], corpus=2, split="train", labels={"other": 1}, transcript=7, provenance="x"
        ),
        [
            ("sample", r"id is \[1\], not a text"),
            ("sample", r"corpus is 2, not a string"),
            ("sample", r"provenance is 'x', not an object"),
            ("sample", r"the sample names the split train, not test"),
            ("sample", r"transcript is 7, neither a string nor a list of words"),
            ("sample", r"label other belongs to no task of the manifest"),
        ],
    ),
    "labels are a list": (lambda at: change_json(at / "test", 0, labels=[1]), [("sample", r"labels is \[1\]")]),
    "two members of one name": (
        lambda at: change_members(
            at / "test", lambda c: [*c[:4], (c[0][0].replace("audio", "AUDIO"), c[0][1]), *c[4:]]
        ),
        [("sample", r"two members of the sample have one suffix")],
    ),
    "type": (
        lambda at: change_array(at / "train", "audio", lambda array: array.astype(np.float64)),
        [("sample", r"audio has the type float64, not float32")],
    ),
    "width": (
        lambda at: change_array(at / "test", "vision", lambda array: array[:, 1:]),
        [("sample", r"vision has the shape \[\d+, 7\], not \[steps, 8\]")],
    ),
    "vector instead of steps": (
        lambda at: change_array(at / "test", "vision", lambda array: array[0]),
        [("sample", r"vision has the shape \[8\], not \[steps, 8\]")],
    ),
    "not an array": (
        lambda at: change_members(
            at / "test", lambda c: [(name, data[:-4] if name == c[0][0] else data) for name, data in c]
        ),
        [("sample", r"audio: an array \[\d+, 12\] of float32 takes \d+ bytes")],
    ),
    "undescribed modality": (
        lambda at: with_manifest(
            at / "test", features={k: v for k, v in Manifest.load(str(at / "test")).features.items() if k != "vision"}
        ),
        [
            *9 * [("sample", r"vision is present, but the manifest describes no such features")],
            ("manifest", r"features differs"),
        ],
    ),
    "not finite": (
        lambda at: (
            change_array(at / "train", "text", poke(1, 5, np.nan)),
            change_array(at / "test", "audio", poke(0, 2, -np.inf)),
        ),
        [
            ("values", r"1 of \d+ values of text are not finite, first nan at step 1, feature 5"),
            ("values", r"1 of \d+ values of audio are not finite, first -inf at step 0, feature 2"),
        ],
    ),
    "labels out of range": (
        lambda at: (
            change_json(at / "train", 0, labels={"sentiment": 3.2}),
            change_json(at / "train", 1, labels={"sentiment": float("nan")}),
            change_json(at / "train", 2, labels={"sentiment": True}),
            change_json(at / "train", 3, labels={"sentiment": None}),
        ),
        [
            ("label", r"label sentiment is 3\.2, outside -3\.\.3"),
            ("label", r"label sentiment is nan, not a finite number"),
            ("label", r"label sentiment is True, not a finite number"),
        ],
    ),
    "samples of a shard": (
        lambda at: set_entry(at / "train", samples=14),
        [
            ("count", r"idx: the index has 15 samples, the manifest says 14"),
            ("count", r"tar: the shard has 15 samples"),
        ],
    ),
    "transcripts": (
        lambda at: with_manifest(at / "train", transcripts=40),
        [("count", r"manifest\.json: 42 samples have a transcript, the manifest says 40")],
    ),
    "labels": (
        lambda at: with_manifest(at / "train", labels={"sentiment": 41}),
        [("count", r"manifest\.json: 42 samples have a label sentiment, the manifest says 41")],
    ),
    "a key of JSON twice": (
        lambda at: change_members(
            at / "train",
            lambda content: [(n, b'{"id": 1, ' + d[1:] if n.endswith("17.json") else d) for n, d in content],
        ),
        [("sample", r"the JSON cannot be read: key 'id' is given twice")],
    ),
    "steps of statistics": (
        lambda at: with_manifest(
            at / "train",
            statistics={k: replace(v, steps=9999) for k, v in Manifest.load(str(at / "train")).statistics.items()},
        ),
        3 * [("count", r"the statistics are over 9999 steps of (text|audio|vision), the shards have \d+")],
    ),
    "an id twice": (
        lambda at: change_json(at / "train", 0, id=load(str(index_of(at / "train", 2))).keys[1]),
        [("duplicate", r"000000\.tar, .*000002\.tar: sample id synth_\d+ occurs 2 times, in split train")],
    ),
    "a sample in two splits": (
        lambda at: copy_sample(at / "test", at / "train"),
        [
            ("duplicate", r"sample id synth_\d+ occurs 2 times, in the splits train and test"),
            ("group", r"corpus: group train_\d+ is in the splits train and test"),
        ],
    ),
    "a video in three splits": (
        lambda at: [change_json(at / split, 0, provenance={"group": "v"}) for split in ("train", "valid", "test")],
        [("group", r"group v is in the splits train and valid and test")],
    ),
    "a video by the ids of MMSA": (
        lambda at: [change_json(at / split, 0, id=f"v$_${split}", provenance={}) for split in ("train", "test")],
        [("group", r"group v is in the splits train and test")],
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_reported_and_nothing_else(corpus: Path, name: str) -> None:
    damage, expected = DAMAGES[name]
    damage(corpus)
    found = verify([str(corpus)])
    check_findings(found, expected)
    printed = io.StringIO()
    print_verification(found, printed)
    lines = printed.getvalue().splitlines()
    for kind in {finding.kind for finding in found.findings}:
        some = [finding for finding in found.findings if finding.kind == kind][:MAX_SHOWN]
        assert all(f"problem ({kind}): {finding}" in lines for finding in some)


def check_findings(found: Verification, expected: list[tuple[Kind, str]]) -> None:
    findings = list(found.findings)
    for kind, pattern in expected:
        matching = [finding for finding in findings if finding.kind == kind and re.search(pattern, str(finding))]
        assert matching, f"no {kind} {pattern} among:\n" + "\n".join(f"{f.kind}: {f}" for f in findings)
        findings.remove(matching[0])
    assert findings == []
    assert not found.ok


def test_every_kind_of_finding_has_a_damage() -> None:
    kinds = {kind for _, expected in DAMAGES.values() for kind, _ in expected}
    assert kinds | {"card", "hashes"} == set(get_args(Kind))  # these have tests of their own
