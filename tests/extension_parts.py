"""Extension classes as a user would write them, referenced by dotted path in test configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ivr_dist.config import LossConfig, ModelConfig
from ivr_dist.corpora.card import Card
from ivr_dist.corpora.source import SampleRef, SourceSample
from ivr_dist.data.batches.batch import Batch
from ivr_dist.evaluation.metric import Metric
from ivr_dist.evaluation.metrics import Floats
from ivr_dist.losses.term import MicroStep, Term
from ivr_dist.model.base import FusionModel
from ivr_dist.model.heads import TaskHeads
from ivr_dist.model.ivr import IVRModel
from ivr_dist.model.spec import IVROutput, ModelSpec
from ivr_dist.shards.specs import TaskSpec
from ivr_dist.training.callbacks.base import Callback, RunInfo, StepReport


class Contrast(Term):
    needs = ("pooled_shared",)

    def __init__(self, temperature: float = 0.1) -> None:
        self.temperature = temperature

    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> Tensor:
        first, *others = output.pooled_shared.values()
        return sum(((first - other).square().sum() for other in others), first.sum() * 0) / self.temperature


class Recorder(Callback):
    """Writes what it is told to `FOLDER/calls-RANK.txt`."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.rank = -1

    def on_start(self, run: RunInfo) -> None:
        self.rank = run.rank
        self._write(f"start {run.attempt} {run.step} of {run.total_steps} on {run.world}")

    def on_step(self, report: StepReport) -> None:
        self._write(f"step {report.step} {report.terms.get('mine', 0.0)!r}")

    def on_evaluation(self, split: str, step: int, metrics: Mapping[str, float | None], best: bool) -> None:
        self._write(f"evaluation {split} {step} {sorted(name.rpartition('/')[2] for name in metrics)}")

    def on_close(self) -> None:
        self._write("close")

    def _write(self, line: str) -> None:
        with open(self.folder / f"calls-{self.rank}.txt", "a") as file:
            file.write(f"{line}\n")


class Broken(Callback):
    def on_step(self, report: StepReport) -> None:
        raise ZeroDivisionError("division by zero")


class Unready(Callback):
    def on_start(self, run: RunInfo) -> None:
        raise ConnectionError("the alarm does not answer")


class Misspelt(Callback):
    def on_stepp(self, report: StepReport) -> None: ...


class WithinHalf(Metric):
    """Share of predictions that are within a half of the label."""

    task_types = ("regression",)

    def compute(self, task: TaskSpec, truth: Floats, prediction: Floats) -> float:
        return float((np.abs(truth - prediction) <= 0.5).mean())


class Median(Metric):
    lower_is_better = True
    task_types = ("regression",)

    def compute(self, task: TaskSpec, truth: Floats, prediction: Floats) -> float:
        return float(np.median(np.abs(truth - prediction)))


class Averages(FusionModel):
    """Predicts from the time means of whatever modalities there are; returns predictions alone."""

    def __init__(self, spec: ModelSpec, width: int = 8) -> None:
        super().__init__()
        self.inputs = nn.ModuleDict({name: nn.Linear(size, width) for name, (_, size) in spec.features.items()})
        self.heads = TaskHeads(width, spec.tasks)

    def forward(self, batch: Batch) -> IVROutput:
        hidden = torch.zeros((), device=batch.slots.device)
        for name, layer in self.inputs.items():
            part = batch.modalities[name]
            steps = part.mask.sum(dim=1, keepdim=True).clamp(min=1)
            hidden = hidden + layer(part.features.sum(dim=1) / steps)
        return IVROutput(self.heads(torch.relu(hidden)))


class TextOnly(Averages):
    needs = ("text",)
    task_types = ("classification",)


class Whole(IVRModel):
    """The preset under another name."""

    def __init__(self, spec: ModelSpec, hidden: int = 8) -> None:
        super().__init__(ModelConfig(hidden=hidden), spec, LossConfig())


class NoModel(nn.Module):
    pass


class Ramps:
    """A corpus of made-up clips, whose audio rises from step to step."""

    def __init__(self, root: str, card: Card, clips: int = 3) -> None:
        self.corpus = card.name
        self.features = card.feature_specs()
        self.tasks = card.tasks
        refs = [SampleRef(number, f"clip{number}") for number in range(clips)]
        self._splits = {"train": refs[: clips // 2], "test": refs[clips // 2 :]}

    def splits(self) -> Mapping[str, Sequence[SampleRef]]:
        return self._splits

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        audio = np.arange(3 * (ref.number + 1), dtype=np.float32).reshape(-1, 3)
        labels = {"sentiment": ref.number / 2}
        return SourceSample(ref.id, split, ref.group, labels, "", {}, {"audio": audio})


class NoSource:
    def __init__(self, root: str, card: Card) -> None: ...
