"""The layout rules: imports point down, heavy libraries stay where they belong, files stay readable."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repository import ROOT

PACKAGE = ROOT / "ivr_dist"
MAX_LINES = 450

# Packages and single modules from top to bottom: an import may go down, or stay within the package.
ORDER = (
    "testing",
    "__main__",
    "cli",
    "api",
    "orchestration",
    "display",
    "training",
    "inference",
    "inspection",
    "parity",
    "evaluation",
    "engine",
    "checkpoint",
    "losses",
    "model",
    "packing",
    "data",
    "corpora",
    "planning",
    "shards",
    "run",
    "storage",
    "config",
    "runtime",
    "common",
    "errors",
    "sanitize",
    "units",
)

# Who may import a library anywhere, also inside a function: a package, or a single module.
OWNERS = {
    "deepspeed": {"ivr_dist.engine", "ivr_dist.runtime.device"},
    "ray": {"ivr_dist.orchestration"},
    "fsspec": {"ivr_dist.storage"},
    "s3fs": {"ivr_dist.storage"},
    "boto3": {"ivr_dist.storage"},
    "transformers": {"ivr_dist.model.text.text_encoder"},
    "typer": {"ivr_dist.cli"},
    "rich": {"ivr_dist.display"},
    "jinja2": {"ivr_dist.display"},
}

# Modules that must be importable without torch, ray and deepspeed: what runs before a cluster does, and quick commands.
LIGHT = (
    "ivr_dist",
    "ivr_dist.api",
    "ivr_dist.cli.main",
    "ivr_dist.config.loading",
    "ivr_dist.corpora.card",
    "ivr_dist.corpora.synthetic",
    "ivr_dist.data.cursor",
    "ivr_dist.data.sample_order",
    "ivr_dist.display.data_tables",
    "ivr_dist.display.html_page",
    "ivr_dist.evaluation.metrics",
    "ivr_dist.inspection.audit",
    "ivr_dist.inspection.existing_run",
    "ivr_dist.inspection.find_sample",
    "ivr_dist.inspection.packed_split",
    "ivr_dist.inspection.profile",
    "ivr_dist.inspection.run_view",
    "ivr_dist.inspection.status",
    "ivr_dist.inspection.verify",
    "ivr_dist.model.text.text_encoder",
    "ivr_dist.orchestration.driver",
    "ivr_dist.orchestration.packing_jobs",
    "ivr_dist.orchestration.preflight",
    "ivr_dist.orchestration.submit",
    "ivr_dist.orchestration.supervisor",
    "ivr_dist.packing.index_tars",
    "ivr_dist.packing.pack",
    "ivr_dist.planning.run_identity",
    "ivr_dist.run.lease",
    "ivr_dist.runtime.environment",
    "ivr_dist.shards.index",
    "ivr_dist.shards.manifest",
    "ivr_dist.shards.tar",
    "ivr_dist.training.lr_schedule",
)

# What a package may import of what is below it, where that is less than all.
ONLY = {"shards": {"storage", "config", "common", "errors", "sanitize", "units"}}
MAX_MODULES = 20
MAX_TOP_LEVEL = 6


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    """The package, or the single module, that stands in ORDER."""
    return [*module.split("."), "__init__"][1]


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
    """Imports of rooms above the module's own; the top level itself is open to all."""
    inside = {name for name in imports_of(source, module, is_package) if name.split(".")[0] == "ivr_dist"}
    depth = ORDER.index(room_of(module)) if room_of(module) in ORDER else -1
    rooms = {name: room_of(name) for name in inside if name != "ivr_dist"}
    return sorted(name for name, room in rooms.items() if ORDER.index(room) < depth)


def test_the_order_names_every_room() -> None:
    assert sorted({room_of(module) for module in MODULES} - {"__init__"}) == sorted(ORDER)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    path = MODULES[module]
    assert upward_imports(path.read_text(), module, path.name == "__init__.py") == []


@pytest.mark.parametrize("package", ONLY)
def test_some_packages_need_little(package: str) -> None:
    used = {
        room_of(name)
        for module, path in MODULES.items()
        if room_of(module) == package
        for name in imports_of(path.read_text(), module, path.name == "__init__.py")
        if name.startswith("ivr_dist.")
    }
    assert used - {package} <= ONLY[package]


def test_folders_are_small() -> None:
    folders = [path for path in [PACKAGE, *PACKAGE.rglob("*")] if path.is_dir() and path.name != "__pycache__"]
    sizes = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert sizes.pop("ivr_dist") <= MAX_TOP_LEVEL
    assert {name: size for name, size in sizes.items() if size > MAX_MODULES} == {}


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_stay_with_their_owners(module: str) -> None:
    path = MODULES[module]
    imported = {name.split(".")[0] for name in imports_of(path.read_text(), module, path.name == "__init__.py")}
    for library, owners in OWNERS.items():
        allowed = any(module == owner or module.startswith(f"{owner}.") for owner in owners)
        assert allowed or library not in imported, f"{module} imports {library}"


def test_the_rule_catches_an_arrow_up_and_an_unknown_room() -> None:
    assert upward_imports("from ivr_dist.cli.main import app", "ivr_dist.planning.plan", False) == ["ivr_dist.cli.main"]
    assert upward_imports("from .. import training", "ivr_dist.data.loader", False) == ["ivr_dist.training"]
    assert upward_imports("def f():\n    import ivr_dist.cli", "ivr_dist.model.ivr", False) == ["ivr_dist.cli"]
    assert upward_imports("from ivr_dist import errors", "ivr_dist.planning.plan", False) == []
    with pytest.raises(ValueError, match="not in tuple"):
        upward_imports("import ivr_dist.newcomer", "ivr_dist.planning.plan", False)


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


def test_printing_is_the_business_of_display_and_cli() -> None:
    """By `plain_output` and `tables`, which sanitize; the command line also prints JSON, and constants."""
    others = {}
    for module, path in MODULES.items():
        if module in ("ivr_dist.display.plain_output", "ivr_dist.display.tables"):
            continue
        for shown in re.findall(r"(?<![\w.])print\((.*)", path.read_text()):
            if room_of(module) != "cli" or not shown.startswith(("json.dumps(", "__version__)")):
                others[module] = shown
    assert others == {}
