"""Pictures of a run on several corpora, from its TensorBoard files: shares and passes, and the scores of each corpus.

    python benchmarks/pool_pictures.py runs/transcripts_pool/seed-0 --out docs/pictures

Writes `pool_shares.svg` (what a corpus is of all samples, what it is of the steps so far, and the passes over it) and
`pool_curves.svg` (validation skill of each task: 0 is no better than a constant, 1 is perfect; and the loss of each
task relative to its first points). Needs matplotlib (`pip install 'ivr-dist[bench]'`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib import pyplot
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ivr_dist import storage

Array = npt.NDArray[np.float64]
Curves = Mapping[str, tuple[Array, Array]]
"""Steps and values by tag."""
SMOOTHED = 30
"""Points over which a loss is averaged."""
LOWEST = -0.5
"""Skill below which no difference is drawn."""


def main() -> int:
    """Draw both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="directory of the run")
    parser.add_argument("--out", default="docs/pictures", help="directory of the pictures")
    options = parser.parse_args()
    # Text stays text, and the same run gives the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ivr", "font.size": 9, "axes.spines.top": False})
    mpl.rcParams.update({"axes.spines.right": False})
    curves = read(options.run)
    samples = {
        key.removesuffix("/train"): storage.read_json(storage.join(url, "manifest.json"))["samples"]
        for key, url in trained(storage.read_json(storage.join(options.run, "run.json")))
    }
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in (("pool_shares", shares(curves, samples)), ("pool_curves", scores(curves, list(samples)))):
        figure.savefig(out / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight", facecolor="white")
        print(out / f"{name}.svg")
    return 0


def read(run: str) -> Curves:
    """Read all scalars of a run."""
    board = EventAccumulator(str(Path(run) / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    return {
        tag: (np.array([event.step for event in events], float), np.array([event.value for event in events], float))
        for tag in board.Tags()["scalars"]
        for events in [board.Scalars(tag)]
    }


def trained(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the training splits of a run, by corpus."""
    corpora = record["config"]["data"]["corpora"]
    return [(name, entry["train"]) for name, entry in corpora.items() if entry and entry.get("train")]


def shares(curves: Curves, samples: Mapping[str, int]) -> Any:
    """Draw shares of samples and of steps, and the passes over each corpus."""
    names = list(samples)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8.5, 2.8), width_ratios=[3, 2], layout="constrained")
    rows = np.arange(len(names))
    of_samples = [100 * samples[name] / sum(samples.values()) for name in names]
    of_steps = [100 * float(np.mean(curves[f"corpus/{name}/share"][1])) for name in names]
    left.barh(rows - 0.2, of_samples, 0.38, color="#b9c4d0", label="of all samples")
    left.barh(rows + 0.2, of_steps, 0.38, color="#2a6f97", label="of the slots of a step")
    left.set_yticks(rows, names)
    left.invert_yaxis()
    left.set_xlabel("share, %")
    left.legend(frameon=False)
    for name in names:
        steps, passes = curves[f"corpus/{name}/passes"]
        right.plot(steps, passes, label=name, linewidth=1.4)
    right.set_xlabel("step")
    right.set_ylabel("passes")
    right.legend(frameon=False, fontsize=8)
    return figure


def scores(curves: Curves, names: list[str]) -> Any:
    """Draw, by corpus, the validation skill of each task and its loss relative to the first steps."""
    figure, panels = pyplot.subplots(
        2, len(names), figsize=(2.1 * len(names), 4.2), sharex=True, sharey="row", squeeze=False, layout="constrained"
    )
    for (top, bottom), name in zip(panels.T, names, strict=True):
        for color, tag in enumerate(sorted(tag for tag in curves if tag.startswith(f"loss/task/{name}/"))):
            task = tag.rpartition("/")[2]
            # A corpus of one task has metrics without its name.
            scored = next(tag for tag in (f"valid/{name}/{task}/skill", f"valid/{name}/skill") if tag in curves)
            steps, skill = curves[scored]
            top.plot(steps, np.maximum(skill, LOWEST), color=f"C{color}", marker="o", markersize=2.5, linewidth=1.1)
            steps, values = curves[tag]
            smooth = np.convolve(values, np.full(SMOOTHED, 1 / SMOOTHED), "valid")
            bottom.plot(steps[SMOOTHED - 1 :], smooth / smooth[0], color=f"C{color}", linewidth=1.0, label=task)
        top.axhline(0, color="#999999", linewidth=0.8)
        top.set_title(name, fontsize=9)
        bottom.set_xlabel("step")
        bottom.set_ylim(0, 1.7)
        bottom.legend(frameon=False, fontsize=6.5, loc="upper right")
    panels[0, 0].set_ylabel(f"validation skill (from {LOWEST})")
    panels[1, 0].set_ylabel("training loss, at first = 1")
    return figure


if __name__ == "__main__":
    sys.exit(main())
