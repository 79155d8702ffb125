"""`verify` on several corpora: what their splits share, and whether the hashes that `pack` wrote are right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ivr_dist.cli import main as cli
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.inspection.checks.findings import Finding
from ivr_dist.inspection.verify import verify
from ivr_dist.packing.index_tars import index_tars
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.sample_hashes import HASHES_NAME, HashRows
from ivr_dist.shards.split_hashes import compute_hashes
from tests.packed import change_json, npy, tar_of, with_manifest

LONG = ("Question. Was it the war cry of our people?", "I did not like this film", "\u6211\u559c\u6b22\u4f60" * 4)


def write(place: Path, corpus: str, split: str, samples: Sequence[tuple[str, str, str]]) -> None:
    """A split of (id, group, transcript), as tars made elsewhere."""
    folder = place / corpus / split
    folder.mkdir(parents=True)
    files: list[tuple[str, bytes]] = []
    for number, (id_, group, text) in enumerate(samples):
        about = {"id": id_, "labels": {"sentiment": 1.0}, "transcript": text}
        provenance = {"provenance": {"group": group}} if group else {}
        files.append((f"k{number}.json", json.dumps({**about, **provenance}).encode()))
        files.append((f"k{number}.audio.npy", npy(np.ones((2, 1), np.float32))))
    (folder / "a.tar").write_bytes(tar_of(files))
    index_tars(str(folder), corpus=corpus, split=split)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("corpora")
    write(place, "one", "train", [("a", "u", LONG[0]), ("b", "u", LONG[1]), ("1", "", "Okay."), ("c", "v", LONG[2])])
    write(place, "one", "test", [("d", "w", LONG[1].upper())])
    write(place, "two", "train", [("1", "9", "Okay."), ("x", "", "")])
    write(place, "two", "test", [("r", "v", f"{LONG[0]} "), ("a", "", "Okay."), ("s", "9", " ".join(LONG[2]))])
    return place


def test_what_corpora_share_is_counted_and_no_problem(
    corpora: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(corpora, tmp_path / "at")
    found = verify([f"{corpora}/one", f"{corpora}/two"])
    assert [finding.what for finding in found.findings] == ["group 9 is in the splits train and test"]
    assert [(pair.train, pair.scored, pair.ids, pair.groups, pair.texts, pair.is_leak) for pair in found.overlaps] == [
        ("one train", "one test", 0, 0, 1, False),
        ("one train", "two test", 1, 1, 2, True),
        ("two train", "two test", 0, 1, 0, False),
    ]
    leak = found.overlaps[1]
    assert leak.comparable == 2, "Okay. is no text to compare"
    assert leak.examples == {
        "id": ("a",),
        "group": ("v",),
        "text": (f'"{LONG[0]}" (r)', f'"{" ".join(LONG[2])}" (s)'),
    }
    assert [notice.what.partition(" are in both")[0] for notice in found.notices] == [
        "1 groups (videos)",
        "1 sample ids",
        "2 texts",
    ]
    assert cli.main(["verify", f"{corpora}/one", f"{corpora}/two"]) == 1
    out = capsys.readouterr().out
    assert "1 sample and 2 texts of two test are trained on in one train: a" in out
    assert "1 (divided)" in out and "2 of 2" in out
    assert cli.main(["verify", f"{corpora}/one", "--json"]) == 0
    (pair,) = json.loads(capsys.readouterr().out)["overlaps"]
    assert (pair["texts"], pair["own"], pair["examples"]) == (1, True, {"text": [f'"{LONG[1].upper()}" (d)']})


def test_two_folders_of_one_name_are_told_apart(corpora: Path, tmp_path: Path) -> None:
    shutil.copytree(corpora / "one", tmp_path / "copy")
    found = verify([f"{corpora}/one", str(tmp_path / "copy")])
    assert found.ok
    assert {pair.train for pair in found.overlaps} == {f"{corpora}/one train", f"{tmp_path}/copy train"}


@dataclass(frozen=True)
class Damage:
    change: Callable[[Path], None]
    what: str
    kind: str = "hashes"


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-16])


def other_hashes(place: Path) -> None:
    hashes = compute_hashes(str(place), Manifest.load(str(place)))
    hashes[3, 2] += np.uint64(1)
    other = HashRows.of(hashes)
    other.save(str(place))
    with_manifest(place, hashes=other.entry)


DAMAGES = {
    "lost": Damage(lambda at: (at / HASHES_NAME).unlink(), "the file is missing", "missing"),
    "damaged": Damage(lambda at: flip(at / HASHES_NAME, -9), "block 2 of the hashes does not match its checksum"),
    "cut off": Damage(lambda at: cut(at / HASHES_NAME), "bytes, the manifest says"),
    "of another split": Damage(
        lambda at: flip(at / HASHES_NAME, 140), "the hashes do not belong to the manifest (their checksum differs)"
    ),
    "of other samples": Damage(other_hashes, "the hashes of ids, groups and texts are not those of the samples"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_hashes_are_found(tmp_path: Path, name: str) -> None:
    pack(SynthSource(40), str(tmp_path), PackOptions(shard_samples=9))
    damage = DAMAGES[name]
    damage.change(tmp_path / "train")
    (finding,) = verify([str(tmp_path)]).findings
    assert isinstance(finding, Finding) and finding.kind == damage.kind
    assert damage.what in finding.what and finding.where.endswith(f"train/{HASHES_NAME}")


def test_a_split_without_hashes_is_sound(tmp_path: Path) -> None:
    pack(SynthSource(40), str(tmp_path))
    (tmp_path / "train" / HASHES_NAME).unlink()
    with_manifest(tmp_path / "train", hashes=None)
    assert verify([str(tmp_path)]).ok
    before = Manifest.load(str(tmp_path / "train"))
    shard = tmp_path / "train" / before.shards[0].name
    written = shard.stat().st_mtime_ns
    pack(SynthSource(40), str(tmp_path))
    after = Manifest.load(str(tmp_path / "train"))
    assert after.hashes is not None and after.id == before.id, "packing again adds them"
    assert shard.stat().st_mtime_ns == written and verify([str(tmp_path)]).ok


def test_a_changed_text_is_noticed(tmp_path: Path) -> None:
    pack(SynthSource(40), str(tmp_path))
    hashes = Manifest.load(str(tmp_path / "valid")).hashes
    kept = (tmp_path / "valid" / HASHES_NAME).read_bytes()
    change_json(tmp_path / "valid", 0, transcript="another text of some more words")
    (tmp_path / "valid" / HASHES_NAME).write_bytes(kept)
    with_manifest(tmp_path / "valid", hashes=hashes)
    (finding,) = verify([str(tmp_path)]).findings
    assert finding.kind == "hashes"
