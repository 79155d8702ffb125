"""Training steps on a GPU timed: throughput, share of the peak, kernels, idle time, and where the host waits.

    make gpu-check                                     # the tests in tests/gpu, then this
    python benchmarks/gpu_check.py
    python benchmarks/gpu_check.py --sizes base --batch 256 --compile --json

One worker under DeepSpeed, as training has it: 50 steps of text (768), audio (74) and vision (35), all losses. On a
machine without a GPU it says so and ends with exit code 0; `--device cpu` tries the script itself on a small batch.

ms          median time of a step, with the device waited for before and after
TFLOP/s     of the model's matrix products, forward and twice that for backward
matmul      TFLOP/s of one large matrix product of the same type: the ceiling
kernels     launched in a step
idle        share of the step in which the GPU runs nothing
waits       times that the host waits for the GPU in a step; `--json` has the lines of code
peak GB     of the device's memory

`--json` ends with one JSON object on the last line of stdout; the table goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from contestants import TASK, make_batch, settings
from plain import WIDTHS
from torch.utils.flop_counter import FlopCounterMode

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config.loading import load_config
from ivr_dist.engine.deepspeed_engine import Engine
from ivr_dist.losses.step_counts import StepCounts, local_counts
from ivr_dist.model.build import build_model
from ivr_dist.model.spec import ModelSpec
from ivr_dist.planning.plan import make_plan
from ivr_dist.runtime import collectives, device
from ivr_dist.shards.specs import TaskSpec
from ivr_dist.training.train_step import TrainStep

_WARM_UP = 5
_PROFILED = 3


def main() -> int:
    """Measure and print."""
    options = _options()
    if options.device == "cuda" and not device.available():
        print("no GPU here: nothing is measured (--device cpu tries the script)", file=sys.stderr)
        return 0
    rows = []
    stream = sys.stderr if options.json else sys.stdout
    print(f"{device.describe()}, torch {torch.__version__}", file=stream)
    device.tune_memory()
    with tempfile.TemporaryDirectory() as scratch, collectives.group(f"{scratch}/store", 0, 1):
        for size in options.sizes:
            for batch in options.batch:
                for dtype in options.dtypes:
                    row = measured(size, batch, dtype, options)
                    if not rows:
                        print("  ".join(f"{name:>9}" for name in row if name != "waits at"), file=stream)
                    print("  ".join(f"{cell!s:>9}" for name, cell in row.items() if name != "waits at"), file=stream)
                    rows.append(row)
    if options.json:
        print(json.dumps({"device": device.describe(), "torch": torch.__version__, "rows": rows}))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--sizes", nargs="+", default=["base", "large"], choices=["base", "large", "xl"])
    parser.add_argument("--batch", nargs="+", type=int, default=[256, 1024])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"], choices=["bfloat16", "float32"])
    parser.add_argument("--stage", type=int, default=1, choices=range(4))
    parser.add_argument("--compile", action="store_true", help="by torch.compile, backend inductor")
    parser.add_argument("--steps", type=int, default=50, help="steps of every sequence")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one row")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measured(size: int, batch: int, dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row of figures."""
    step, flops = prepared(size, batch, dtype, options)
    for _ in range(_WARM_UP):
        step()
    seconds = _timed(step, options.seconds)
    row = {
        "model": size,
        "batch": batch,
        "dtype": dtype,
        "ms": round(1e3 * seconds, 2),
        "samples/s": round(batch / seconds),
        "TFLOP/s": round(flops / seconds / 1e12, 2),
        "matmul": round(matmul_rate(getattr(torch, dtype)) / 1e12, 2),
    }
    return {**row, **on_device(step, seconds)} if device.available() else row


def prepared(size: int, batch: int, dtype: str, options: argparse.Namespace) -> tuple[Callable[[], None], float]:
    """A function that takes one training step, and the floating-point operations of the step's matrix products."""
    torch.manual_seed(0)
    group = settings("ivr", batch).loss.consistency.group
    overrides = {
        "model.size": size,
        "data.train": "unused",
        "train.select": "last",
        "train.global_batch": batch,
        "train.max_micro_batch": batch,
        "loss.consistency.group": group,
        "train.dtype": dtype,
        "train.compile": "inductor" if options.compile else "none",
        "zero.stage": options.stage,
        "train.max_steps": 1000,
        "log.svr_every": 0,
    }
    config = load_config(None, [f"{key}={value}" for key, value in overrides.items()])
    tasks = {TASK: TaskSpec(type="regression", low=-3.0, high=3.0)}
    spec = ModelSpec(features={name: ("features", width) for name, width in WIDTHS.items()}, tasks=tasks)
    model = build_model(config.model, spec, config.loss)
    sample = make_batch(torch.full((1,), options.steps))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(sample)
    plan = make_plan(config, 10**6, 1)
    engine = Engine(
        model.train(),
        plan.deepspeed,
        weight_decay=config.train.weight_decay,
        device=device.training_device(0),
        backend=config.train.compile,
    )
    engine.train()
    training = TrainStep(config, plan, engine, tasks)
    made = make_batch(torch.full((batch,), options.steps))
    made = made.pinned() if device.available() else made
    counted = local_counts([made], training.layout, MODALITIES, tasks)
    counts = StepCounts.from_vector(counted, training.layout, MODALITIES, tasks)
    numbers = iter(range(10**6))
    return lambda: training.run(next(numbers), [made], counts) and None, 3.0 * counter.get_total_flops() * batch


def _wait() -> None:
    if device.available():
        torch.cuda.synchronize()


def _timed(step: Callable[[], None], most_s: float) -> float:
    """Median seconds of a step, over at least three."""
    times: list[float] = []
    until = time.monotonic() + most_s
    while len(times) < 3 or (time.monotonic() < until and len(times) < 100):
        _wait()
        began = time.perf_counter()
        step()
        _wait()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def matmul_rate(dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product."""
    size = 8192 if device.available() else 512
    left, right = (torch.randn(size, size, device=device.training_device(0)).to(dtype) for _ in range(2))
    return 2 * size**3 / _timed(lambda: torch.mm(left, right) is None or None, 0.5)


def on_device(step: Callable[[], None], seconds: float) -> dict[str, Any]:
    """Kernels, idle share and waits of a step on the GPU, and the most memory so far."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(_PROFILED):
            step()
        _wait()
    events = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    kernels = sum(not event.name.startswith(("Memcpy", "Memset")) for event in events)
    busy, last = 0.0, 0.0
    for start, end in sorted((event.time_range.start, event.time_range.end) for event in events):
        busy += max(0.0, end - max(start, last))
        last = max(last, end)
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step()
    torch.cuda.set_sync_debug_mode("default")
    waits = Counter(
        f"{w.filename.split('site-packages/')[-1]}:{w.lineno}" for w in caught if "synchron" in str(w.message)
    )
    return {
        "kernels": round(kernels / _PROFILED),
        "idle": round(1 - busy / _PROFILED / 1e6 / seconds, 3),
        "waits": sum(waits.values()),
        "peak GB": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "waits at": dict(waits.most_common()),
    }


if __name__ == "__main__":
    sys.exit(main())
