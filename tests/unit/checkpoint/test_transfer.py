"""Which weights a new run takes from a checkpoint: by feature sets and heads, every tensor accounted for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ivr_dist.checkpoint.transfer import ModelInputsAndHeads, Transfer, match_tensors
from ivr_dist.config import LossConfig
from ivr_dist.errors import CheckpointMismatchError
from ivr_dist.model.build import build_model
from ivr_dist.model.spec import ModelSpec
from ivr_dist.shards.specs import TaskSpec
from tests.batches import model_config

SCORE = TaskSpec(type="regression", low=-1.0, high=1.0)
MOOD = TaskSpec(type="classification", classes=3)
Sets = dict[str, dict[str, int]]

POOL: Sets = {"text": {"glove": 6}, "audio": {"covarep": 5, "opensmile": 4}}
ONE: Sets = {"text": {"glove": 6}, "audio": {"covarep": 5}}


def shapes(sets: Sets, heads: dict[str, TaskSpec], hidden: int = 8) -> dict[str, list[int]]:
    several = {m: {name: ("features", d) for name, d in own.items()} for m, own in sets.items() if len(own) > 1}
    features = {m: ("sets", len(own)) if len(own) > 1 else ("features", *own.values()) for m, own in sets.items()}
    model = build_model(model_config(hidden=hidden), ModelSpec(features, heads, None, several), LossConfig())
    return {name: list(parameter.shape) for name, parameter in model.named_parameters()}


def match(
    here: Sets, own: dict[str, TaskSpec], there: Sets, stored: dict[str, TaskSpec], **options: object
) -> Transfer:
    return match_tensors(
        shapes(here, own),
        ModelInputsAndHeads({m: list(sets) for m, sets in here.items()}, own),
        shapes(there, stored),
        ModelInputsAndHeads({m: list(sets) for m, sets in there.items()}, stored),
        new_heads=bool(options.get("new_heads")),
        where="CKPT",
    )


def test_a_pool_to_one_corpus_and_back() -> None:
    found = match(ONE, {"score": SCORE}, POOL, {"score": SCORE, "mood": MOOD})
    assert found.taken["encoders.audio.project.weight"] == "encoders.audio.adapters.set_covarep.weight"
    assert found.new == () and found.left == ("audio adapter opensmile", "head mood")
    assert set(found.taken) == set(shapes(ONE, {"score": SCORE}))
    back = match(POOL, {"score": SCORE, "mood": MOOD}, ONE, {"score": SCORE})
    assert back.taken["encoders.audio.adapters.set_covarep.weight"] == "encoders.audio.project.weight"
    assert back.new == ("audio adapter opensmile", "head mood") and back.left == ()
    assert "new: audio adapter opensmile, head mood" in back.describe("runs/a")


def test_other_sets_and_heads_are_new() -> None:
    other: Sets = {"text": {"glove": 6}, "audio": {"wav2vec": 5}}
    found = match(other, {"score": SCORE}, ONE, {"score": SCORE})
    assert found.new == ("audio adapter wav2vec",) and found.left == ("audio adapter covarep",)
    spec = match(ONE, {"score": MOOD}, ONE, {"score": SCORE})
    assert spec.new == spec.left == ("head score",)
    # Whether classes are ordered is no matter of what a head predicts.
    assert match(ONE, {"score": MOOD}, ONE, {"score": replace(MOOD, ordered=True)}).new == ()
    fresh = match(ONE, {"score": SCORE}, ONE, {"score": SCORE}, new_heads=True)
    assert fresh.new == fresh.left == ("head score",)


def test_a_modality_that_one_of_the_two_lacks_is_new_or_left() -> None:
    text: Sets = {"text": {"glove": 6}}
    found = match(text, {"score": SCORE}, ONE, {"score": SCORE})
    assert found.left == ("modality audio",) and found.new == ("fusion of text alone",)
    grown = match(ONE, {"score": SCORE}, text, {"score": SCORE})
    assert grown.new == ("modality audio",) and grown.left == ("fusion of text alone",)


def test_a_checkpoint_that_does_not_name_its_set_gives_it_to_the_only_one() -> None:
    own = {"score": SCORE}
    stored = ModelInputsAndHeads({"text": [""], "audio": [""]}, own)
    here = ModelInputsAndHeads({m: list(sets) for m, sets in ONE.items()}, own)
    found = match_tensors(shapes(ONE, own), here, shapes(ONE, own), stored, new_heads=False, where="CKPT")
    assert found.new == found.left == ()


def test_other_encoders_are_refused_by_the_first_tensor() -> None:
    own = {"score": SCORE}
    inputs = ModelInputsAndHeads({m: list(sets) for m, sets in ONE.items()}, own)
    wide = shapes(ONE, own, hidden=16)
    with pytest.raises(CheckpointMismatchError, match=r"of another model: encoders\.text\.\S+ is \[\d+.* there and"):
        match_tensors(wide, inputs, shapes(ONE, own), inputs, new_heads=False, where="CKPT")
    deeper = {**shapes(ONE, own), "fusion.more.weight": [8, 8]}
    with pytest.raises(CheckpointMismatchError, match=r"fusion\.more\.weight is \[8, 8\] there and absent here"):
        match_tensors(shapes(ONE, own), inputs, deeper, inputs, new_heads=False, where="CKPT")
