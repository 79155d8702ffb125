"""A worker starts without importing the compiler, unless it compiles."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.packing.pack import pack
from ivr_dist.runtime import compilation

PROGRAM = """
import sys
from ivr_dist.cli.main import main
code = main(sys.argv[1:])
print("loaded:", *(name for name in ("torch._dynamo", "torch._inductor", "deepspeed") if name in sys.modules))
sys.exit(code)
"""


@pytest.mark.parametrize("stage", [0, 2])
def test_training_loads_no_compiler(stage: int, tmp_path: Path) -> None:
    pack(SynthSource(samples=100, seed=1), str(tmp_path / "data"))
    given = [
        f"data.train={tmp_path}/data/train",
        f"run.dir={tmp_path}/run",
        "run.num_workers=0",
        "train.global_batch=32",
        "loss.consistency.group=16",
        "train.max_steps=2",
        "train.select=last",
        "model.hidden=16",
        f"zero.stage={stage}",
    ]
    (tmp_path / "run.yaml").write_text("{}\n")
    command = [sys.executable, "-c", PROGRAM, "train", str(tmp_path / "run.yaml"), *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded: deepspeed"


def test_steps_of_an_optimizer_are_the_same() -> None:
    weights = []
    for backend in ("aot_eager", compilation.NONE):
        torch.manual_seed(0)
        layer = torch.nn.Linear(5, 3)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)
        compilation.spare_steps(optimizer, backend)
        for _ in range(3):
            layer(torch.ones(2, 5)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert layer.weight.requires_grad
        weights.append(layer.weight.detach().clone())
    assert torch.equal(*weights)


def test_the_context_restores_torch_compile() -> None:
    plain = torch.compile

    def function() -> int:
        return 1

    with compilation.without_importing_compiler(compilation.NONE):
        assert torch.compile(function) is function
        assert torch.compile(dynamic=True)(function) is function
    assert torch.compile is plain
    with compilation.without_importing_compiler("aot_eager"):
        assert torch.compile is plain
