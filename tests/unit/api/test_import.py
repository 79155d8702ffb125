"""Importing the package is cheap, and its public names are those of `__all__`."""

from __future__ import annotations

import importlib
import subprocess
import sys

import ivr_dist
from tests.repository import ROOT

HEAVY = ("torch", "ray", "deepspeed", "numpy", "transformers", "yaml", "rich")


def imported_by(code: str, *modules: str) -> list[str]:
    """Those of the modules that are imported after the code in a fresh interpreter."""
    code = f"{code}\nimport sys; print(*[name for name in {modules} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_the_package_imports_no_library() -> None:
    assert imported_by("import ivr_dist; ivr_dist.__version__; ivr_dist.ConfigError", *HEAVY) == []


def test_data_and_runs_need_no_torch() -> None:
    code = "import ivr_dist; ivr_dist.open_split, ivr_dist.open_run, ivr_dist.train, ivr_dist.load, ivr_dist.Callback"
    assert imported_by(code, "torch", "ray", "deepspeed", "transformers") == []


def test_every_public_name_is_there_and_has_a_docstring() -> None:
    for name in set(ivr_dist.__all__) - {"__version__"}:
        value = getattr(ivr_dist, name)
        assert value.__doc__, name
        assert value is getattr(importlib.import_module(ivr_dist._MODULES[name]), name)
    assert set(ivr_dist.__all__) == {*ivr_dist._MODULES, "__version__"}
    assert set(ivr_dist.__all__) <= set(dir(ivr_dist))


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(ivr_dist, "opensplit")


def test_every_error_is_public() -> None:
    from ivr_dist import errors

    kinds = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert kinds <= set(ivr_dist.__all__)
