"""The layout rules: imports point down, heavy libraries stay where they belong, files stay readable."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ivr_dist"
MAX_LINES = 450

# Level of each module; a name also covers the modules below it. An import may go to the same level or further down.
LEVELS = {
    "ivr_dist": 0,
    "ivr_dist.plain": 0,
    "ivr_dist.errors": 0,
    "ivr_dist.foreign_errors": 0,
    "ivr_dist.streams": 0,
    "ivr_dist.file_kinds": 0,
    "ivr_dist.units": 0,
    "ivr_dist.config": 0,
    "ivr_dist.device": 0,
    "ivr_dist.compiling": 0,
    "ivr_dist.garbage": 0,
    "ivr_dist.environment": 0,
    "ivr_dist.network": 0,
    "ivr_dist.storage": 1,
    "ivr_dist.data": 1,
    "ivr_dist.corpora": 1,
    "ivr_dist.model": 1,
    "ivr_dist.losses": 1,
    "ivr_dist.optim": 1,
    "ivr_dist.schedule": 1,
    "ivr_dist.plan": 1,
    "ivr_dist.pretrained": 1,
    "ivr_dist.deepspeed_config": 1,
    "ivr_dist.config_file": 1,
    "ivr_dist.config_schema": 1,
    "ivr_dist.config_check": 1,
    "ivr_dist.config_presets": 1,
    "ivr_dist.config_ranges": 1,
    "ivr_dist.config_yaml": 1,
    "ivr_dist.numbered": 1,
    "ivr_dist.modalities": 1,
    "ivr_dist.run_identity": 1,
    "ivr_dist.attempts": 2,
    "ivr_dist.checkpoint": 2,
    "ivr_dist.ledger": 2,
    "ivr_dist.engine": 2,
    "ivr_dist.metrics": 2,
    "ivr_dist.collectives": 2,
    "ivr_dist.data.loader": 2,
    "ivr_dist.engine_state": 2,
    "ivr_dist.lease": 3,
    "ivr_dist.goodput": 2,
    "ivr_dist.pulse": 2,
    "ivr_dist.spikes": 2,
    "ivr_dist.checkpoint.saver": 3,
    "ivr_dist.control": 3,
    "ivr_dist.watchdog": 3,
    "ivr_dist.surroundings": 3,
    "ivr_dist.vitals": 3,
    "ivr_dist.step": 3,
    "ivr_dist.sinks": 3,
    "ivr_dist.channel": 3,
    "ivr_dist.console": 3,
    "ivr_dist.callbacks": 3,
    "ivr_dist.probe": 3,
    "ivr_dist.progress": 3,
    "ivr_dist.report": 3,
    "ivr_dist.earlier": 3,
    "ivr_dist.preflight": 3,
    "ivr_dist.view": 3,
    "ivr_dist.loop": 4,
    "ivr_dist.evaluate": 4,
    "ivr_dist.resume": 4,
    "ivr_dist.audit": 4,
    "ivr_dist.audit_book": 4,
    "ivr_dist.audit_report": 3,
    "ivr_dist.parity": 4,
    "ivr_dist.scoring": 5,
    "ivr_dist.import_release": 5,
    "ivr_dist.attempt_run": 5,
    "ivr_dist.worker": 5,
    "ivr_dist.scratch": 1,
    "ivr_dist.threads": 1,
    "ivr_dist.supervisor": 6,
    "ivr_dist.ray_session": 6,
    "ivr_dist.cluster": 6,
    "ivr_dist.packing": 6,
    "ivr_dist.driver": 6,
    "ivr_dist.submit": 6,
    "ivr_dist.seeds": 6,
    "ivr_dist.status": 4,
    "ivr_dist.doctor": 7,
    "ivr_dist.cli_options": 7,
    "ivr_dist.cli_runs": 7,
    "ivr_dist.cli_shards": 7,
    "ivr_dist.cli": 7,
    "ivr_dist.__main__": 8,
}

# Which modules may import a heavy library anywhere, also inside a function.
OWNERS = {
    "deepspeed": {"ivr_dist.engine", "ivr_dist.device"},
    "ray": {
        "ivr_dist.worker",
        "ivr_dist.cluster",
        "ivr_dist.ray_session",
        "ivr_dist.packing",
        "ivr_dist.submit",
        "ivr_dist.channel",
        "ivr_dist.doctor",
        "ivr_dist.surroundings",
    },
    "fsspec": {"ivr_dist.storage"},
    "s3fs": {"ivr_dist.storage"},
    "boto3": {"ivr_dist.storage"},
    "transformers": {"ivr_dist.pretrained"},
}

# Modules that must be importable without torch, ray and deepspeed: what runs before a cluster does, and quick commands.
LIGHT = (
    "ivr_dist.cli",
    "ivr_dist.errors",
    "ivr_dist.units",
    "ivr_dist.config",
    "ivr_dist.config_file",
    "ivr_dist.environment",
    "ivr_dist.storage",
    "ivr_dist.data.manifest",
    "ivr_dist.data.index",
    "ivr_dist.data.order",
    "ivr_dist.data.cursor",
    "ivr_dist.data.tar",
    "ivr_dist.data.pack",
    "ivr_dist.data.foreign",
    "ivr_dist.data.verify",
    "ivr_dist.data.survey",
    "ivr_dist.data.lookup",
    "ivr_dist.corpora.card",
    "ivr_dist.corpora.synth",
    "ivr_dist.packing",
    "ivr_dist.plan",
    "ivr_dist.modalities",
    "ivr_dist.run_identity",
    "ivr_dist.earlier",
    "ivr_dist.preflight",
    "ivr_dist.pretrained",
    "ivr_dist.schedule",
    "ivr_dist.metrics",
    "ivr_dist.audit",
    "ivr_dist.lease",
    "ivr_dist.status",
    "ivr_dist.driver",
    "ivr_dist.supervisor",
    "ivr_dist.submit",
    "ivr_dist.view.page",
    "ivr_dist.view.terminal",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def level_of(module: str) -> int:
    """The level of the longest name in the table that covers a module."""
    name = module
    while name not in LEVELS:
        name = name.rpartition(".")[0]
        # The package's own entry covers only itself, so that a new module has to be given a level.
        if name in ("ivr_dist", ""):
            raise KeyError(f"{module} has no level; add it to LEVELS")
    return LEVELS[name]


def imports_of(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Every module that a source file imports, at any depth; `from package import name` may mean a submodule."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in MODULES else base


def upward_imports(source: str, module: str, is_package: bool) -> list[str]:
    inside = {name for name in imports_of(source, module, is_package) if name.split(".")[0] == "ivr_dist"}
    return sorted(name for name in inside if level_of(name) > level_of(module))


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    path = MODULES[module]
    assert upward_imports(path.read_text(), module, path.name == "__init__.py") == []


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_stay_with_their_owners(module: str) -> None:
    path = MODULES[module]
    imported = {name.split(".")[0] for name in imports_of(path.read_text(), module, path.name == "__init__.py")}
    for library, owners in OWNERS.items():
        allowed = any(module == owner or module.startswith(f"{owner}.") for owner in owners)
        assert allowed or library not in imported, f"{module} imports {library}"


def test_the_rule_catches_an_arrow_up_and_an_unknown_module() -> None:
    assert upward_imports("from ivr_dist.driver import train", "ivr_dist.plan", False) == ["ivr_dist.driver"]
    assert upward_imports("from . import worker", "ivr_dist.loop", False) == ["ivr_dist.worker"]
    assert upward_imports("def f():\n    import ivr_dist.cli", "ivr_dist.loop", False) == ["ivr_dist.cli"]
    assert upward_imports("from ivr_dist import errors", "ivr_dist.plan", False) == []
    with pytest.raises(KeyError, match="no level"):
        level_of("ivr_dist.newcomer")


def test_light_modules_do_not_import_the_heavy_ones() -> None:
    missing = [name for name in LIGHT if name not in MODULES]
    assert missing == [], "the list names modules that do not exist"
    heavy = ("torch", "ray", "deepspeed", "transformers")
    code = f"import sys, {', '.join(LIGHT)}\nprint([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def text_files() -> list[Path]:
    folders = ("ivr_dist", "tests", "configs", "shards", "launch", "docs", "benchmarks", ".ci")
    suffixes = {".py", ".md", ".yaml", ".yml", ".sh", ".toml", ".txt", ""}
    below = [path for folder in folders for path in sorted((ROOT / folder).rglob("*")) if path.is_file()]
    above = [path for path in sorted(ROOT.iterdir()) if path.is_file()]
    return [path for path in below + above if path.suffix in suffixes and "__pycache__" not in path.parts]


def test_files_are_ascii() -> None:
    assert [str(path.relative_to(ROOT)) for path in text_files() if not path.read_bytes().isascii()] == []


def test_python_files_fit_the_limit() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in text_files() if path.suffix == ".py"}
    too_long = {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > MAX_LINES}
    assert too_long == {}


def test_lines_for_people_are_printed_in_one_place() -> None:
    """By `plain.say` and `report`, which make them plain; anything else prints JSON, or a constant."""
    others = {}
    for module, path in MODULES.items():
        if module in ("ivr_dist.plain", "ivr_dist.report"):
            continue
        for shown in re.findall(r"(?<![\w.])print\((.*)", path.read_text()):
            if not shown.startswith("json.dumps(") and shown != "__version__)":
                others[module] = shown
    assert others == {}
