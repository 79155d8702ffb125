"""The command to type after a corpus was packed: one that trains on it."""

from __future__ import annotations

import shlex

from ivr_dist.packing.pack import PackSummary

_CONFIG = "configs/quickstart.yaml"
_BATCH = 64
"""Global batch of that config, and size of its groups for the consistency term."""
_NEEDED = ("train", "valid")
_SPLITS = (*_NEEDED, "test")


def next_command(summary: PackSummary, url: str) -> str:
    """Return a command that trains on a packed corpus, or looks at it where it cannot be trained on as it is.

    Args:
        summary: Result of packing.
        url: Folder or URL of the splits, as the user typed it.
    """
    samples = {split.split: split.samples for split in summary.splits}
    without_input = any(split.split == "train" and split.empty == split.samples for split in summary.splits)
    if without_input or not all(name in samples for name in _NEEDED):
        return f"ivr-dist inspect {shlex.quote(url)}"
    words = ["ivr-dist", "train", _CONFIG, f"run.dir=runs/{summary.corpus}"]
    words += [f"data.{name}={url.rstrip('/')}/{name}" for name in _SPLITS if name in samples]
    if "test" not in samples:
        words.append("data.test=")
    if samples["train"] < 2 * _BATCH:
        batch = 1 << max(0, (samples["train"] // 4).bit_length() - 1)
        words += [f"train.global_batch={batch}", f"loss.consistency.group={batch}"]
    return shlex.join(words)
