"""`state.json`: strict decoding of every version, and an unchanged encoding."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ivr_dist.checkpoint.state import CheckpointState, Progress
from ivr_dist.checkpoint.weights import batch_spec, check_same_model, initial_state
from ivr_dist.common.decoder import DecodeError
from ivr_dist.config.loading import load_config
from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.data.cursor import DataCursor
from ivr_dist.errors import CheckpointMismatchError
from ivr_dist.shards.specs import TaskSpec
from tests.pooled_batches import SPEC

RECORDED = """\
{
 "format": 3,
 "step": 22,
 "cursor": {
  "manifest_id": "24a3",
  "seed": 0,
  "epoch": 1,
  "step": 4,
  "lanes": 64,
  "global_batch": 64,
  "delay": 1000
 },
 "counters": {
  "step": 22,
  "samples": 1400,
  "best": 0.5122518795977036,
  "best_checkpoint": "step-00000022.a01",
  "stale": 0,
  "skipped": 2,
  "faults": 1
 },
 "rng": {
  "seed": 0
 },
 "metrics": {
  "valid": {
   "synth/mae": 0.5122518795977036,
   "synth/corr": null
  }
 },
 "spent": {
  "training": 15.572757936008202,
  "data": 0.19216264799069904
 },
 "config": {
  "run": {
   "dir": "/runs/q"
  }
 },
 "model": {
  "preset": "ivr",
  "hidden": 48
 },
 "features": {
  "text": [
   "features",
   3
  ],
  "audio": [
   "features",
   2
  ]
 },
 "tasks": {
  "sentiment": {
   "type": "regression",
   "low": -3.0,
   "high": 3.0,
   "classes": null,
   "scale": "mosi"
  }
 },
 "statistics": {
  "audio": [
   [
    -0.0001420499902451411,
    0.25
   ],
   [
    1.0,
    0.5
   ]
  ]
 },
 "manifests": {
  "train": "24a3",
  "valid": "9e67"
 },
 "world": 2,
 "stage": 2,
 "shapes": {
  "head.weight": [
   1,
   48
  ],
  "scale": []
 }
}"""
"""As version 0.1 wrote it."""


def recorded(**changes: Any) -> dict[str, Any]:
    return {**json.loads(RECORDED), **changes}


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in recorded().items() if name not in names}


def test_what_was_written_is_written_again_to_the_byte() -> None:
    state = CheckpointState.from_json(json.loads(RECORDED))
    assert json.dumps(state.to_json(), indent=1) == RECORDED
    assert state.cursor == DataCursor(
        manifest_id="24a3", seed=0, epoch=1, step=4, lanes=64, global_batch=64, delay=1000
    )
    assert state.progress == Progress(22, 1400, 0.5122518795977036, "step-00000022.a01", 0, 2, 1)
    assert state.tasks == {"sentiment": TaskSpec(type="regression", low=-3.0, high=3.0, scale="mosi")}


def test_older_versions_wrote_less_and_newer_ones_may_write_more() -> None:
    state = CheckpointState.from_json({**without("spent", "manifests", "rng"), "later": {"x": 1}})
    assert (state.spent, state.manifests, state.step) == ({}, {}, 22)
    fewer = {"step": 22, "samples": 1400, "best": None, "best_checkpoint": None, "stale": 0}
    assert CheckpointState.from_json(recorded(counters=fewer)).progress == Progress(22, 1400)


def test_a_model_that_was_never_trained_has_neither_cursor_nor_progress() -> None:
    state = CheckpointState.from_json(without("cursor", "counters", "rng", "spent", "manifests"))
    assert state.cursor is None and state.progress is None
    assert not {"cursor", "counters", "rng", "spent", "manifests"} & set(state.to_json())


@pytest.mark.parametrize("name", ["step", "config", "model", "features", "tasks", "statistics"])
def test_a_missing_key_is_named(name: str) -> None:
    with pytest.raises(DecodeError, match=f"key {name} is missing"):
        CheckpointState.from_json(without(name))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"step": "22"}, "step: \"?'?22.* is not a whole number"),
        ({"step": True}, "step: true is not a whole number"),
        ({"config": []}, "config: .*is not a mapping"),
        ({"model": {}}, "model: preset is missing"),
        ({"features": {"text": ["features"]}}, "features.text: not a kind and a width"),
        ({"features": {"text": ["features", 0]}}, "features.text: not a kind and a width"),
        ({"features": {"text": [3, "features"]}}, "features.text: not a kind and a width"),
        ({"features": {"text": "ab"}}, "features.text: 'ab' is not a list"),
        ({"tasks": {"s": {"type": "ranking"}}}, "tasks.s.type: 'ranking' is not one of regression"),
        ({"tasks": {"s": {"type": "regression", "x": 1}}}, "unknown key tasks.s.x"),
        ({"statistics": {"audio": [[1.0, 2.0]]}}, "statistics.audio: not a mean"),
        ({"statistics": {"audio": [[1.0], ["x"]]}}, r"statistics.audio\[1\]\[0\]: 'x' is not a number"),
        ({"statistics": {"audio": [[10**400], [1.0]]}}, r"statistics.audio\[0\]\[0\]: 1000"),
        ({"counters": {"step": 22, "samples": "many"}}, "counters.samples: 'many' is not a whole number"),
        ({"counters": {"step": 21}}, "counters.step: 21, in a checkpoint of step 22"),
        ({"cursor": {"manifest_id": "x"}}, "key cursor.seed is missing"),
        ({"metrics": {"valid": 5}}, "metrics.valid: 5 is not a mapping"),
        ({"manifests": {"train": 5}}, "manifests.train: 5 is not a string"),
    ],
)
def test_a_value_of_a_wrong_type_is_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(DecodeError, match=text):
        CheckpointState.from_json(recorded(**changes))


def test_a_position_is_never_left_out() -> None:
    cursor = recorded()["cursor"]
    del cursor["epoch"]
    with pytest.raises(DecodeError, match=r"epoch"):
        CheckpointState.from_json(recorded(cursor=cursor))


def test_layout_and_statistics_come_back() -> None:
    spec = BatchSpec(
        modalities={"audio": ("features", 2)},
        tasks={"sentiment": TaskSpec(type="regression", low=-3.0, high=3.0, scale="mosi")},
        statistics={"audio": (np.array([0.1, 0.2], np.float32), np.array([1.0, 0.5], np.float32))},
    )
    config = load_config(None, ["data.train=s3://user:sesame@bucket/train", "train.select=last"])
    state = initial_state(config, spec, manifests={"train": "1"}, world=4, stage=1)
    read = CheckpointState.from_json(json.loads(json.dumps(state.to_json())))
    assert read == state
    found = batch_spec(read)
    assert (found.modalities, found.tasks) == (spec.modalities, spec.tasks)
    assert all(np.array_equal(a, b) for a, b in zip(found.statistics["audio"], spec.statistics["audio"], strict=True))
    assert "sesame" not in json.dumps(state.to_json())
    other = replace(state, features={"audio": ["features", 3]})
    with pytest.raises(CheckpointMismatchError, match=r"features.audio is \['features', 2\] there and .*3\] here"):
        check_same_model(read, other, "a checkpoint")


def test_a_checkpoint_of_other_corpora_is_refused_by_their_names() -> None:
    config = load_config(None, ["data.corpora.talks.train=train", "train.select=last"])
    state = initial_state(config, SPEC)
    assert state.pool is not None
    *most, last = state.pool.corpora
    fewer = replace(state, pool=replace(state.pool, corpora=tuple(most), statistics={}))
    # Statistics may be those of another checkpoint.
    check_same_model(state, replace(state, pool=replace(state.pool, statistics={})), "a checkpoint")
    with pytest.raises(CheckpointMismatchError, match=f"knows no corpus {last.name} .*train.init_from"):
        check_same_model(fewer, state, "a checkpoint")
    with pytest.raises(CheckpointMismatchError, match=f"has corpus {last.name} too"):
        check_same_model(state, fewer, "a checkpoint")
    turned = replace(state, pool=replace(state.pool, corpora=(last, *most)))
    with pytest.raises(CheckpointMismatchError, match="in the order talks, calls, clips, posts"):
        check_same_model(state, turned, "a checkpoint")
    heavier = replace(state.pool, corpora=(*most, replace(last, loss_weight=3.0)))
    with pytest.raises(
        CheckpointMismatchError, match=rf"pool.corpora.{last.name}.loss_weight is 1.0 there and 3.0 here"
    ):
        check_same_model(state, replace(state, pool=heavier), "a checkpoint")
