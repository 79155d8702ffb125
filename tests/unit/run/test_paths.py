"""Names in a run directory are defined in one module, and unchanged on disk."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from ivr_dist.run import paths
from ivr_dist.run.paths import RunPaths
from ivr_dist.storage.numbered_names import Numbered
from tests.repository import ROOT

NAMES = {value for name, value in vars(paths).items() if name.isupper() and isinstance(value, str)}
OTHERS = [path for path in sorted((ROOT / "ivr_dist").rglob("*.py")) if path != Path(paths.__file__)]


def spelled(source: str) -> Iterator[str]:
    """Names of a run directory that a module spells: as a constant, joined to a URL, or as a numbered form."""
    for node in ast.walk(ast.parse(source)):
        strings: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            strings = [node.value]
        elif isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            if function == "Numbered":
                yield ast.unparse(node)
            strings = node.args if function in ("storage.join", "join") else []
        for string in strings:
            if isinstance(string, ast.Constant) and string.value in NAMES:
                yield str(string.value)
        if isinstance(node, ast.Constant) and node.value in (paths.RECORD, paths.RESULT, paths.SEEDS_SUMMARY):
            yield node.value


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_module_spells_a_name(path: Path) -> None:
    assert list(spelled(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        'x = storage.join(url, "run.json")',
        'FOLDER = "pulse"',
        'url = storage.join(run_url, "checkpoints", name)',
        'write("result.json")',
        '_RECORD = Numbered("{:04d}.json")',
    ],
)
def test_a_spelled_name_is_noticed(source: str) -> None:
    assert list(spelled(source))


def test_the_names_are_those_of_older_runs() -> None:
    run = RunPaths("s3://bucket/run")
    written = {
        run.record: "run.json",
        run.result: "result.json",
        run.stop_file: "stop",
        run.seeds_summary: "seeds.json",
        run.seed_run(7): "seed-7",
        run.attempt(12): "attempts/0012.json",
        run.checkpoint("step-00000008.a01"): "checkpoints/step-00000008.a01",
        run.driver(3): "driver/000003.json",
        run.heartbeat(2): "pulse/0002.json",
        run.ledger(paths.HISTORY): "history",
        run.ledger_segment(paths.AUDIT, 1, 2, 3): "audit/attempt-0001/rank-00002-000003.jsonl",
        run.tensorboard: "tensorboard",
        run.stacks: "stacks",
        run.ray: "ray",
    }
    assert written == {f"s3://bucket/run/{name}": name for name in written.values()}
    assert Numbered("step-{:08d}.a{:02d}").name(8, 1) == paths.CHECKPOINT_NAME.name(8, 1)
