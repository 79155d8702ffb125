"""One training step timed: forward, losses, backward and AdamW, beside the plain way of writing the released method.

    python benchmarks/step.py
    python benchmarks/step.py --batch 16 --models plain release --no-compile
    python benchmarks/step.py --models ivr release --dtype bfloat16
    python benchmarks/step.py --models ivr --lengths data/mosi_words/train

The models take turns, eight each, in processes of their own; figures are medians over all of them. Ours run as a worker
does, with freed memory kept and tensors in huge pages; the plain model is left as PyTorch is.

x plain     samples/s over those of the plain model
GFLOP/s     of the model's matrix products, forward and twice that for backward, nothing that is computed again
matmul      GFLOP/s of one large matrix product, between the steps
auxiliary   share of the step that all losses but the task's, and their backward, take
probe       share of training time that measuring SVR's gradient takes, every 50 steps
padding     share of the places that hold no step
x unpadded  with --lengths: valid steps a second, over those of as many in sequences of one length
peak MB     what training needs beyond the process without a model

`--json` ends with one JSON object on the last line of stdout; the table goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import torch
from contestants import PARTS
from plain import WIDTHS
from race import CLOCKS, Racer, Setting, race
from torch import Tensor

from ivr_dist.runtime.compilation import NONE

_PROBE_EVERY = 50


def main() -> int:
    """Race and print."""
    options = _options()
    about = {"threads": options.threads, "dtype": options.dtype, "torch": torch.__version__, "widths": WIDTHS}
    stream = sys.stderr if options.json else sys.stdout
    print(", ".join(f"{name} {value}" for name, value in about.items()), file=stream)
    found = []
    for size in options.batch:
        for row in rows(size, options):
            if not found:
                print("  ".join(f"{name:>10}" for name in _shown(row)), file=stream)
            print("  ".join(f"{cell:>10}" for cell in _shown(row).values()), file=stream, flush=True)
            found.append(row)
    if options.json:
        print(json.dumps({**about, "rows": found}))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["plain", "ivr", "release"]
    parser.add_argument("--models", nargs="+", default=names, choices=names)
    parser.add_argument("--batch", nargs="+", type=int, default=[16, 64, 256])
    parser.add_argument("--steps", type=int, default=50, help="steps of every sequence")
    parser.add_argument("--lengths", help="packed split whose lengths of text are used instead")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    both = argparse.BooleanOptionalAction
    parser.add_argument("--compile", action=both, default=True, help="also with torch.compile of models and losses")
    parser.add_argument("--seconds", type=float, default=1.5, help="of one turn of one model")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: where other jobs disturb")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def rows(size: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row of figures for each model at one batch size."""
    lengths = drawn_lengths(size, options)
    setting = Setting(options.dtype, options.threads, options.clock, options.seconds)
    backends = (NONE, "inductor") if options.compile else (NONE,)
    racing = [Racer(name, each, lengths, setting) for name in options.models for each in backends]
    even = torch.full_like(lengths, -(-int(lengths.sum()) // size))
    ours = [name for name in options.models if name != "plain"]
    level = {name: Racer(name, NONE, even, setting) for name in ours} if options.lengths else {}
    best = race([*racing, *level.values()])
    plain = next((racer for racer in racing if racer.name == "plain" and racer.backend == NONE), None)
    for racer in racing:
        seconds = racer.seconds()
        row: dict[str, Any] = {
            "model": racer.name if racer.backend == NONE else f"{racer.name}+compile",
            "batch": size,
            "ms/step": 1e3 * seconds,
            "samples/s": size / seconds,
            "x plain": plain.seconds() / seconds if plain else None,
            "GFLOP/s": racer.flops / seconds / 1e9,
            "matmul": best / 1e9,
            "of matmul": racer.flops / seconds / best,
            **{part: racer.share(part) for part in PARTS},
            "auxiliary": None,
            "probe": None,
            "padding": 1 - float(lengths.sum()) / (size * int(lengths.max())),
            "x unpadded": None,
            "peak MB": racer.peak,
        }
        if racer.name != "plain":
            extra = (racer.seconds("probed") - seconds) / _PROBE_EVERY
            row |= {"auxiliary": 1 - racer.seconds("task") / seconds, "probe": extra / (seconds + extra)}
        if racer.name in level and racer.backend == NONE:
            row["x unpadded"] = (float(lengths.sum()) / seconds) / (float(even.sum()) / level[racer.name].seconds())
        yield row


def drawn_lengths(size: int, options: argparse.Namespace) -> Tensor:
    """[B] steps of each sample: all `--steps`, or drawn from a packed split's own lengths."""
    if options.lengths is None:
        return torch.full((size,), options.steps)
    from ivr_dist.data.reading.shard_reader import ShardReader
    from ivr_dist.shards.manifest import Manifest

    manifest = Manifest.load(options.lengths)
    numbers = torch.randperm(manifest.samples, generator=torch.Generator().manual_seed(0))[:size]
    with closing(ShardReader(options.lengths, manifest, 1 << 28)) as reader:
        samples = reader.read(numbers.numpy())
    return torch.tensor([max(len(sample.arrays.get("text", ())), 1) for sample in samples])


def _shown(row: dict[str, Any]) -> dict[str, str]:
    """A row as text."""
    shares = {"of matmul", "auxiliary", "padding", *PARTS}

    def text(name: str, value: Any) -> str:
        if value is None:
            return ""
        if name in shares:
            return f"{value:.0%}"
        if name == "probe":
            return f"{value:.2%}"
        return f"{value:.2f}" if name.startswith("x ") else f"{value:.1f}" if isinstance(value, float) else str(value)

    return {name: text(name, value) for name, value in row.items()}


if __name__ == "__main__":
    sys.exit(main())
