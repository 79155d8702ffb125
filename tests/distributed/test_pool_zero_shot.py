"""Ordered classes that a regression head of a pool scores: held out in a run, and new to its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ivr_dist as ivr
from ivr_dist import storage
from ivr_dist.cli import main as cli
from ivr_dist.config.loading import load_config
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.errors import DataError
from ivr_dist.orchestration.preflight import absolute
from ivr_dist.packing.pack import pack
from ivr_dist.shards.specs import TaskSpec
from tests.distributed.test_training import train
from tests.pools import pack_pool, pool_run
from tests.ranks import run_ranks

pytestmark = pytest.mark.distributed


class Graded(SynthSource):
    """Moods, whose classes follow from the sentiment in their order."""

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        return {name: replace(spec, ordered=True) for name, spec in super().tasks.items()}


@pytest.mark.parametrize("scale", ["unit", "native"])
def test_a_regression_scores_ordered_classes_of_a_corpus_that_is_held_out_or_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scale: str
) -> None:
    pool, graded = str(tmp_path / "pool"), str(tmp_path / "graded")
    pack_pool(pool)
    # The directions of features follow from the seed: those of talks, so that its head knows them.
    pack(Graded(200, 1, dims={"text": 10, "audio": 12, "vision": 6}, name="graded", task="mood"), graded)
    settings = [
        *(text for text in pool_run(pool, tmp_path / "run") if "clips" not in text),
        f"data.corpora.graded.dir={graded}",
        'data.corpora.graded.train=""',
        "data.corpora.graded.heads={mood: sentiment}",
        f"loss.scale={scale}",
        *(f"loss.{term}.weight=0" for term in ("consistency", "adversary", "reconstruction", "svr")),
        "train.max_steps=60",
        "train.eval_every=60steps",
    ]
    run = absolute(load_config(None, settings))
    run_ranks(train, 2, [(run, None)])
    result = storage.read_json(f"{run.run.dir}/result.json")
    test = {name: value for name, value in result["metrics"]["test"].items() if name.startswith("heldout/graded/")}
    assert {"heldout/graded/accuracy", "heldout/graded/corr", "heldout/graded/skill"} <= test.keys()
    assert test["heldout/graded/corr"] > 0.3, "nothing was learned, so nothing is compared"
    assert not any("graded" in name for name in result["metrics"]["test"] if name.startswith("macro"))

    model = ivr.load(run.run.dir)
    table = ivr.predict(model, f"{graded}/test", corpus="graded")
    labels = table.labels["mood"]
    assert set(np.unique(table.predictions["mood"])) <= {0, 1, 2}
    assert np.mean(table.predictions["mood"] == labels) == pytest.approx(test["heldout/graded/accuracy"])
    assert ivr.evaluate(model, f"{graded}/test", corpus="graded") == pytest.approx(test, rel=1e-5)

    # The same samples as a corpus that the model has not seen, standardized by their own statistics.
    copy = str(tmp_path / "unseen")
    pack(Graded(200, 1, dims={"text": 10, "audio": 12, "vision": 6}, name="unseen", task="mood"), copy)
    new = ivr.evaluate(model, f"{copy}/test", head="sentiment", statistics=f"{copy}/train")
    for metric in ("accuracy", "corr", "skill"):
        assert new[f"heldout/unseen/{metric}"] == pytest.approx(test[f"heldout/graded/{metric}"], abs=0.2)
    shown = ["evaluate", result["checkpoint"], "--shards", f"{copy}/test", "--head", "sentiment"]
    assert cli.main(shown) == 0
    said = capsys.readouterr()
    assert "heldout/unseen/corr" in said.out
    assert "note: vision counts as missing: no corpus of the model has the feature set synth6" in said.err
    assert "note: audio is standardized as in the model's corpora; --statistics names data of its own" in said.err


def test_targets_that_do_not_fit_a_model_are_refused(tmp_path: Path) -> None:
    pool = str(tmp_path / "pool")
    pack_pool(pool)
    run = absolute(load_config(None, [*pool_run(pool, tmp_path / "run"), "train.max_steps=2"]))
    run_ranks(train, 1, [(run, None)])
    model = ivr.load(run.run.dir)
    sample = {"audio": np.zeros((3, 12), np.float32)}
    assert ivr.predict(model, [sample], corpus="calls").keys == ["0"]
    # Its audio has a name of the config: the split is known by the name of its corpus.
    assert "calls/mae" in ivr.evaluate(model, f"{pool}/calls/test")
    for target, text in (
        ({}, "was trained on several corpora"),
        ({"corpus": "nobody"}, "knows no corpus nobody"),
        ({"head": "sentiment"}, "samples in memory have no feature sets"),
    ):
        with pytest.raises(DataError, match=text):
            ivr.predict(model, [sample], **target)
    with pytest.raises(DataError, match="is a regression, as head sentiment"):
        ivr.evaluate(model, f"{pool}/clips/test", head="sentiment")
    one = absolute(
        load_config(
            None,
            [f"data.train={pool}/talks/train", f"run.dir={tmp_path}/one", "train.max_steps=2", "train.select=last"],
        )
    )
    run_ranks(train, 1, [(one, None)])
    with pytest.raises(DataError, match="the model was trained on one corpus"):
        ivr.predict(f"{tmp_path}/one", [sample], corpus="talks")
