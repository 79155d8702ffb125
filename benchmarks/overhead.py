"""What the system costs: the same model and batches in a bare PyTorch loop, and under Ray and DeepSpeed.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --stages 0 --rounds 5

The corpus has MOSEI's shape: 50 steps of text vectors (768), audio (74) and vision (35). `bare` is a loop of forward,
the same losses, backward, clipping and PyTorch's AdamW over batches that are in memory already, in one process that may
use one processor. `ours` is `ivr-dist train` with one Ray worker of one processor: reading shards, checks, ledgers,
TensorBoard, checkpoints. `two` are two such workers with as many samples each. `apart` are two bare loops at once,
which have nothing to do with each other: what two processors of this machine give at most. All these may use any
processor of the machine; `on one` is our worker again, with Ray and all, on one processor. They take turns; figures
are medians.

of bare     samples/s of our worker over those of the bare loop in the same round
of twice    samples/s of two workers on two processors over twice those of one on one processor, each worker with the
            same number of samples a step, where the machine has two processors
of two free the same over twice those of one worker that leaves Ray's own processes to another processor
apart       samples/s of two bare loops at once over twice those of one
of apart    samples/s of two workers over those of two bare loops at once
first step  seconds from the command to the end of the first step, Ray's own start included

`--json` ends with one JSON object on the last line of stdout; the table goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from readers import STEPS, MoseiShaped

from ivr_dist.config.loading import load_config
from ivr_dist.config.yaml_writer import to_yaml
from ivr_dist.corpora.source import SampleRef, SourceSample
from ivr_dist.packing.pack import pack
from ivr_dist.shards.specs import FeatureSpec

TEXT = 768

_SKIPPED = 5
"""First steps that are not timed: memory, caches and threads settle."""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", type=int, default=[0, 1], choices=range(4))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.bare:
        print(json.dumps(bare(options.bare)))
        return 0
    stream = sys.stderr if options.json else sys.stdout
    rows = []
    with tempfile.TemporaryDirectory(prefix="ivr-overhead-") as scratch:
        corpus = f"{scratch}/corpus"
        pack(Shaped(options.batch * 12), corpus)
        for stage in options.stages:
            row = compare(options, corpus, Path(scratch) / f"stage{stage}", stage)
            if not rows:
                print("  ".join(f"{name:>11}" for name in row), file=stream)
            cells = (f"{v:11.3f}" if isinstance(v, float) else f"{v:>11}" for v in row.values())
            print("  ".join(cells), file=stream, flush=True)
            rows.append(row)
    if options.json:
        print(json.dumps({"batch": options.batch, "hidden": options.hidden, "rows": rows}))
    return 0


class Shaped(MoseiShaped):
    """MOSEI's shape with text as vectors."""

    features: ClassVar = {
        **MoseiShaped.features,
        "text": FeatureSpec(set="vectors", dim=TEXT, dtype="float16", kind="features"),
    }

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        """Draw a sample."""
        found = super().load(split, ref)
        text = np.random.default_rng(ref.number).standard_normal((STEPS, TEXT), np.float32)
        return replace(found, arrays={**found.arrays, "text": text.astype(np.float16)})


def compare(options: argparse.Namespace, corpus: str, place: Path, stage: int) -> Mapping[str, Any]:
    """Rounds of the bare loop, one worker and two workers."""
    found: dict[str, list[float]] = {"bare": [], "apart": [], "ours": [], "on one": [], "two": [], "first": []}
    place.mkdir()
    for number in range(options.rounds):
        one = [sys.executable, __file__, "--bare", str(write_config(options, corpus, place / f"one{number}", stage, 1))]
        found["bare"].append(run(one)[0]["samples_per_s"])
        with ThreadPoolExecutor(2) as both:
            found["apart"].append(sum(result["samples_per_s"] for result, _ in both.map(run, [one, one])))
        for name, workers, processors in (("ours", 1, None), ("on one", 1, {number % 2}), ("two", 2, None)):
            config = write_config(options, corpus, place / f"{name}{number}".replace(" ", "-"), stage, workers)
            result, lines = run([sys.executable, "-m", "ivr_dist", "train", str(config), "--json"], processors)
            found[name].append(pace(result, lines, options.batch * workers))
            if processors is None:
                found["first"].append(next(when for when, line in lines if line.startswith("step ")))
    median = {name: statistics.median(values) for name, values in found.items()}

    def ratio(name: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(found[name], found[other], strict=True))

    return {
        "stage": stage,
        "bare/s": median["bare"],
        "ours/s": median["ours"],
        "on one/s": median["on one"],
        "two/s": median["two"],
        "of bare": ratio("ours", "bare"),
        "of twice": ratio("two", "on one") / 2,
        "of two free": ratio("two", "ours") / 2,
        "apart": ratio("apart", "bare") / 2,
        "of apart": ratio("two", "apart"),
        "first step": median["first"],
    }


def write_config(options: argparse.Namespace, corpus: str, run_dir: Path, stage: int, workers: int) -> Path:
    """The config of a run, as a file."""
    config = load_config(
        None,
        [
            f"data.train={corpus}/train",
            f"run.dir={run_dir}",
            f"run.num_workers={workers}",
            f"model.hidden={options.hidden}",
            f"train.global_batch={options.batch * workers}",
            f"train.max_steps={options.steps}",
            "train.select=last",
            "log.console_s=0",
            f"zero.stage={stage}",
        ],
    )
    path = run_dir.with_suffix(".yaml")
    path.write_text(to_yaml(config))
    return path


def run(words: list[str], processors: set[int] | None = None) -> tuple[dict[str, Any], list[tuple[float, str]]]:
    """The JSON object that a command ends with, and its other lines with the seconds after which they came.

    Args:
        words: The command.
        processors: Those that it and all it starts may use; None: any.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    if processors is not None:
        words = ["taskset", "--cpu-list", ",".join(map(str, sorted(processors))), *words]
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )
    assert process.stdout is not None
    lines = [(time.monotonic() - started, line.rstrip()) for line in process.stdout]
    if process.wait() != 0:
        raise SystemExit("\n".join(line for _, line in lines))
    return json.loads(lines[-1][1]), lines[:-1]


def pace(result: Mapping[str, Any], lines: list[tuple[float, str]], batch: int) -> float:
    """Samples a second over all steps but the first, from the times at which the lines of the steps came."""
    times = {int(match[1]): when for when, line in lines if (match := re.match(r"step +(\d+)/", line))}
    last = max(times)
    assert last == result["steps"]
    return (last - _SKIPPED) * batch / (times[last] - times[_SKIPPED])


def bare(config_file: str) -> dict[str, float]:
    """The bare loop, in this process."""
    import torch

    from ivr_dist.config import Config
    from ivr_dist.data.batches.collate import BatchSpec
    from ivr_dist.engine.param_groups import parameter_groups
    from ivr_dist.losses.step_counts import StepCounts, StepLayout, local_counts
    from ivr_dist.losses.terms import loss_terms
    from ivr_dist.model.build import build_model
    from ivr_dist.model.spec import ModelSpec
    from ivr_dist.planning.plan import make_plan
    from ivr_dist.runtime import device
    from ivr_dist.shards.manifest import Manifest
    from ivr_dist.training.attempt import _splits

    # What a worker does too; without it the bare loop is slower.
    device.tune_memory()
    torch.set_num_threads(1)
    config: Config = load_config(config_file, [])
    manifest = Manifest.load(config.data.train)
    plan = make_plan(config, manifest.samples, 1, manifest.total_bytes)
    spec = BatchSpec.from_manifest(manifest, config.data.modalities, config.data.standardize)
    layout = StepLayout(plan.global_batch, plan.accumulation, plan.group)
    model = build_model(config.model, ModelSpec(spec.modalities, spec.tasks), config.loss)
    optimizer = torch.optim.AdamW(parameter_groups(model, config.train.weight_decay), lr=config.train.lr, fused=True)
    loss = config.loss
    weights = {f"task/{task}": 1.0 for task in spec.tasks} | {
        name: getattr(loss, name).weight for name in ("consistency", "adversary", "reconstruction", "svr")
    }
    with _splits(config, plan, {"train": manifest}, spec, print) as splits:
        steps = splits["train"].loader.steps(splits["train"].loader.start)
        # Only steps of the first epoch; the last one is short.
        batches = [next(steps).micro_batches[0] for _ in range(plan.steps_per_epoch - 1)]
    for number in range(config.train.max_steps or 0):
        if number == _SKIPPED:
            started = time.monotonic()
        batch = batches[number % len(batches)]
        local = local_counts([batch], layout, spec.modalities, spec.tasks)
        counts = StepCounts.from_vector(local, layout, spec.modalities, spec.tasks)
        terms = loss_terms(model(batch), batch, counts, layout, config, 0, 1, lambda tensor: tensor)
        terms.total(weights, 1, 1).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
    taken = time.monotonic() - started
    return {"samples_per_s": (number + 1 - _SKIPPED) * plan.global_batch / taken}


if __name__ == "__main__":
    sys.exit(main())
