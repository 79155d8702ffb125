"""`ivr-dist card`: a table and a folder become a card that packs; mistakes are answered with a remedy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ivr_dist.cli import main as cli
from ivr_dist.corpora.card import load_card
from ivr_dist.corpora.card_writer import parse_shares, write_card
from ivr_dist.corpora.registry import open_source
from ivr_dist.corpora.table_survey import Wishes
from ivr_dist.errors import UserError
from ivr_dist.shards.manifest import Manifest

HEADER = "clip_id,video,transcript,sentiment,mood,speaker"
ROWS = [f'c{n},v{n // 2},"so good, number {n % 3}",{n / 10 - 1},{"yes" if n % 2 else "no"},Ann' for n in range(20)]


def corpus(folder: Path, header: str = HEADER, rows: list[str] = ROWS, name: str = "labels.csv") -> str:
    (folder / "audio").mkdir(exist_ok=True)
    for n in range(20):
        if n != 7:
            np.save(folder / "audio" / f"c{n}.npy", np.ones((n + 1, 5), np.float32))
    (folder / name).write_text("\n".join([header, *rows]))
    return str(folder / name)


def written(folder: Path, path: str, **wishes: Any) -> list[str]:
    return write_card(path, Wishes(**wishes), name=None, out=str(folder / "films.yaml"), overwrite=True)


def test_what_is_given_is_used_and_said(tmp_path: Path) -> None:
    lines = written(
        tmp_path,
        corpus(tmp_path),
        labels=["sentiment"],
        group="video",
        transcript="transcript",
        paths={"audio": "audio/{clip_id}.npy"},
        shares={"train": 70, "valid": 10, "test": 20},
    )
    assert lines == [
        "20 rows; audio: 5 wide, 1 to 20 steps; sentiment: regression, -1 to 0.9; "
        "splits 14 / 2 / 4 (train, valid, test); 10 groups, none in two splits",
        "audio has no file in 1 of 20 rows, which are packed without it; the first is audio/c7.npy (line 9)",
        "guessed: id: clip_id; the options of the same names set others",
        f"wrote {tmp_path}/films.yaml; description, citation and licence are for you to fill in",
        f"next: ivr-dist pack {tmp_path} --card {tmp_path}/films.yaml --out data/films",
    ]
    text = (tmp_path / "films.yaml").read_text()
    assert text.count("FILL IN") == 3 and lines[-1].removeprefix("next: ") in text
    card = load_card(str(tmp_path / "films.yaml"))
    assert (card.name, card.features["audio"].dim, card.split_seed) == ("films", 5, 0)
    assert card.table is not None and card.table.provenance == ["mood", "speaker"]
    assert card.text is not None and card.text.vocabulary == 5000


def test_everything_can_be_guessed(tmp_path: Path) -> None:
    lines = written(tmp_path, corpus(tmp_path))
    card = load_card(str(tmp_path / "films.yaml"))
    assert card.table is not None and card.table.labels == {"sentiment": "sentiment", "mood": "mood"}
    assert card.tasks["mood"].names == ("no", "yes"), "words that YAML could read as truth values stay words"
    assert (card.table.id, card.table.group, card.table.transcript) == ("clip_id", "video", "transcript")
    assert card.table.audio == "audio/{clip_id}.npy"
    for guess in ("id: clip_id", "audio: audio/{clip_id}.npy", "splits: shares 70 / 10 / 20", "group: video"):
        assert guess in lines[2]


@pytest.mark.parametrize("called", ["dev", "valid"])
def test_a_split_column_keeps_its_names(tmp_path: Path, called: str) -> None:
    rows = [f"{row},{split}" for row, split in zip(ROWS, ["train"] * 12 + [called] * 4 + ["test"] * 4, strict=True)]
    lines = written(tmp_path, corpus(tmp_path, HEADER + ",fold", rows))
    assert "splits 12 / 4 / 4 (train, valid, test)" in lines[0] and "split: fold" in lines[2]
    source = open_source(str(tmp_path), load_card(str(tmp_path / "films.yaml")))
    assert [len(refs) for refs in source.splits().values()] == [12, 4, 4]


def test_odd_names_survive_the_card(tmp_path: Path) -> None:
    header = 'the id: #1,"label, yes","Text\u2028 [a]",null'
    rows = [f"{n},{('a: b', '#c', 'no', '~', '1e3')[n % 5]},word word word {n},x" for n in range(10)]
    (tmp_path / "t").mkdir()
    path = corpus(tmp_path / "t", header, rows, name="odd name's.csv")
    written(tmp_path, path, labels=["label, yes"], transcript="Text\u2028 [a]")
    card = load_card(str(tmp_path / "films.yaml"))
    assert card.tasks["label_yes"].names == ("#c", "1e3", "a: b", "no", "~")
    source = open_source(str(tmp_path / "t"), card)
    sample = source.load("train", source.splits()["train"][0])
    assert sample.transcript.startswith("word") and sample.provenance["null"] == "x"


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (
            {"labels": ["sentimnt"]},
            r"no column 'sentimnt' \(.*labels.csv, --label\); did you mean sentiment\?",
        ),
        ({"id": "video"}, r"'v0' is the id of lines 2 and 3 .*--id video\); name a column .* join several"),
        ({"paths": {"audio": "audio/{clip}.npy"}}, r"no column 'clip' .*--audio\); did you mean clip_id"),
        (
            {"paths": {"audio": "audios/{clip_id}.npy"}},
            r"none of the 20 files.*audios/c0.npy \(line 2\).*no folder",
        ),
        (
            {"paths": {"audio": "audio/{video}.npy"}},
            r"none of.*audio holds c0.npy, c1.npy, c10.npy; correct",
        ),
        ({"paths": {"audio": "audio/c0.npy"}}, r"the same file for all rows; name a column in braces"),
        ({"labels": ["speaker"]}, r"1 different values are no labels .*column speaker"),
        ({"split": "mood"}, r"column mood has the value 'no', which is no name of a split"),
        ({"split": "mood", "shares": {"train": 1}}, r"--split and --split-shares are both given"),
    ],
)
def test_mistakes_get_a_remedy(tmp_path: Path, wishes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.compile(message, re.S)):
        written(tmp_path, corpus(tmp_path), **wishes)


def test_more_mistakes(tmp_path: Path) -> None:
    rows = [f"{row},{'train' if n % 2 else 'test'}" for n, row in enumerate(ROWS)]
    path = corpus(tmp_path, HEADER + ",split", rows)
    with pytest.raises(UserError, match=r"10 of 10 groups are in two splits, the first is v0 .*--split-shares"):
        written(tmp_path, path, group="video")
    np.save(tmp_path / "audio" / "c3.npy", np.ones((4, 6), np.float32))
    with pytest.raises(UserError, match=r"audio/c3.npy has features of width 6, audio/c0.npy has features of width 5"):
        written(tmp_path, path)
    with pytest.raises(UserError, match=r"no column looks like a label .*--label; columns: a, b"):
        written(tmp_path, corpus(tmp_path, "a,b", ["1,2", "2,2"]))
    with pytest.raises(UserError, match=r"the table has no rows"):
        written(tmp_path, corpus(tmp_path, HEADER, []))
    (tmp_path / "films.yaml").touch()
    with pytest.raises(UserError, match=r"the file exists .*--out, or give --overwrite"):
        write_card(path, Wishes(), name=None, out=str(tmp_path / "films.yaml"), overwrite=False)


def test_shares_on_the_command_line() -> None:
    assert parse_shares("70,10,20") == {"train": 70, "valid": 10, "test": 20}
    assert parse_shares("0.9,0.1") == {"train": 0.9, "valid": 0.1}
    for text in ("70", "70,x", "70,0,30", "1,inf", "1,2,3,4"):
        with pytest.raises(UserError, match=r"not two or three shares; give numbers above 0"):
            parse_shares(text)


def test_the_commands_that_are_printed_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["card", "labels.csv", "--label", "sentiment", "--out", "films.yaml"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert all(len(line) < 80 for line in out) and out[-1] == "next: ivr-dist pack . --card films.yaml --out data/films"
    assert cli.main([*out[-1].split()[2:], "--jobs", "1"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].startswith(
        "next: ivr-dist train configs/quickstart.yaml run.dir=runs/films data.train="
    )
    manifest = Manifest.load("data/films/train")
    assert (
        manifest.samples == 14 and list(manifest.features) == ["text", "audio"] and manifest.words["text"][0] == "<unk>"
    )
