"""Runs whose text is token ids or goes through a pretrained encoder: they learn, and are the same at every stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from ivr_dist import storage
from ivr_dist.config import Config
from ivr_dist.config_file import load_config
from ivr_dist.corpora.synth import SynthSource
from ivr_dist.data.pack import pack
from ivr_dist.driver import loss_curve
from tests.distributed.test_training import config, train
from tests.ranks import run_ranks

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="session")
def token_corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("tokens"))
    pack(SynthSource(samples=334, seed=1, text="tokens"), place)
    return place


def on_tokens(corpus: str, run: Path, *overrides: str) -> Config:
    base = config(corpus, run)
    return load_config(
        None,
        [
            f"data.train={base.data.train}",
            f"data.valid={base.data.valid}",
            f"run.dir={run}",
            "data.modalities=[text]",
            "model.hidden=16",
            "model.dropout=0",
            "train.global_batch=32",
            "loss.consistency={weight: 0, group: 16}",
            "loss.adversary.weight=0",
            "train.max_steps=80",
            "loss.reconstruction.weight=0",
            "loss.svr.weight=0",
            "train.lr=3e-3",
            "train.eval_every=10steps",
            *overrides,
        ],
    )


def test_a_run_on_token_ids_learns_what_the_words_say(token_corpus: str, tmp_path: Path) -> None:
    """Only the sign of the text's latent is in the words, which correlates with the label by about 0.6."""
    cases = [on_tokens(token_corpus, tmp_path / f"run-{stage}", f"zero.stage={stage}") for stage in (0, 3)]
    run_ranks(train, 2, [(case, None) for case in cases])
    metrics = storage.read_json(f"{cases[0].run.dir}/result.json")["metrics"]["valid"]
    assert metrics["synth/corr"] > 0.5
    curves = [loss_curve(case.run.dir) for case in cases]
    for (_, expected), (step, value) in zip(*curves, strict=True):
        assert value == pytest.approx(expected, rel=1e-5), f"step {step}"
