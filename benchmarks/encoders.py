"""Kinds and sizes of the context encoders compared: quality on validation beside the operations that it takes.

    python benchmarks/encoders.py data/mosi_words --config configs/mosi_words.yaml
    python benchmarks/encoders.py data/quickstart --config configs/quickstart.yaml --seeds 0,1,2,3,4
    python benchmarks/encoders.py data/mosi_words --config configs/mosi_words.yaml --keep-model --choices default,gru

One thing is changed at a time, in the encoders of all modalities alike. The model is the preset's default otherwise,
whatever the config says, unless `--keep-model`; data, losses and training are the config's. Every choice trains once
with each seed, in this process, to its last step, and is scored on the validation split; the test split is not read.

MFLOP are the matrix products of the model for one sample of the corpus's mean lengths, forward and twice that for
backward; samples/s is the median over all steps of training. `--json` ends with one JSON object on the last line of
stdout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ivr_dist import storage
from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config import Config, Modality, ModelConfig
from ivr_dist.config.loading import load_config
from ivr_dist.config.validation import check
from ivr_dist.data.batches.batch import Batch, ModalityBatch, modality_batch
from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.display.tables import print_table
from ivr_dist.model.build import build_model
from ivr_dist.model.spec import ModelSpec
from ivr_dist.orchestration import worker
from ivr_dist.orchestration.multi_seed import parse_seeds, summarize
from ivr_dist.orchestration.preflight import preflight
from ivr_dist.run.events import Event, StepProgress
from ivr_dist.shards import index
from ivr_dist.shards.manifest import Manifest

CHOICES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "none": {"kind": "none"},
    "gru": {"kind": "gru"},
    "feedforward 2": {"feedforward": 2},
    "feedforward 4": {"feedforward": 4},
    "feedforward 16": {"feedforward": 16},
    "layers 2": {"layers": 2},
    "hidden 64": {"hidden": 64},
    "hidden 256": {"hidden": 256},
}
"""What differs from the default; `hidden` is the width of the whole model, the others are of its encoders."""

SHOWN = ("corr", "mae", "acc2_non0", "accuracy", "f1_weighted")
"""Validation metrics of the table, where the task has them; the JSON object has all."""

_COUNTED = 8
"""Samples of the batch whose operations are counted."""


@dataclass
class Result:
    """What one choice cost and gave."""

    name: str
    changed: Mapping[str, Any]
    parameters: int
    flops_per_sample: float
    rates: list[float] = field(default_factory=list)
    """Samples a second of every step of every seed."""
    metrics: list[dict[str, dict[str, float | None]]] = field(default_factory=list)
    """By seed: those of the result."""

    def to_json(self) -> dict[str, Any]:
        """Medians and means."""
        cells = {name: value for name, value in asdict(self).items() if name not in ("rates", "metrics")}
        return {**cells, "samples_per_s": statistics.median(self.rates), **summarize(self.metrics)}


class Recorder:
    """A console that keeps the pace of each step and says nothing."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def emit(self, event: Event) -> None:
        """Keep the pace."""
        if isinstance(event, StepProgress):
            self.rates.append(event.samples_per_s)

    def stop_requested(self) -> bool:
        """Never."""
        return False


def main() -> int:
    """Train every choice with every seed, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="directory or URL with the packed splits train and valid")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="set over the config")
    parser.add_argument("--config", required=True, help="data, losses and training")
    parser.add_argument("--keep-model", action="store_true", help="the config's model instead of the preset's default")
    parser.add_argument("--choices", default=",".join(CHOICES), help="which of them (default: %(default)s)")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_intermixed_args()
    torch.set_num_threads(options.threads)
    seeds = parse_seeds(options.seeds)
    with tempfile.TemporaryDirectory(prefix="ivr-encoders-") as scratch:
        torch.distributed.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=0, world_size=1)
        try:
            results = compare(options, seeds, Path(scratch))
        finally:
            torch.distributed.destroy_process_group()
    stream = sys.stderr if options.json else sys.stdout
    print_table(*table(results), stream)
    about = {"corpus": options.corpus, "seeds": seeds, "threads": options.threads, "torch": torch.__version__}
    print(", ".join(f"{name} {value}" for name, value in about.items()), file=stream)
    if options.json:
        print(json.dumps({**about, "choices": [result.to_json() for result in results]}))
    return 0


def compare(options: argparse.Namespace, seeds: Sequence[int], scratch: Path) -> list[Result]:
    """Every choice with every seed; the choices take turns, so that whatever else the machine does hits them alike."""
    base = settings(options)
    _, manifests = preflight(base, 1)
    lengths = mean_lengths(base.data.train, manifests["train"])
    configs = {name: with_encoders(base, CHOICES[name]) for name in options.choices.split(",")}
    results = {name: measured(name, config, manifests["train"], lengths) for name, config in configs.items()}
    for seed in seeds:
        for name, config in configs.items():
            place = scratch / f"{name}-{seed}"
            recorder = Recorder()
            worker.train(replace(config, run=replace(config.run, dir=str(place), seed=seed)), recorder, 0, 0)
            results[name].rates += recorder.rates
            results[name].metrics.append(storage.read_json(str(place / "result.json"))["metrics"])
            storage.delete_tree(str(place))
            print(f"seed {seed}, {name}: {recorder.rates[-1]:.0f} samples/s", file=sys.stderr, flush=True)
    return list(results.values())


def settings(options: argparse.Namespace) -> Config:
    """The config of the default choice: no test split, and nothing on the way that takes time from training."""
    corpus = options.corpus
    fixed = [
        f"data.train={storage.join(corpus, 'train')}",
        f"data.valid={storage.join(corpus, 'valid')}",
        "data.test=",
        "run.num_workers=0",
        "run.audit=false",
        "train.select=last",
        "train.patience=null",
        "train.eval_every=1000000epochs",
        "checkpoint.every=1000000epochs",
        "log.svr_every=0",
        "log.console_s=0",
    ]
    config = load_config(options.config, [*options.overrides, *fixed])
    return config if options.keep_model else replace(config, model=ModelConfig())


def with_encoders(config: Config, changed: Mapping[str, Any]) -> Config:
    """The config with other encoders in all modalities."""
    encoder = {name: value for name, value in changed.items() if name != "hidden"}
    parts = {name: replace(getattr(config.model, name), **encoder) for name in get_args(Modality)}
    found = replace(config, model=replace(config.model, hidden=changed.get("hidden", config.model.hidden), **parts))
    check(found)
    return found


def mean_lengths(split_url: str, manifest: Manifest) -> dict[str, int]:
    """Steps by modality, the rounded mean over the samples that have it, at least 1."""
    shards = [index.load(storage.join(split_url, shard.index.name)).lengths for shard in manifest.shards]
    columns = dict(zip(MODALITIES, np.concatenate(shards).T, strict=True))
    return {name: max(round(float(columns[name][columns[name] > 0].mean())), 1) for name in manifest.features}


def measured(name: str, config: Config, train: Manifest, lengths: Mapping[str, int]) -> Result:
    """A choice's parameters and operations."""
    spec = BatchSpec.from_manifest(train, config.data.modalities, [])
    model = build_model(config.model, ModelSpec(spec.modalities, spec.tasks)).eval()
    parts = {name: random_steps(*layout, lengths[name]) for name, layout in spec.modalities.items()}
    batch = Batch(tuple("x" * _COUNTED), torch.arange(_COUNTED), parts, labels={}, label_mask={})
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(batch)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Result(name, CHOICES[name], parameters, 3.0 * counter.get_total_flops() / _COUNTED)


def random_steps(kind: str, width: int, steps: int) -> ModalityBatch:
    """Random features, or random token ids."""
    shape = (_COUNTED, steps)
    mask = torch.ones(shape, dtype=torch.bool)
    return modality_batch(torch.randint(width, shape) if kind == "tokens" else torch.randn(*shape, width), mask)


def table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and rows."""
    shown = [n for n in results[0].metrics[0]["valid"] if n.rpartition("/")[2] in SHOWN]
    rows = []
    for result in results:
        found = result.to_json()
        cells = [found["valid"].get(name) for name in shown]
        rows.append(
            [
                result.name,
                f"{result.parameters / 1e6:.2f}",
                f"{result.flops_per_sample / 1e6:.1f}",
                f"{found['samples_per_s']:.0f}",
                *("-" if cell is None else f"{cell['mean']:.3f} +- {cell['std']:.3f}" for cell in cells),
            ]
        )
    return ["encoders", "M parameters", "MFLOP a sample", "samples/s", *shown], rows


if __name__ == "__main__":
    sys.exit(main())
