"""The examples of docs/extending.md as files."""

from __future__ import annotations

import re
from pathlib import Path

from tests.repository import ROOT

PAGE = ROOT / "docs" / "extending.md"
_BLOCK = re.compile(r"^```(?:python|yaml)\n# (mine/\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def write_examples(folder: Path) -> list[Path]:
    """Write the package `mine` into a folder; blocks of one file in the order of the page."""
    files: dict[str, list[str]] = {}
    for name, block in _BLOCK.findall(PAGE.read_text()):
        files.setdefault(name, []).append(block)
    (folder / "mine").mkdir()
    (folder / "mine" / "__init__.py").write_text("")
    for name, blocks in files.items():
        (folder / name).write_text("\n\n".join(blocks))
    return [folder / name for name in files]
