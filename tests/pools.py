"""A small pool of synthetic corpora for tests: other sets, other tasks, a missing modality, and equal widths."""

from __future__ import annotations

from pathlib import Path

from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.packing.pack import PackOptions, pack

SIZES = {"talks": 230, "calls": 100, "clips": 60}
"""Samples of all splits together."""


def pack_pool(folder: str, options: PackOptions | None = None) -> None:
    """Pack the corpora below a folder, each by its name."""
    options = options or PackOptions()
    common = {"text": 10, "audio": 12}
    pack(SynthSource(SIZES["talks"], 1, dims={**common, "vision": 8}, name="talks"), f"{folder}/talks", options)
    # Audio as wide as that of talks, but of another set by the config.
    pack(SynthSource(SIZES["calls"], 2, dims=common, name="calls"), f"{folder}/calls", options)
    source = SynthSource(SIZES["clips"], 3, dims={"audio": 12, "vision": 6}, name="clips", task="mood")
    pack(source, f"{folder}/clips", options)


def pool_run(folder: str, run: Path) -> list[str]:
    """Overrides of a run on the pool with every loss term on; its length is for the test to set."""
    return [
        f"data.corpora.talks.dir={folder}/talks",
        f"data.corpora.calls.dir={folder}/calls",
        "data.corpora.calls.sets={audio: narrow}",
        f"data.corpora.clips.dir={folder}/clips",
        "data.corpora.clips.loss_weight=0.5",
        "data.corpora.clips.class_weights={mood: balanced}",
        "data.mix.alpha=0.5",
        "data.mix.overlap=allow",
        "data.shuffle_delay=20",
        f"run.dir={run}",
        "model.hidden=16",
        "model.dropout=0",
        "train.global_batch=24",
        "train.lr=3e-3",
        "checkpoint.every=4steps",
        "log.console_s=0",
    ]
