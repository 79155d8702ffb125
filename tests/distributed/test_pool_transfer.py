"""From a pool to other runs: starting from its weights, scoring corpora that it has not seen, leaving samples out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ivr_dist import storage
from ivr_dist.checkpoint import store
from ivr_dist.checkpoint.weights import read_weights
from ivr_dist.config import Config
from ivr_dist.config.loading import load_config
from ivr_dist.errors import CheckpointMismatchError
from ivr_dist.evaluation.score_checkpoint import score_checkpoint
from ivr_dist.evaluation.split_predictions import Target
from ivr_dist.inspection.audit import audit
from ivr_dist.orchestration.preflight import absolute
from ivr_dist.training.init_from import InitialWeights
from tests.distributed.test_training import train
from tests.pools import SIZES, pack_pool, pool_run
from tests.ranks import run_ranks

pytestmark = pytest.mark.distributed

SHORT = ("train.max_steps=4", "train.eval_every=4steps")
SIZE = ("model.hidden=16", "model.dropout=0", "train.global_batch=24", "log.console_s=0")
NO_CHANGE = 1e-30
"""A learning rate that changes no weight."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("pool"))
    pack_pool(place)
    return place


@pytest.fixture(scope="module")
def trained(pool: str, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A finished run on talks and clips, which calls is held out of."""
    unseen = ('data.corpora.calls.train=""', "data.corpora.calls.sets.audio=synth12")
    config = absolute(load_config(None, [*pool_run(pool, tmp_path_factory.mktemp("run")), *SHORT, *unseen]))
    run_ranks(train, 2, [(config, None)])
    return config


def weights_of(config: Config) -> dict[str, torch.Tensor]:
    return read_weights(store.names(config.run.dir)[0].url(config.run.dir))


def init_record(config: Config) -> dict[str, Any]:
    record: dict[str, Any] = storage.read_json(f"{config.run.dir}/run.json")["init"]
    return record


def one_corpus(pool: str, corpus: str, run: Path, *overrides: str) -> Config:
    data = (f"data.train={pool}/{corpus}/train", f"data.valid={pool}/{corpus}/valid", f"run.dir={run}")
    return absolute(load_config(None, [*data, *SIZE, *SHORT, *overrides]))


def test_one_corpus_starts_from_a_pool_and_a_pool_from_it(pool: str, trained: Config, tmp_path: Path) -> None:
    """Learning rates that change no weight show in the new runs' checkpoints what they took."""
    start = (f"train.init_from={trained.run.dir}", f"train.lr={NO_CHANGE}")
    entry = (f"data.corpora.talks.dir={pool}/talks", "loss.scale=unit", *SIZE, f"run.dir={tmp_path}/one")
    one = absolute(load_config(None, [*entry, *SHORT, *start]))
    native = one_corpus(pool, "talks", tmp_path / "native", *start)
    run_ranks(train, 1, [(one, None), (native, None)])
    stored, own = weights_of(trained), weights_of(one)
    for name, weight in own.items():
        assert torch.equal(weight, stored[name.replace("vision.project", "vision.adapters.set_synth8")]), name
    source = store.names(trained.run.dir)[0].url(trained.run.dir)
    assert init_record(one) == {
        "checkpoint": storage.display(source),
        "sha256": InitialWeights.open(source).sha256,
        "taken": len(own),
        "parameters": sum(weight.numel() for weight in own.values()),
        "new": [],
        "left": ["vision adapter synth6", "head mood"],
        "statistics": "kept for audio of talks, vision of talks",
    }
    # A head of another range is another head.
    changed = {name for name, weight in weights_of(native).items() if not torch.equal(weight, own[name])}
    assert changed == {"heads.task_sentiment.weight", "heads.task_sentiment.bias"}
    record = init_record(native)
    assert record["taken"] == len(own) - 2
    assert record["new"] == ["head sentiment"]
    assert set(record["left"]) == {"vision adapter synth6", "head sentiment", "head mood"}

    start = (f"train.init_from={one.run.dir}", f"train.lr={NO_CHANGE}")
    back = absolute(load_config(None, [*pool_run(pool, tmp_path / "back"), *SHORT, *start]))
    run_ranks(train, 2, [(back, None)])
    grown = weights_of(back)
    for name, weight in own.items():
        for modality, set_ in (("audio", "synth12"), ("vision", "synth8")):
            name = name.replace(f"encoders.{modality}.project", f"encoders.{modality}.adapters.set_{set_}")
        assert torch.equal(weight, grown[name]), name
    record = init_record(back)
    assert record["taken"] == len(own) and record["left"] == []
    assert set(record["new"]) == {"audio adapter narrow", "vision adapter synth6", "head mood"}


def refused(rank: int, world: int, cases: list[tuple[Config, str]]) -> None:
    for config, message in cases:
        with pytest.raises(CheckpointMismatchError) as raised:
            train(rank, world, [(config, None)])
        assert message in str(raised.value)


def test_a_model_that_is_not_the_pools_is_refused_by_its_first_tensor(
    pool: str, trained: Config, tmp_path: Path
) -> None:
    start = f"train.init_from={trained.run.dir}"
    other = "the checkpoint is of another model:"
    checkpoint = storage.short_display(store.names(trained.run.dir)[0].url(trained.run.dir))
    no_vision = (
        f"{other} fusion.layers.0.attention.query_weight is [32, 32] there and [16, 16] here ({checkpoint}); "
        "train on the modalities of the checkpoint (text, audio, vision; this run has text, audio), or start from"
    )
    wider = (
        f"{other} encoders.text.context.layers.0.attention.query_weight is [16, 16] there and [20, 20] here "
        f"({checkpoint}); use the encoders and the fusion that it was trained with, or start from random weights"
    )
    cases = [
        (one_corpus(pool, "calls", tmp_path / "calls", start), no_vision),
        (one_corpus(pool, "talks", tmp_path / "talks", start, "model.hidden=20"), wider),
    ]
    run_ranks(refused, 1, cases)


def test_a_corpus_that_the_model_has_not_seen_is_scored_as_when_it_was_held_out(pool: str, trained: Config) -> None:
    result = storage.read_json(f"{trained.run.dir}/result.json")
    # Without a training split, both times: the statistics are those of its feature sets.
    scores = score_checkpoint(result["checkpoint"], f"{pool}/calls/test", 1, target=Target(head="sentiment"))
    prefix = "heldout/calls/"
    expected = {name: value for name, value in result["metrics"]["test"].items() if name.startswith(prefix)}
    # `calls` is the name of a corpus of the model, so another split gets one of its own.
    renamed = {name.replace("heldout/calls_new/", prefix): value for name, value in scores.items()}
    assert renamed.keys() == expected.keys() != set()
    for name, value in renamed.items():
        assert value == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name
    own = Target(head="sentiment", statistics=f"{pool}/calls/train")
    standardized = score_checkpoint(result["checkpoint"], f"{pool}/calls/test", 1, target=own)
    assert standardized.keys() == scores.keys() and standardized != scores


def test_samples_that_are_left_out_are_trained_in_no_pass(pool: str, tmp_path: Path) -> None:
    """By `data.exclude`, and as copies of what is scored; counted, listed and audited."""
    ids = {f"clips_{number:07}" for number in range(0, 40, 7)}
    listed = tmp_path / "withdrawn.txt"
    listed.write_text("".join(f"clips\t{id_}\n" for id_ in sorted(ids)))
    run = [*pool_run(pool, tmp_path / "run"), "train.max_steps=16", "train.eval_every=16steps"]
    config = absolute(load_config(None, [*run, f"data.exclude={listed}", "data.mix.overlap=drop"]))
    run_ranks(train, 2, [(config, 5)])
    run_ranks(train, 1, [(config, None)])
    report = audit(config.run.dir)
    assert report.ok, report.problems
    trained_in: dict[tuple[str, str], list[str]] = {}
    left_out: dict[tuple[str, str], list[str]] = {}
    for path in Path(config.run.dir, "audit").rglob("*.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            for key, counts in (("ids", trained_in), ("excluded", left_out)):
                for corpus, passes in line.get(key, {}).items():
                    for number, names in passes.items():
                        counts.setdefault((corpus, number), []).extend(names)
    copies = {corpus: set(left_out[corpus, "0"]) for corpus in SIZES}
    assert ids <= copies["clips"] and all(copies.values()), "nothing was a copy, so nothing was left out for it"
    assert report.excluded == sum(map(len, copies.values()))
    complete = [each for each in report.epochs if each.complete]
    assert {each.corpus for each in complete} >= {"clips", "calls"}
    for each in complete:
        key = (each.corpus, str(each.epoch))
        out, seen = left_out[key], trained_in[key]
        assert len(set(out)) == len(out) == each.left_out and set(out) == copies[each.corpus]
        assert len(set(seen)) == len(seen) == each.seen
        assert len(out) + len(seen) == round(0.7 * SIZES[each.corpus]) and not set(out) & set(seen)


@pytest.mark.long
def test_each_corpus_is_scored_by_the_others(pool: str, tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    file.write_text("run: {num_workers: 0}\n")
    options = [*pool_run(pool, tmp_path / "runs"), *SHORT, "data.corpora.calls.sets.audio=synth12"]
    command = [sys.executable, "-m", "ivr_dist", "train", str(file), *options, "--leave-one-out", "--json"]

    def run() -> Any:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "not left out, because no other corpus shares their heads: clips" in done.stderr
        return json.loads(done.stdout)

    summary = run()
    assert summary["corpora"].keys() == {"talks", "calls"} and summary["share_no_head"] == ["clips"]
    for name, splits in summary["corpora"].items():
        run_dir = f"{tmp_path}/runs/without-{name}"
        assert storage.read_json(f"{run_dir}/run.json")["config"]["data"]["corpora"][name]["train"] == ""
        metrics = storage.read_json(f"{run_dir}/result.json")["metrics"]
        prefix = f"heldout/{name}/"
        for split in ("valid", "test"):
            own = {key.removeprefix(prefix): value for key, value in metrics[split].items() if key.startswith(prefix)}
            assert splits[split] == own and "mae" in own
    assert run() == summary, "complete runs are not trained again"
    assert set(SIZES) == {"talks", "calls", "clips"}
