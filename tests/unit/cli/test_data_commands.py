"""`inspect`: profile and single samples, in the terminal, as JSON and as a page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ivr_dist.cli import main as cli
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.shards.index import load
from tests.markup import Page
from tests.packed import change_array

SOURCE = SynthSource(160, dims={"text": 300, "audio": 74, "vision": 35}, aligned=False, missing=0.2)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three splits, train in two shards of several segments; not to be changed."""
    folder = tmp_path_factory.mktemp("packed")
    pack(SOURCE, str(folder), PackOptions(shard_bytes=5 << 19))
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["inspect", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_inspect_prints_tables_json_and_a_report(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    code, out, err = run(capsys, str(packed), "--html", str(page))
    assert code == 0 and f"report: {page}" in err
    for line in (
        r"synth +samples +shards +size",
        r"text\+audio\+vision +\d+ \(\d+\.\d %\)",
        r"train vision +synth35 +35 +float32",
        r"valid audio +\d+ +\d+ +\d",
        r"task sentiment: regression -3 to 3, scale mosi",
        r" -2\.5 +\d+ +\d",
        r"test group +24 +3 +\"test_",
        r"train: values, labels and words from all 112 samples",
    ):
        assert re.search(line, out), line
    assert Page(page.read_text()).count["svg"]
    code, out, err = run(capsys, str(packed / "train"), "--json")
    (split,) = json.loads(out)["splits"]
    assert code == 0 and "task sentiment" in err
    assert split["samples"] == 112 and split["modalities"]["text"]["features"]["set"] == "synth300"
    assert len(split["modalities"]["vision"]["values"]["columns"]["std"]) == 35


def test_one_sample(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = load(str(next((packed / "valid").glob("*.idx")))).keys[3]
    (ref,) = [ref for ref in SOURCE.splits()["valid"] if ref.id == key]
    sample = SOURCE.load("valid", ref)
    code, out, _ = run(capsys, str(packed), key)
    assert code == 0 and re.search(rf"id +{key}\n", out)
    assert re.search(rf"label sentiment +{sample.labels['sentiment']:g}\n", out) and sample.transcript in out
    for name, spec in SOURCE.features.items():
        shape = f"[{len(sample.arrays[name])}, {spec.dim}]" if name in sample.arrays else "missing"
        assert re.search(rf"{name} +synth{spec.dim} +{re.escape(shape)}", out)
    code, out, _ = run(capsys, str(packed), key, "--json")
    found = json.loads(out)
    assert (found["key"], found["about"]["labels"]) == (key, sample.labels)
    for name, array in sample.arrays.items():
        assert np.array_equal(np.array(found["arrays"][name]["values"], np.float32), array)


def test_a_sample_is_found_by_its_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack(SynthSource(20), str(tmp_path))
    change_array(tmp_path / "train", "audio", lambda array: np.where(array > 0, np.nan, array).astype(np.float32))
    key = load(str(next((tmp_path / "train").glob("*.idx")))).keys[0]
    code, out, _ = run(capsys, str(tmp_path), key, "--json")
    assert code == 0 and None in np.array(json.loads(out)["arrays"]["audio"]["values"]).flatten()
    code, out, err = run(capsys, str(tmp_path), key[:-1] + "x")
    assert (code, out) == (2, "") and f"no sample {key[:-1]}x" in err and "did you mean synth_" in err
    code, _, err = run(capsys, str(tmp_path), "?")
    assert code == 2 and "ids look like synth_" in err
    code, _, err = run(capsys, str(tmp_path), key, "--html", "x.html")
    assert code == 2 and "leave out KEY or --html" in err
    code, _, err = run(capsys, str(tmp_path / "nowhere"))
    assert code == 2 and "no packed data here" in err
