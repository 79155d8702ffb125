"""Published tables, read and packed as they are by the card that `ivr-dist card` writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ivr_dist.corpora.card import load_card
from ivr_dist.corpora.card_writer import write_card
from ivr_dist.corpora.registry import open_source
from ivr_dist.corpora.table_survey import Wishes
from ivr_dist.inspection.verify import verify
from ivr_dist.packing.pack import pack
from ivr_dist.shards.manifest import Manifest

FOLDER = Path(os.environ.get("IVR_DIST_REAL_DATA", "/nonexistent"))

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (FOLDER / "meld").is_dir(), reason="IVR_DIST_REAL_DATA names no folder with meld in it"),
]


@pytest.mark.parametrize(
    ("path", "label", "samples", "group"),
    [
        ("meld/train_sent_emo.csv", "Emotion", 9989, "Dialogue_ID"),
        ("mosei/original/valid.tsv", "label", 1871, "vid"),
        ("mustard_plus_plus/mustard++_text.csv", "Sarcasm", 6041, "SCENE"),
        ("emorynlp/emorynlp_dev_final.csv", "Emotion", 954, "Scene_ID"),
    ],
)
def test_a_published_table_packs_without_an_option(
    tmp_path: Path, path: str, label: str, samples: int, group: str
) -> None:
    out = str(tmp_path / "x.yaml")
    lines = write_card(str(FOLDER / path), Wishes(labels=[label]), name="x", out=out, overwrite=False)
    assert lines[0].startswith(f"{samples} rows; ") and "none in two splits" in lines[0]
    card = load_card(out)
    assert card.table is not None and card.table.group == group
    pack(open_source(str((FOLDER / path).parent), card), str(tmp_path / "out"))
    urls = [str(tmp_path / "out" / split) for split in ("train", "valid", "test")]
    counts = [Manifest.load(url).samples for url in urls]
    assert sum(counts) == samples
    for count, share in zip(counts, (0.7, 0.1, 0.2), strict=True):
        assert abs(count / samples - share) < 0.05
    assert verify(urls, card).ok
