"""The wheel contains the package and the corpus cards, and works after installation."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.repository import ROOT

TEMPLATES = ("page.html", "page.css", "chart.svg")

pytest.importorskip("hatchling", reason="the build backend comes with the dev extra")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        ".",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_the_cards_only(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    roots = {name.split("/")[0] for name in names}
    assert roots == {"ivr_dist", next(root for root in roots if root.endswith(".dist-info"))}
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "ivr_dist").rglob("*.py")} <= names
    assert {f"ivr_dist/cards/{path.name}" for path in (ROOT / "shards").glob("*.yaml")} <= names
    assert {"ivr_dist/py.typed", *(f"ivr_dist/display/{name}" for name in TEMPLATES)} <= names


def test_an_installed_wheel_works(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    where = [sys.executable, "-c", "import ivr_dist; print(ivr_dist.__file__)"]
    done = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(target / "ivr_dist" / "__init__.py")
    script = [sys.executable, str(target / "bin" / "ivr-dist"), "--help"]
    shown = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "Examples:" in shown.stdout
    code = (
        "from ivr_dist.display.svg import stacked_bar; from ivr_dist.display.templates import style_sheet\n"
        "print(stacked_bar('title', [('a', 1, 'b')])[:4], style_sheet('page.css')[:2])"
    )
    page = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert page.stdout == "<svg /*\n"
    cards = [sys.executable, "-c", "from ivr_dist.corpora.card import known_cards; print(sorted(known_cards()))"]
    known = subprocess.run(cards, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert known.stdout.strip() == str(sorted(path.stem for path in (ROOT / "shards").glob("*.yaml")))
