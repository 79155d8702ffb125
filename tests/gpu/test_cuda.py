"""On CUDA: NCCL, bfloat16 and ZeRO 1 to 3 train, save and continue."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ivr_dist.cli.main import main
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.inspection.audit import audit
from ivr_dist.packing.pack import pack
from ivr_dist.run.results import loss_curve

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.ray,
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_saves_and_continues(tmp_path: Path, stage: int, dtype: str) -> None:
    pack(SynthSource(samples=334, seed=1), str(tmp_path / "corpus"))
    workers = min(torch.cuda.device_count(), 2)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"run: {{dir: {tmp_path}/run, num_workers: {workers}}}\n"
        f"data: {{train: {tmp_path}/corpus/train, valid: {tmp_path}/corpus/valid}}\n"
        f"train: {{global_batch: 32, dtype: {dtype}}}\n"
        f"loss: {{consistency: {{group: 16}}}}\nzero: {{stage: {stage}}}\ncheckpoint: {{every: 5steps}}\n"
    )
    for steps in (8, 16):
        assert main(["train", str(config), f"train.max_steps={steps}"]) == 0
    assert [step for step, _ in loss_curve(str(tmp_path / "run"))] == list(range(1, 17))
    assert audit(str(tmp_path / "run")).ok
