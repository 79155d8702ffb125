"""Classes by dotted path: imports, checks, and errors of classes that cannot be used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ivr_dist.common import dotted_path
from ivr_dist.common.dotted_path import ClassReference, import_class, reference
from ivr_dist.errors import ConfigError, UserError

PARTS = """
import json
class Contrast:
    def __init__(self, temperature=0.1, *, scale: float = 1.0): ...
    def compute(self): ...
class Sum:
    def __init__(self, step, **options): ...
class Fails:
    def __init__(self): raise RuntimeError("no such luck")
notes = "text"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, with a package `mineparts`."""
    package = tmp_path / "mineparts"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text(PARTS)
    (package / "broken.py").write_text("1 / 0")
    (package / "exits.py").write_text("import sys\nsys.exit(0)")
    (package / "prints.py").write_text("print('noise')\nclass Loud: ...")
    (package / "many.py").write_text("from json import *\n" + "".join(f"class C{n:02}: ...\n" for n in range(20)))
    (package / "needs_sibling.py").write_text("import mineparts.prts")
    (package / "lacking.py").write_text("import nowhere_to_be_seen")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "mineparts"]:
        del sys.modules[name]


def at(path: str, **arguments: object) -> ClassReference:
    return ClassReference(path, "loss.extra.contrast", arguments)


def test_a_class_is_imported_from_the_directory_of_the_command(folder: Path) -> None:
    assert import_class(at("mineparts.parts:Contrast")).__name__ == "Contrast"
    assert sys.path[-1] == str(folder), "installed packages come first"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (
            "mineparts.parts:Contrst",
            "mineparts.parts has no Contrst (loss.extra.contrast); did you mean Contrast?",
        ),
        ("mineparts.parts:Wholly", "mineparts.parts has no Wholly (loss.extra.contrast); it has Contrast, Fails, Sum"),
        ("mineparts.prts:Contrast", "no module mineparts.prts (loss.extra.contrast); did you mean mineparts.parts?"),
        ("minepart.parts:Contrast", "no module minepart (loss.extra.contrast); did you mean mineparts?"),
        (
            "elsewhere.parts:Contrast",
            "no module elsewhere (loss.extra.contrast); install it, or run the command in the folder that holds it",
        ),
        (
            "mineparts.broken:Contrast",
            "mineparts.broken fails while it is imported: ZeroDivisionError: division by zero (loss.extra.contrast); "
            "correct it; `python -c 'import mineparts.broken'` shows the traceback",
        ),
        (
            "mineparts.lacking:Contrast",
            "mineparts.lacking needs the module nowhere_to_be_seen (loss.extra.contrast); install it",
        ),
        (
            "mineparts.exits:Contrast",
            "mineparts.exits fails while it is imported: SystemExit: 0 (loss.extra.contrast); "
            "correct it; `python -c 'import mineparts.exits'` shows the traceback",
        ),
        (
            "mineparts.needs_sibling:Contrast",
            "mineparts.needs_sibling needs the module mineparts.prts (loss.extra.contrast); did you mean "
            "mineparts.parts?",
        ),
        (
            "mineparts.many:Wholly",
            "mineparts.many has no Wholly (loss.extra.contrast); it has C00, C01, C02, C03, C04, C05, C06, C07 and 12 "
            "more",
        ),
        (
            "mineparts.parts:notes",
            "mineparts.parts:notes is not a class (loss.extra.contrast); it has Contrast, Fails, Sum",
        ),
    ],
)
def test_a_wrong_path_is_explained(folder: Path, path: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        import_class(at(path))
    assert str(caught.value) == error


def test_a_module_that_prints_does_not_write_to_the_result(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_class(at("mineparts.prints:Loud")).__name__ == "Loud"
    assert capsys.readouterr() == ("", "noise\n")


@pytest.mark.parametrize("path", ["json:Contrast", "json.parts:Contrast"])
def test_a_module_of_the_name_of_an_installed_one_is_explained(folder: Path, path: str) -> None:
    (folder / "json").mkdir()
    (folder / "json" / "parts.py").write_text("class Contrast: ...")
    with pytest.raises(ConfigError) as caught:
        import_class(at(path))
    assert f"; rename {folder}/json: the module json is " in str(caught.value)
    assert str(caught.value).endswith("json/__init__.py, which comes first")


def test_arguments_are_compared_with_the_constructor(folder: Path) -> None:
    kind = import_class(at("mineparts.parts:Contrast"))
    dotted_path.check_arguments(kind, at("mineparts.parts:Contrast", temperature=1, scale=2))
    with pytest.raises(ConfigError, match=r"takes no argument temprature .*did you mean temperature"):
        dotted_path.check_arguments(kind, at("mineparts.parts:Contrast", temprature=1))
    with pytest.raises(ConfigError, match=r"takes no argument x .*; it takes temperature, scale"):
        dotted_path.check_arguments(kind, at("mineparts.parts:Contrast", x=1))
    summed = import_class(at("mineparts.parts:Sum"))
    dotted_path.check_arguments(summed, at("mineparts.parts:Sum", anything=1), positional=1)
    with pytest.raises(ConfigError, match="cannot be made: missing a required argument: 'step'"):
        dotted_path.check_arguments(summed, at("mineparts.parts:Sum"))


def test_a_constructor_without_the_packages_own_arguments_is_refused(folder: Path) -> None:
    kind = import_class(at("mineparts.parts:Fails"))
    with pytest.raises(ConfigError, match=r"its constructor takes fewer than 1 positional arguments \(.*extending.md"):
        dotted_path.check_arguments(kind, at("mineparts.parts:Fails"), positional=1)


def test_a_constructor_that_fails_is_named(folder: Path) -> None:
    named = at("mineparts.parts:Fails")
    with pytest.raises(ConfigError, match=r"mineparts\.parts:Fails cannot be made: RuntimeError: no such luck"):
        dotted_path.make(import_class(named), named)


@pytest.mark.parametrize("value", ["a.b.C", "a.b:", ":C", "a b:C", "a.b:C:D", "a..b:C", "3", {"class": 4}, {"x": 1}])
def test_a_reference_names_module_and_class(value: object) -> None:
    with pytest.raises(ConfigError, match=r"write it as package\.module:Class"):
        reference(value, "model.class")  # type: ignore[arg-type]


def test_a_reference_keeps_its_arguments() -> None:
    named = reference({"class": "a.b:C", "weight": 0.1, "x": [1]}, "loss.extra.c", ["weight"])
    assert (named.path, named.arguments) == ("a.b:C", {"x": [1]})
    assert reference("a:C", "k").arguments == {}


def test_code_of_a_file_from_elsewhere_is_not_imported_without_being_trusted(folder: Path) -> None:
    named = at("mineparts.broken:Contrast")
    with pytest.raises(UserError, match=r"loss\.extra\.contrast is mineparts\.broken:Contrast.*--trust-code"):
        dotted_path.check_trusted(named, False, "s3://bucket/step-1")
    assert "mineparts.broken" not in sys.modules
    dotted_path.check_trusted(named, True, "s3://bucket/step-1")
    with pytest.raises(
        UserError, match=r"needs mineparts\.broken:Contrast \(version 1\.2 when it was written\), which"
    ):
        dotted_path.import_recorded(named, "s3://bucket/step-1", "1.2")


def test_the_version_is_that_of_the_distribution_or_a_hash_of_the_file(folder: Path) -> None:
    kind = import_class(at("mineparts.parts:Contrast"))
    first = dotted_path.version_of(kind)
    assert first.startswith("sha256:") and len(first) == len("sha256:") + 12
    (folder / "mineparts" / "parts.py").write_text(PARTS + "\n")
    assert dotted_path.version_of(kind) != first
    from yaml import SafeLoader

    assert dotted_path.version_of(SafeLoader).startswith("PyYAML ")
