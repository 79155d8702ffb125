"""One training step timed: forward, losses, backward and AdamW, beside the plain way of writing the released method.

    python benchmarks/step.py
    python benchmarks/step.py --batch 16 --models plain release --compile
    python benchmarks/step.py --models ivr --dtype bfloat16 --memory

The models take their turns step by step, so that whatever else the machine does hits them alike; figures are medians.
GFLOP/s counts the matrix products of the model, forward and twice that for backward, nothing that is computed again,
and stands beside what one large matrix product reaches in between the steps.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from plain import WIDTHS, PlainRelease
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ivr_dist.config import Config
from ivr_dist.config_file import load_config
from ivr_dist.data.batch import MODALITIES, Batch, modality_batch
from ivr_dist.data.manifest import TaskSpec
from ivr_dist.losses import StepCounts, StepLayout, local_counts, loss_terms
from ivr_dist.model import ModelSpec, build_model
from ivr_dist.optim import parameter_groups

TASK = "sentiment"
CLOCK = time.perf_counter
_PARTS = ("forward", "losses", "backward", "update")


class Contestant:
    """A model that can take one training step; `times` holds the seconds of each part."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, dtype: torch.dtype) -> None:
        self.model = model
        self.optimizer = optimizer
        self.dtype = dtype
        self.times: list[dict[str, float]] = []

    def loss(self) -> tuple[float, Tensor]:
        """The time when the forward pass was done, and the loss."""
        raise NotImplementedError

    def step(self) -> None:
        """One step, timed."""
        started = CLOCK()
        with self.autocast():
            forward, loss = self.loss()
        losses = CLOCK()
        loss.backward()
        backward = CLOCK()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        ends = (forward, losses, backward, CLOCK())
        self.times.append(dict(zip(_PARTS, [b - a for a, b in zip((started, *ends), ends, strict=False)], strict=True)))

    def autocast(self) -> AbstractContextManager[Any]:
        """What the forward pass runs in."""
        return torch.autocast("cpu", self.dtype) if self.dtype != torch.float32 else nullcontext()

    def seconds(self) -> float:
        """Median of a step."""
        return statistics.median(sum(step.values()) for step in self.times)

    def share(self, part: str) -> float:
        """A part's share of the step, by medians."""
        return statistics.median(step[part] for step in self.times) / self.seconds()


class Plain(Contestant):
    """The yardstick."""

    def __init__(self, batch: Batch, options: argparse.Namespace) -> None:
        model = PlainRelease()
        super().__init__(model, torch.optim.AdamW(model.parameters(), lr=1e-5), options.torch_dtype)
        self.features = {name: part.features for name, part in batch.modalities.items()}
        self.labels = batch.labels[TASK]
        self.run = torch.compile(model) if options.compile else model

    def loss(self) -> tuple[float, Tensor]:
        """All terms as released; there is no telling forward from losses here."""
        terms = self.run(self.features, self.labels)
        forward = CLOCK()
        total = sum(({"adversary": 0.4}.get(name, 1.0) * value for name, value in terms.items()), torch.zeros(()))
        return forward, total


class Ours(Contestant):
    """A preset of `ivr_dist`, without DeepSpeed; `auxiliary=False` leaves the task's loss alone."""

    def __init__(self, preset: str, batch: Batch, options: argparse.Namespace, *, auxiliary: bool = True) -> None:
        self.config = settings(preset, len(batch))
        spec = ModelSpec(
            features={name: ("features", width) for name, width in WIDTHS.items()},
            tasks={TASK: TaskSpec(type="regression", low=-3.0, high=3.0)},
        )
        model = build_model(self.config.model, spec)
        groups = parameter_groups(model, self.config.train.weight_decay)
        super().__init__(model, torch.optim.AdamW(groups, lr=1e-5, fused=True), options.torch_dtype)
        self.batch = batch
        self.auxiliary = auxiliary
        self.layout = StepLayout(len(batch), 1, self.config.loss.consistency.group)
        counted = local_counts([batch], self.layout, MODALITIES, [TASK])
        self.counts = StepCounts.from_vector(counted, self.layout, MODALITIES, [TASK])
        loss = self.config.loss
        names = ("consistency", "adversary", "reconstruction", "svr")
        self.weights = {"task": 1.0, **{name: getattr(loss, name).weight for name in names}}
        self.run = torch.compile(model) if options.compile else model
        self.terms = torch.compile(loss_terms) if options.compile else loss_terms

    def loss(self) -> tuple[float, Tensor]:
        """Forward, then the terms."""
        output = self.run(self.batch)
        forward = CLOCK()
        if not self.auxiliary:
            return forward, (output.predictions[TASK].float() - self.batch.labels[TASK]).square().mean()
        terms = self.terms(output, self.batch, self.counts, self.layout, self.config, 0, 1, lambda x: x)
        return forward, terms.total(self.weights, 1, 1)


def settings(preset: str, batch: int) -> Config:
    """A preset at its own sizes and dropout."""
    group = max(size for size in range(1, min(batch, 64) + 1) if batch % size == 0)
    return load_config(
        None,
        [
            f"model.preset={preset}",
            "data.train=unused",
            "train.select=last",
            f"train.global_batch={batch}",
            f"loss.consistency.group={group}",
        ],
    )


def make_batch(size: int, lengths: Tensor) -> Batch:
    """Random features; every modality as long as `lengths` [B] says, padded to the longest."""
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return Batch(
        keys=tuple(map(str, range(size))),
        slots=torch.arange(size),
        modalities={m: modality_batch(torch.randn(*mask.shape, width), mask) for m, width in WIDTHS.items()},
        labels={TASK: torch.randn(size)},
        label_mask={TASK: torch.ones(size, dtype=torch.bool)},
    )


def made(name: str, batch: Batch, options: argparse.Namespace) -> Contestant:
    """A contestant by name."""
    torch.manual_seed(0)
    return Plain(batch, options) if name == "plain" else Ours(name, batch, options)


def model_flops(contestant: Contestant) -> float:
    """Floating-point operations of the matrix products of one step: those of the forward pass three times."""
    compiled, contestant.run = contestant.run, contestant.model  # type: ignore[attr-defined]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        contestant.loss()
    contestant.run = compiled  # type: ignore[attr-defined]
    return 3.0 * counter.get_total_flops()


class MatrixProduct:
    """What the machine's matrix product reaches."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.a, self.b = torch.randn(1024, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
        self.times: list[float] = []

    def step(self) -> None:
        """One product."""
        started = CLOCK()
        self.a @ self.b
        self.times.append(CLOCK() - started)

    def rate(self) -> float:
        """Floating-point operations a second, by the median."""
        return 2 * 1024**3 / statistics.median(self.times)


def race(contestants: Sequence[Contestant], product: MatrixProduct, seconds: float) -> None:
    """Let all take turns for about `seconds`, three turns at least, after one that does not count."""
    turns: list[Callable[[], None]] = [*(one.step for one in contestants), product.step, product.step, product.step]
    for turn in turns:
        turn()
    for one in contestants:
        one.times.clear()
    product.times.clear()
    started = CLOCK()
    while CLOCK() - started < seconds or len(product.times) < 9:
        for turn in turns:
            turn()


def peak_memory(name: str, size: int, options: argparse.Namespace) -> float:
    """MB that three steps need beyond what the process held before, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return float(pool.apply(_peak, (name, size, options)))


def _peak(name: str, size: int, options: argparse.Namespace) -> float:
    torch.set_num_threads(options.threads)
    lengths = drawn_lengths(size, options)
    small = made(name, make_batch(size, lengths[:1].expand(size).clamp(max=1)), options)
    small.step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    contestant = made(name, make_batch(size, lengths), options)
    for _ in range(3):
        contestant.step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def drawn_lengths(size: int, options: argparse.Namespace) -> Tensor:
    """[B] steps of each sample: all `--steps`, or drawn from a packed split's own lengths."""
    if options.lengths is None:
        return torch.full((size,), options.steps)
    from ivr_dist.data.manifest import Manifest
    from ivr_dist.data.reader import ShardReader

    manifest = Manifest.load(options.lengths)
    with ShardReader(options.lengths, manifest, 1 << 28) as reader:
        numbers = torch.randperm(manifest.samples, generator=torch.Generator().manual_seed(0))[:size]
        samples = reader.read(numbers.numpy())
    return torch.tensor([max(len(sample.arrays["text"]), 1) for sample in samples])


def rows(size: int, options: argparse.Namespace) -> Iterator[list[str]]:
    """The table's rows for one batch size."""
    lengths = drawn_lengths(size, options)
    batch = make_batch(size, lengths)
    padding = 1 - float(lengths.sum()) / (size * int(lengths.max()))
    racing = {name: made(name, batch, options) for name in options.models}
    alone = {name: Ours(name, batch, options, auxiliary=False) for name in options.models if name != "plain"}
    product = MatrixProduct(options.torch_dtype)
    race([*racing.values(), *alone.values()], product, options.seconds)
    for name, one in racing.items():
        seconds, flops = one.seconds(), model_flops(one)
        auxiliary = f"{1 - alone[name].seconds() / seconds:.0%}" if name in alone else ""
        plain = f"{racing['plain'].seconds() / seconds:.2f}" if "plain" in racing else ""
        yield [
            name,
            str(size),
            f"{seconds * 1e3:.0f}",
            f"{size / seconds:.1f}",
            plain,
            f"{flops / seconds / 1e9:.1f}",
            f"{product.rate() / 1e9:.1f}",
            f"{flops / seconds / product.rate():.0%}",
            *(f"{one.share(part):.0%}" for part in _PARTS),
            auxiliary,
            f"{padding:.0%}",
            f"{peak_memory(name, size, options):.0f}" if options.memory else "",
        ]


def main() -> int:
    """Race and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["plain", "ivr"], choices=["plain", "ivr", "release"])
    parser.add_argument("--batch", nargs="+", type=int, default=[16, 64, 256])
    parser.add_argument("--steps", type=int, default=50, help="steps of every sequence")
    parser.add_argument("--lengths", help="packed split whose lengths of text are used instead")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compile", action="store_true", help="torch.compile models and losses")
    parser.add_argument("--memory", action="store_true", help="peak memory too, each in a process of its own")
    parser.add_argument("--seconds", type=float, default=15.0, help="about how long each batch size is measured")
    parser.add_argument("--cpu-time", action="store_true", help="seconds of CPU instead, where other jobs disturb")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    options.torch_dtype = getattr(torch, options.dtype)
    torch.set_num_threads(options.threads)
    if options.cpu_time:
        global CLOCK
        CLOCK = time.process_time
    print(f"{options.threads} threads, {options.dtype}, torch {torch.__version__}, widths {WIDTHS}")
    header = ["model", "batch", "ms/step", "samples/s", "x plain", "GFLOP/s", "matmul", "of it", *_PARTS]
    header += ["auxiliary", "padding", "peak MB"]
    print("  ".join(f"{cell:>9}" for cell in header))
    for size in options.batch:
        for row in rows(size, options):
            print("  ".join(f"{cell:>9}" for cell in row), flush=True)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
