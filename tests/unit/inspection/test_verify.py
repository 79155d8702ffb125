"""`verify`: every problem of packed data is reported, and valid data passes."""

from __future__ import annotations

import json
import re
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist import storage
from ivr_dist.cli import main as cli
from ivr_dist.corpora.card import Card, FeatureSet, SourceFile, Split
from ivr_dist.corpora.card_mappings import TableMapping
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.errors import DataError
from ivr_dist.inspection.checks.leakage import _IdTable
from ivr_dist.inspection.checks.shard import ShardReport
from ivr_dist.inspection.checks.split import CheckedSplit
from ivr_dist.inspection.verify import verify
from ivr_dist.packing.index_tars import index_tars
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.specs import TaskSpec
from tests.http_servers import serve
from tests.packed import change_array, change_json, change_members, npy, with_manifest, write_tar

SMALL = PackOptions(shard_samples=15)
CARD = Card(
    name="synth",
    description="Made up.",
    citation="none",
    licence="none",
    format="table",
    files={"samples": SourceFile(path="samples.jsonl")},
    # The width of vision is left to the files.
    features={
        "text": FeatureSet(set="synth32", dim=32),
        "audio": FeatureSet(set="synth12", dim=12),
        "vision": FeatureSet(set="synth8"),
    },
    tasks=dict(SynthSource(10).tasks),
    splits={"train": Split(samples=42), "valid": Split(samples=9), "test": Split()},
    table=TableMapping(file="samples"),
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Valid data of three splits, train in three shards; not to be changed."""
    place = tmp_path_factory.mktemp("packed")
    pack(SynthSource(60, missing=0), str(place / "features"), SMALL)
    pack(SynthSource(60, missing=0, text="tokens"), str(place / "tokens"), SMALL)
    return place


@pytest.fixture
def corpus(packed: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(packed / "features", tmp_path / "corpus"))


def test_valid_data_has_no_findings(packed: Path) -> None:
    progress: list[tuple[str, int, int]] = []
    found = verify([str(packed / "features")], CARD, lambda *call: progress.append(call))
    assert (found.findings, found.notices, found.ok) == ([], [], True)
    (train, *_) = found.splits
    assert [(each.split, each.samples, each.shards) for each in found.splits] == [
        ("train", 42, 3),
        ("valid", 9, 1),
        ("test", 9, 1),
    ]
    assert (train.groups, train.ungrouped, train.faults) == (5, 0, 0)
    assert train.manifest_id == Manifest.load(str(packed / "features/train")).id
    assert sorted(progress)[-1] == ("synth valid", 9, 9) and ("synth train", 42, 42) in progress
    assert verify([str(packed / "tokens/train"), str(packed / "tokens/test")]).ok


def test_tokens_outside_the_vocabulary(packed: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(packed / "tokens", tmp_path / "tokens"))
    size = Manifest.load(str(place / "train")).vocabulary["text"]
    change_array(place / "valid", "text", lambda ids: np.append(ids[:-1], -1).astype(np.int32))
    assert [finding.what for finding in verify([str(place / "valid")]).findings] == ["text has the token id -1"]
    with_manifest(place / "train", vocabulary={"text": size + 3})
    assert [(finding.kind, finding.what) for finding in verify([str(place / "train")]).findings] == [
        ("count", f"the largest token id of text is {size - 1}, the manifest says {size + 2}")
    ]
    with_manifest(place / "test", vocabulary={"text": size - 1})
    found = verify([str(place / "test")]).findings
    assert {(finding.kind, finding.what) for finding in found} == {
        ("values", f"text has the token id {size - 1}, the manifest's vocabulary ends at {size - 2}"),
        ("count", f"the largest token id of text is {size - 1}, the manifest says {size - 2}"),
    }
    assert len(found) > 2  # each sample has a line


def test_classes(corpus: Path) -> None:
    change_members(corpus / "valid", lambda content: content[:12])
    for sample, label in enumerate([0, 1.0, 2]):
        change_json(corpus / "valid", sample, labels={"sentiment": label})
    with_manifest(corpus / "valid", tasks={"sentiment": TaskSpec(type="classification", classes=2)})
    assert [finding.what for finding in verify([str(corpus / "valid")]).findings] == [
        "label sentiment is 2, not a class 0..1"
    ]


def test_a_card(packed: Path, corpus: Path) -> None:
    wrong = replace(
        CARD,
        name="other",
        features={"text": FeatureSet(set="glove300", dim=300, dtype="float16"), "audio": CARD.features["audio"]},
        tasks={
            "sentiment": TaskSpec(type="regression", low=-1, high=1),
            "humor": TaskSpec(type="classification", classes=2),
        },
        splits={"train": Split(samples=43), "valid": Split(samples=9), "dev": Split()},
    )
    shutil.rmtree(corpus / "valid")
    shared = [
        "the corpus is synth, the card's is other",
        "text has the set synth32, the card says glove300",
        "text has the dtype float32, the card says float16",
        "text has the dim 32, the card says 300",
        "only the manifest describes features of vision",
        "task sentiment differs from the card",
        "task humor differs from the card",
    ]
    found = verify([str(corpus)], wrong).findings
    assert sorted((finding.kind, finding.what) for finding in found) == sorted(
        [("card", what) for what in 2 * shared]
        + [
            ("count", "split train has 42 samples, the card expects 43"),
            ("card", "the card has no split test"),
            ("card", "the card's split valid is missing"),
            ("card", "the card's split dev is missing"),
        ]
    )
    # A single split may lack the other splits of the card.
    assert verify([str(packed / "features/test")], CARD).ok
    assert verify([str(packed / "features/test") + "/"], CARD).ok


def test_a_split_given_in_several_ways_is_read_once(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(packed)
    found = verify(["features", "./features/train", str(packed / "features/train/")])
    assert found.ok and len(found.splits) == 3


def test_groups_and_ids_that_corpora_share_are_a_notice(packed: Path) -> None:
    found = verify([str(packed / "features"), str(packed / "tokens")])
    assert found.ok
    videos, ids, texts = found.notices
    who = f"synth ({packed}/features) and synth ({packed}/tokens)"
    assert videos.what == f"7 groups (videos) are in both {who}: test_000000, train_000000, train_000001, ..."
    assert len(videos.names) == 7
    assert re.fullmatch(rf"60 sample ids are in both {re.escape(who)}: (synth_\d{{7}}, ){{3}}\.\.\.", ids.what)
    assert re.fullmatch(rf"\d+ texts are in both {re.escape(who)}, of (\d+) and \1 long ones", texts.what)


def test_only_a_few_shards_are_in_memory(tmp_path: Path) -> None:
    source = SynthSource(150, dims={"text": 300, "audio": 74, "vision": 35}, aligned=False, missing=0)
    pack(source, str(tmp_path), PackOptions(shard_samples=5))
    shards = Manifest.load(str(tmp_path / "train")).shards
    largest = max(shard.bytes for shard in shards)
    verify([str(tmp_path / "test")])  # what is imported or cached on the way does not count
    tracemalloc.start()
    assert verify([str(tmp_path / "train")]).ok
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * largest < sum(shard.bytes for shard in shards) / 2


def test_foreign_tars(packed: Path, tmp_path: Path) -> None:
    place = tmp_path / "mine" / "train"
    place.mkdir(parents=True)
    with_ids = [({"labels": {}, "id": number}, np.zeros((2, 3), np.float32)) for number in range(3)]
    content = [
        member
        for number, (about, array) in enumerate(with_ids)
        for member in ((f"d/k{number}.json", json.dumps(about).encode()), (f"d/k{number}.text.npy", npy(array)))
    ]
    write_tar(place / "a.tar", [*content, ("d/k2.wav", b"sound"), ("README", b"of no sample")])
    index_tars(str(place), corpus="mine", split="train")
    found = verify([str(place)])
    assert found.ok
    assert (found.splits[0].groups, found.splits[0].ungrouped) == (0, 3)
    renamed = Path(shutil.copytree(packed / "features/train", tmp_path / "renamed" / "train"))
    index_tars(str(renamed), corpus="mine", split="train")
    assert [notice.what for notice in verify([str(renamed)]).notices] == [
        "42 samples of mine train name the corpus synth"
    ]


def test_any_fsspec_url_and_http(packed: Path, tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}"
    for file in (packed / "features").rglob("*.*"):
        storage.write_bytes(storage.join(url, str(file.relative_to(packed / "features"))), file.read_bytes())
    assert verify([url], CARD).ok
    storage.write_bytes(storage.join(url, "train/old.tar"), b"")
    assert [finding.kind for finding in verify([url]).findings] == ["leftover"]
    storage.write_text(storage.join(url, "text_states", "0123", "states.json"), "{}")
    assert len(verify([url]).findings) == 1, "training keeps states of texts there"

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(packed / "features"))

        def log_message(self, *arguments: Any) -> None:
            pass

        def list_directory(self, path: Any) -> None:
            self.send_error(404)

    with serve(Quiet) as url:
        # Such a server lists nothing: the splits are found by their usual names.
        found = verify([url], CARD)
    assert found.ok and len(found.splits) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda at: None, "no packed data here"),
        (lambda at: (at / "a.tar").touch(), "tars without a manifest.json"),
        (lambda at: ((at / "train").mkdir(), (at / "train/a.tar").touch()), "tars without a manifest.json"),
    ],
)
def test_a_folder_without_packed_data(tmp_path: Path, make: Callable[[Path], Any], message: str) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=message):
        verify([str(tmp_path)])


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=6), max_size=4))
def test_repeated_ids_match_a_simple_count(shards: list[list[str]]) -> None:
    split = CheckedSplit(
        "data/train", Manifest.create(corpus="c", split="train", seed=0, features={}, tasks={}, shards=[])
    )
    split.reports = [
        ShardReport(hashes=np.array([(ord(id_), 0, 0) for id_ in ids], np.uint64).reshape(-1, 3)) for ids in shards
    ]
    table_ids = [id_ for ids in shards for id_ in ids]
    found = _IdTable([split]).repeated().tolist()
    assert found == [place for place, id_ in enumerate(table_ids) if table_ids.count(id_) > 1]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["verify", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, str(corpus))
    assert code == 0 and "ok: 60 samples in 3 splits" in out and "problem (" not in out
    for sample in range(12):
        change_json(corpus / "train", sample, labels={"sentiment": 4})
    change_json(corpus / "test", 0, transcript=1)
    code, out, _ = run(capsys, str(corpus))
    lines = [line for line in out.splitlines() if line.startswith("problem (")]
    assert code == 1
    assert [line.split(":")[0] for line in lines] == 9 * ["problem (label)"] + ["problem (sample)"]
    assert lines[8] == "problem (label): 4 more; --json lists all"
    assert out.splitlines()[-1].startswith("NOT ok: 13 problems in 3 splits")
    code, out, err = run(capsys, str(corpus), "--json")
    found = json.loads(out)
    assert code == 1 and "problem (label)" in err
    assert len(found["faults"]) == 13 and not found["ok"]
    assert found["faults"][0].keys() == {"kind", "what", "where"}
    assert [split["faults"] for split in found["splits"]] == [12, 0, 1]


def test_mistakes_of_the_user(tmp_path: Path, packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (str(tmp_path), str(packed / "features/train/manifest.json"), "nowhere://x/y"):
        code, out, err = run(capsys, place)
        assert (code, out) == (2, "") and err.startswith("error: ") and len(err.splitlines()) == 1
    code, _, err = run(capsys, str(packed / "features"), "--card", "mosi_wrods")
    assert code == 2 and "did you mean mosi_words?" in err


def test_names_in_data_do_not_write_to_the_terminal(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "test"):
        change_json(
            corpus / split, 0, id=f"\x1b[31m{split}", provenance={"group": "\x1b]0;title\x07[bold]x[/bold]\ud800"}
        )
    code, out, _ = run(capsys, str(corpus))
    assert code == 1 and "\x1b" not in out and "\x07" not in out
    assert "[bold]x[/bold]" in out
