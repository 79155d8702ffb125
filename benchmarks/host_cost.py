"""What a step costs before any arithmetic: CPU time of the same step with two samples of two time steps, by model size.

    python benchmarks/host_cost.py
    python benchmarks/host_cost.py --sizes base xl

On a GPU this is the time that the host needs to launch the kernels of a step, which cannot be faster. The model is
made narrow (`model.hidden=16`), so that what is left is Python, autograd and the calls of operations.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
from contestants import PARTS, TASK, make_batch
from plain import WIDTHS

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config.loading import load_config
from ivr_dist.engine.param_groups import parameter_groups
from ivr_dist.losses.step_counts import StepCounts, StepLayout, local_counts
from ivr_dist.losses.terms import loss_terms
from ivr_dist.model.build import build_model
from ivr_dist.model.spec import ModelSpec
from ivr_dist.shards.specs import TaskSpec

_SAMPLES = 2
_WARM_UP = 10
_WEIGHTS = {f"task/{TASK}": 1.0, "consistency": 1.0, "adversary": 0.4, "reconstruction": 1.0, "svr": 1.0}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["base", "large", "xl"], choices=["base", "large", "xl"])
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("  ".join(f"{name:>9}" for name in ("size", *PARTS, "sum")) + "  (ms of CPU time)")
    for size in options.sizes:
        parts = cost(size, options.steps)
        cells = [size, *(f"{value:.2f}" for value in parts.values()), f"{sum(parts.values()):.2f}"]
        print("  ".join(f"{cell:>9}" for cell in cells), flush=True)
    return 0


def cost(size: str, steps: int) -> dict[str, float]:
    """Median milliseconds of each part of a step."""
    heads = [f"model.{part}.heads=4" for part in (*MODALITIES, "fusion")]
    unused = ["data.train=unused", "train.select=last", f"train.global_batch={_SAMPLES}", "loss.consistency.group=2"]
    config = load_config(None, [f"model.size={size}", "model.hidden=16", *heads, *unused])
    tasks = {TASK: TaskSpec(type="regression", low=-3.0, high=3.0)}
    spec = ModelSpec(features={name: ("features", width) for name, width in WIDTHS.items()}, tasks=tasks)
    model = build_model(config.model, spec, config.loss)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01), lr=1e-5, fused=True)
    batch = make_batch(torch.full((_SAMPLES,), 2))
    layout = StepLayout(_SAMPLES, 1, _SAMPLES)
    counts = StepCounts.from_vector(local_counts([batch], layout, MODALITIES, [TASK]), layout, MODALITIES, [TASK])
    times: dict[str, list[float]] = {part: [] for part in PARTS}
    for number in range(_WARM_UP + steps):
        marks = [time.process_time()]
        output = model(batch)
        marks.append(time.process_time())
        terms = loss_terms(output, batch, counts, layout, config, 0, 1, lambda x: x)
        total = terms.total(_WEIGHTS, 1, 1)
        marks.append(time.process_time())
        total.backward()
        marks.append(time.process_time())
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.process_time())
        if number >= _WARM_UP:
            for part, start, end in zip(PARTS, marks, marks[1:], strict=False):
                times[part].append(1e3 * (end - start))
    return {part: statistics.median(values) for part, values in times.items()}


if __name__ == "__main__":
    sys.exit(main())
