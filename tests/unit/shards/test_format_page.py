"""The format page: its code runs in order, and its tables match the written files."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import webdataset

from ivr_dist.cli import main as cli
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.shards.manifest import FORMAT, VERSION, Manifest
from tests.repository import ROOT

PAGE = (ROOT / "shards" / "README.md").read_text()


def section(title: str) -> str:
    """A part of the page, without its heading."""
    return re.split(r"^## ", PAGE.split(f"## {title}\n")[1], maxsplit=1, flags=re.M)[0]


def test_the_code_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = section("The format") + section("Shards by hand")
    blocks = re.findall(r"```(python|sh)\n(.*?)```", text, re.S)
    assert [kind for kind, _ in blocks] == ["sh", "python", "python", "sh"]
    said = []
    for kind, code in blocks:
        if kind == "python":
            exec(code, {})
        else:
            for line in code.splitlines():
                assert line.startswith("ivr-dist ")
                assert cli.main(line.split()[1:]) == 0, line
        said.append(capsys.readouterr().out)
    reading, looking = said[1].splitlines(), said[3]
    assert len(reading) == 14 and all("'sentiment'" in line for line in reading)
    assert "hand/train: 40 samples in 1 shards" in looking and "ok: 50 samples in 2 splits" in looking
    assert re.search(r"train audio +audio74 +74 +float16 +30 ", looking)
    assert re.search(r"id +valid0003\n", looking)


def test_the_tables_name_every_key(tmp_path: Path) -> None:
    pack(SynthSource(20, text="tokens"), str(tmp_path))
    text = section("The format")
    manifest = json.loads((tmp_path / "train" / "manifest.json").read_text())
    optional = {"words", "split_by", "segmented"}
    assert set(manifest) | optional == {"format", "version", "id", *(item.name for item in fields(Manifest))}
    for key in (*manifest, *optional):
        assert re.search(rf"^\| .*`{key}`.* \|", text, re.M), key
    assert f"version {VERSION} of the format `{FORMAT}`" in text and f'`"{FORMAT}"`, `{VERSION}`' in text
    with zipfile.ZipFile(next((tmp_path / "train").glob("*.idx"))) as archive:
        arrays = [name.removesuffix(".npy") for name in archive.namelist()]
    assert all(re.search(rf"^\| .*`{name}`.* \|", text, re.M) for name in arrays)
    (tar,) = (tmp_path / "train").glob("*.tar")
    for sample in webdataset.WebDataset(str(tar), shardshuffle=False):
        for key in json.loads(sample["json"]):
            assert re.search(rf"^\| .*`{key}`.* \|", text, re.M), key


@pytest.mark.parametrize("text", ["features", "tokens"])
def test_plain_webdataset_reads_every_split_as_we_do(tmp_path: Path, text: str) -> None:
    pack(SynthSource(150, missing=0.2, text=text), str(tmp_path), PackOptions(shard_samples=25))  # type: ignore[arg-type]
    for split in ("train", "valid", "test"):
        place = tmp_path / split
        manifest = Manifest.load(str(place))
        reader = ShardReader(str(place), manifest, 0)
        ours = reader.read(np.arange(manifest.samples))
        reader.close()
        urls = [str(place / shard.name) for shard in manifest.shards]
        plain = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
        assert [(sample["__key__"], sample["json"]["id"]) for sample in plain] == [(raw.key, raw.id) for raw in ours]
        for sample, raw in zip(plain, ours, strict=True):
            assert sample["json"]["labels"] == raw.labels
            assert sample["json"]["transcript"].split() == list(raw.words)
            found = {name.removesuffix(".npy"): value for name, value in sample.items() if name.endswith(".npy")}
            assert found.keys() == raw.arrays.keys()
            for name, array in raw.arrays.items():
                assert found[name].dtype == array.dtype and np.array_equal(found[name], array)
