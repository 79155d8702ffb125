"""One training step of a pool timed: 16 input layers, 8 heads and losses of 8 corpora, against one corpus' 3 and 1.

    python benchmarks/pool_step.py --json
    python benchmarks/pool_step.py --batch 64 256 --steps 20

Both have the preset `ivr`, as many samples, and as many steps of the same widths. They take turns, eight each, in
processes of their own; figures are medians over all of them.

ms/step     counts, forward, losses, backward and AdamW
x corpus    time of the step over that of one corpus
forward     share of the step, counts included; losses, backward and update likewise

`--json` ends with one JSON object on the last line of stdout; the table goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
from contestants import PARTS
from pool_contestants import CORPORA, POOLS, SETS
from race import CLOCKS, Racer, Setting, race

from ivr_dist.runtime.compilation import NONE


def main() -> int:
    """Race and print."""
    options = _options()
    about = {"threads": options.threads, "torch": torch.__version__, "sets": sum(SETS.values()), "heads": CORPORA}
    stream = sys.stderr if options.json else sys.stdout
    print(", ".join(f"{name} {value}" for name, value in about.items()), file=stream)
    found = [row for size in options.batch for row in rows(size, options)]
    for number, row in enumerate(found):
        shown = {name: f"{value:.3f}" if isinstance(value, float) else str(value) for name, value in row.items()}
        if not number:
            print("  ".join(f"{name:>9}" for name in shown), file=stream)
        print("  ".join(f"{cell:>9}" for cell in shown.values()), file=stream)
    if options.json:
        print(json.dumps({**about, "rows": found}))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", nargs="+", type=int, default=[64])
    parser.add_argument("--steps", type=int, default=50, help="steps of every sequence")
    parser.add_argument("--seconds", type=float, default=1.5, help="of one turn of one contestant")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: where other jobs disturb")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def rows(size: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row of figures for each contestant at one batch size."""
    lengths = torch.full((size,), options.steps)
    setting = Setting("float32", options.threads, options.clock, options.seconds)
    racing = [Racer(name, NONE, lengths, setting) for name in POOLS]
    race(racing)
    for racer in racing:
        yield {
            "name": racer.name,
            "batch": size,
            "ms/step": 1e3 * racer.seconds(),
            "x corpus": racer.seconds() / racing[0].seconds(),
            **{part: racer.share(part) for part in PARTS},
        }


if __name__ == "__main__":
    sys.exit(main())
