"""A card names a format of the package, or a class that reads its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ivr_dist.cli.main import main
from ivr_dist.corpora.card import Card, load_card
from ivr_dist.corpora.registry import FORMATS, open_source, opener
from ivr_dist.errors import ConfigError, UserError
from ivr_dist.shards.manifest import Manifest
from tests.extension_parts import Ramps

CARD = """
name: clips
description: Made up.
citation: none
licence: none
files: {{}}
features:
  audio: {{set: a3, dim: 3}}
tasks:
  sentiment: {{type: regression, low: -3, high: 3}}
splits: {{train: {{}}, test: {{}}}}
format: {format}
"""


def card(folder: Path, form: str, more: str = "") -> Card:
    (folder / "card.yaml").write_text(CARD.format(format=form) + more)
    return load_card(str(folder / "card.yaml"))


def test_a_class_reads_the_files_with_its_arguments(tmp_path: Path) -> None:
    described = card(tmp_path, "{class: 'tests.extension_parts:Ramps', clips: 4}")
    source = open_source(str(tmp_path), described, trust_code=True)
    assert isinstance(source, Ramps)
    assert [len(refs) for refs in source.splits().values()] == [2, 2]
    again = opener(str(tmp_path), described, source)
    assert again().splits() == source.splits() and len(again.fingerprint) == 64


def test_it_is_not_imported_without_being_trusted(tmp_path: Path) -> None:
    described = card(tmp_path, "nowhere.parts:Ramps")
    with pytest.raises(UserError, match=r"nowhere\.parts:Ramps, code that importing would run \(card clips\);"):
        open_source(str(tmp_path), described)
    with pytest.raises(UserError, match=r"nowhere\.parts:Ramps, which cannot be imported here: no module nowhere"):
        open_source(str(tmp_path), described, trust_code=True)


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ("tests.extension_parts:NoSource", "NoSource is not a source: it has no splits (format)"),
        (
            "{class: 'tests.extension_parts:Ramps', clisp: 4}",
            "Ramps takes no argument clisp (format); did you mean",
        ),
        ("tests.extension_parts:Rmps", "it needs tests.extension_parts:Rmps, which cannot be imported here"),
    ],
)
def test_invalid_source_classes_are_refused(tmp_path: Path, form: str, error: str) -> None:
    with pytest.raises(UserError) as caught:
        open_source(str(tmp_path), card(tmp_path, form), trust_code=True)
    assert error in str(caught.value)


@pytest.mark.parametrize(
    ("form", "more", "error"),
    [
        ("tabel", "", "format: 'tabel' is not one of arrays, table, mmsa, mult, csd, ur_funny"),
        ("mine.parts:Own", "table: {file: x}", "the section table is not for a class"),
        ("'mine.parts:'", "", "'mine.parts:' is not the path of a class"),
    ],
)
def test_a_card_is_checked_when_it_is_read(tmp_path: Path, form: str, more: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        card(tmp_path, form, more)
    assert str(caught.value).startswith(error)


def test_formats_of_the_package_are_registered() -> None:
    assert list(FORMATS) == ["arrays", "table", "mmsa", "mult", "csd", "ur_funny", "utterances", "merbench"]


def test_pack_asks_for_trust(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card(tmp_path, "tests.extension_parts:Ramps")
    command = ["pack", str(tmp_path), "--card", str(tmp_path / "card.yaml"), "--out", str(tmp_path / "out"), "--jobs=1"]
    assert main(command) == 2
    assert "give --trust-code" in capsys.readouterr().err
    assert main([*command, "--trust-code"]) == 0
    assert Manifest.load(str(tmp_path / "out" / "test")).samples == 2
