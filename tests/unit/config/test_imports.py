"""Importing the config package is fast: it imports no numeric library."""

from __future__ import annotations

import subprocess
import sys

from tests.repository import ROOT

CODE = """
import sys, time
began = time.process_time()
from ivr_dist.config.loading import load
from ivr_dist.config.effective import effective_yaml
from ivr_dist.config.json_schema import json_schema
from ivr_dist.config.reference import list_keys
loaded = load("configs/quickstart.yaml", ["train.lr=3e-4"])
effective_yaml(loaded), json_schema(), list_keys()
spent = time.process_time() - began
print([name for name in ("numpy", "torch", "ray", "fsspec", "rich", "typer") if name in sys.modules], spent < 1.5)
"""


def test_reading_a_config_imports_neither_numpy_nor_torch() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[] True"
