"""Built-in sources, and one from outside the package, fulfill the contract."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ivr_dist.corpora.card import load_card
from ivr_dist.corpora.registry import open_source
from ivr_dist.corpora.source import Source
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.testing.sources import SourceContract

HEAD = """
name: clips
description: Six clips.
citation: none
licence: none
features:
  audio: {set: a3, dim: 3}
tasks:
  sentiment: {type: regression, low: -3, high: 3}
splits: {train: {}, test: {}}
"""


class TestSynthetic(SourceContract):
    def make(self, folder: Path) -> Source:
        return SynthSource(samples=12, seed=0)


class TestTable(SourceContract):
    def make(self, folder: Path) -> Source:
        card = f"{HEAD}files: {{samples: {{path: samples.jsonl}}}}\nformat: table\ntable: {{file: samples}}\n"
        rows = []
        for number in range(6):
            np.save(folder / f"{number}.npy", np.full((number + 1, 3), number, np.float32))
            split, labels = ("test" if number > 3 else "train"), {"sentiment": number / 2}
            rows.append({"id": f"clip{number}", "split": split, "labels": labels, "audio": f"{number}.npy"})
        (folder / "samples.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        (folder / "card.yaml").write_text(card)
        return open_source(str(folder), load_card(str(folder / "card.yaml")))


class TestFromOutside(SourceContract):
    def make(self, folder: Path) -> Source:
        card = f"{HEAD}files: {{}}\nformat: {{class: 'tests.extension_parts:Ramps', clips: 6}}\n"
        (folder / "card.yaml").write_text(card)
        return open_source(str(folder), load_card(str(folder / "card.yaml")), trust_code=True)
