"""A synthetic corpus of three splits whose samples lack modalities, for tests of profiles and reports."""

from __future__ import annotations

from ivr_dist.corpora.synthetic import SynthSource

SOURCE = SynthSource(160, dims={"text": 300, "audio": 74, "vision": 35}, aligned=False, missing=0.2)
SPLITS = ("train", "valid", "test")
