"""The pages of documentation against the repository: paths, modules, links, the map of look-ups, the decisions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ivr_dist
from tests.repository import ROOT
from tests.unit.test_layout import MODULES, ORDER

PAGES = sorted(
    [
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "configs/README.md", "shards/README.md", "launch/README.md")
    ]
    + list((ROOT / "docs").rglob("*.md"))
)
FOLDERS = ("ivr_dist", "tests", "docs", "configs", "shards", "launch", "benchmarks", "examples")
# A page names a module as `training/trainer.py`, and a test as `unit/run/test_lease.py`.
BASES = (ROOT, ROOT / "ivr_dist", ROOT / "tests", ROOT / "tests/unit")

LOOK_UPS = (
    "heartbeat",
    "process pool",
    "preemption",
    "retries of reads",
    "segment cache",
    "presigned S3",
    "leakage",
    "data profile",
    "HTML report",
    "length bucketing",
    "tokenization",
    "TensorBoard",
    "attention",
    "torch.compile",
    "early stopping",
    "resume",
    "metrics",
    "rank agreement",
    "shard index",
    "gradient of SVR",
)
ANSWERED_BY_NAME = 18
HEADINGS = ["Context", "Decision", "Consequences", "Measurement", "Code"]


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def paths_in(text: str) -> Iterator[str]:
    """Paths of the repository that a text names: below one of its folders, or a Python file in backticks."""
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"\w+://\S+", "", text))
    yield from re.findall(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w(?![\w*]*[*{{<])", text)
    # `mine/` is the reader's own folder, in examples.
    yield from re.findall(r"`(?!mine/)([a-z_]+(?:/[a-z_0-9]+)*\.py)`", text)


def rows_of(text: str, first: str) -> list[list[str]]:
    """The rows of the Markdown table whose header begins with a cell."""
    table = text.split(f"\n| {first} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in table if row.startswith("|")]


def anchors_of(page: Path) -> set[str]:
    """What GitHub makes of the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    missing = [path for path in paths_in(page.read_text()) if not any((base / path).exists() for base in BASES)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    missing = []
    for name in re.findall(r"\bivr_dist(?:\.\w+)+", page.read_text()):
        module, rest = name, ""
        while module not in MODULES:
            module, _, last = module.rpartition(".")
            rest = last
        if rest and not re.search(rf"\b{rest}\b", MODULES[module].read_text()):
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors_of(target)):
            broken.append(link)
    assert broken == []


def test_the_packages_of_the_architecture_are_those_of_the_layout_test() -> None:
    listed = [re.findall(r"ivr_dist/(\w+)/", row[0])[0] for row in rows_of(architecture(), "package")]
    folders = [room for room in ORDER if (ROOT / "ivr_dist" / room).is_dir()]
    assert listed == folders


def test_the_map_answers_the_look_ups() -> None:
    answers = {row[0]: row[1] for row in rows_of(architecture(), "looking for")}
    assert tuple(answers) == LOOK_UPS
    files = {question: re.findall(r"`([^`]+)`", answer) for question, answer in answers.items()}
    assert all((ROOT / file).is_file() for found in files.values() for file in found)
    named = [question for question, found in files.items() if is_answered_by(question, Path(found[0]).stem)]
    assert len(named) >= ANSWERED_BY_NAME


def is_answered_by(question: str, stem: str) -> bool:
    """Whether a file's name shares a word with a question, apart from its ending."""
    words = [word[:5] for word in re.findall(r"\w+", question.lower()) if len(word) > 2]
    return any(part.startswith(word) for word in words for part in stem.strip("_").split("_"))


def architecture() -> str:
    return (ROOT / "docs/architecture.md").read_text()


def decisions() -> dict[str, Path]:
    return {page.name[:3]: page for page in sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))}


def test_the_index_lists_every_decision_under_its_title() -> None:
    rows = rows_of((ROOT / "docs/decisions/README.md").read_text(), "number")
    listed = {row[0]: row[1] for row in rows}
    titles = {
        f"[{number}]({page.name})": page.read_text().splitlines()[0].removeprefix(f"# {number}: ")
        for number, page in decisions().items()
    }
    assert listed == titles


def test_every_decision_has_the_same_headings() -> None:
    for page in decisions().values():
        assert re.findall(r"^## (.+)$", page.read_text(), re.M) == HEADINGS, page.name


def test_pointers_to_decisions_lead_to_a_page() -> None:
    known = decisions()
    for module, path in MODULES.items():
        for number in re.findall(r"\bdecisions? (\d{3})\b", path.read_text()):
            assert number in known, f"{module} points to decision {number}"


def test_version_changelog_and_citation_agree() -> None:
    sections = re.findall(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d{2}-\d{2})$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    release, date = sections[0]
    citation = (ROOT / "CITATION.cff").read_text()
    assert ivr_dist.__version__ == release
    assert f"\nversion: {release}\n" in citation
    assert f"\ndate-released: {date}\n" in citation
