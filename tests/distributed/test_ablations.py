"""Ablations of configs/README.md: each is one switch, which removes its term from the step entirely."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ivr_dist import storage
from ivr_dist.checkpoint.weights import read_weights
from ivr_dist.config import Config
from ivr_dist.config.loading import load_config
from ivr_dist.run.events import Event
from ivr_dist.run.ledger import read_lineage
from ivr_dist.run.paths import HISTORY
from tests.ranks import run_ranks
from tests.repository import ROOT

pytestmark = pytest.mark.distributed

README = ROOT / "configs" / "README.md"

# By term: another form of it, which changes its value and its gradient.
TERMS = {
    "svr": "svr.kind=l2",
    "consistency": "loss.consistency.moments=2",
    "adversary": "loss.adversary.scale=5",
    "reconstruction": "loss.reconstruction.per=pooled",
}
MODALITIES = {
    "data.modalities=[text]": {"text"},
    "data.modalities=[text, audio]": {"text", "audio"},
    "data.modalities=[text, vision]": {"text", "vision"},
    "data.modalities=[audio, vision]": {"audio", "vision"},
}
NO_GATE = "model.fusion.gate=none"
OFF = {term: f"loss.{term}.weight=0" for term in TERMS}


class Silent:
    """A console that says nothing."""

    def emit(self, event: Event) -> None:
        pass

    def stop_requested(self) -> bool:
        return False


def train(rank: int, world: int, configs: list[Config]) -> None:
    from ivr_dist.orchestration import worker

    for config in configs:
        worker.train(config, Silent(), rank, 0)


@pytest.fixture(scope="module")
def runs(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Path]:
    """One training step with each ablation, and with other forms of each term, switched on and off."""
    cases: list[tuple[str, ...]] = [(), (NO_GATE,), *((only,) for only in MODALITIES)]
    cases += [case for term, form in TERMS.items() for case in ((form,), (OFF[term],), (OFF[term], form))]
    place = tmp_path_factory.mktemp("runs")
    found = {case: place / str(number) for number, case in enumerate(cases)}
    fixed = [f"data.train={corpus}/train", "train.select=last", "train.max_steps=1", "run.audit=false"]
    small = ["model.hidden=8", "train.global_batch=32", "loss.consistency.group=16"]
    run_ranks(train, 1, [load_config(None, [*fixed, *small, f"run.dir={run}", *case]) for case, run in found.items()])
    return found


def step(run: Path) -> dict[str, Any]:
    """Loss, terms and gradient norm of the one step."""
    (record,) = [record for _, _, record in read_lineage(str(run), HISTORY) if "loss" in record]
    return record


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The model after the step."""
    return read_weights(storage.read_json(str(run / "result.json"))["checkpoint"])


@pytest.mark.parametrize("term", TERMS)
def test_a_term_of_weight_0_has_no_effect(term: str, runs: dict[tuple[str, ...], Path]) -> None:
    """Switched off, its form changes nothing, to the last bit; switched on, it does."""
    whole, off, form = step(runs[()]), step(runs[OFF[term],]), TERMS[term]
    other = step(runs[OFF[term], form])
    assert (off["loss"], off["grad_norm"]) == (other["loss"], other["grad_norm"])
    first, second = weights(runs[OFF[term],]), weights(runs[OFF[term], form])
    assert all(torch.equal(part, second[name]) for name, part in first.items())
    first, second = weights(runs[()]), weights(runs[form,])
    assert not all(torch.equal(part, second[name]) for name, part in first.items()), "the form says nothing at all"
    # Both runs have the same weights, batch and dropout, so what is missing is the term.
    weight = 0.4 if term == "adversary" else 1.0
    own = sum(value for name, value in whole["terms"].items() if name.partition("/")[0] == term)
    assert own != 0
    assert off["loss"] == pytest.approx(whole["loss"] - weight * own, rel=1e-6)


def test_without_a_gate_everything_passes(runs: dict[tuple[str, ...], Path]) -> None:
    gates = {name for name in weights(runs[()]) if ".gate." in name}
    assert gates
    assert weights(runs[NO_GATE,]).keys() == weights(runs[()]).keys() - gates
    assert step(runs[NO_GATE,])["grad_norm"] > 0


@pytest.mark.parametrize("only", MODALITIES)
def test_modalities_left_out_have_no_part_in_model_and_loss(only: str, runs: dict[tuple[str, ...], Path]) -> None:
    used = MODALITIES[only]
    names = weights(runs[only,])
    for section in ("encoders", "private", "reconstruct"):
        assert {name.split(".")[1] for name in names if name.startswith(f"{section}.")} == used
    assert {name.split(".")[2] for name in names if name.startswith("fusion.cross.")} == used - {"text"}
    found = step(runs[only,])
    assert {name for name in found["terms"] if name.startswith("svr/")} == {f"svr/{name}" for name in used}
    assert (found["terms"]["consistency"] > 0) == (len(used) > 1), "one modality is consistent with itself"
    assert found["grad_norm"] > 0


def test_the_table_of_ablations_is_what_was_tested() -> None:
    listed = {
        line.split("`")[1] for line in README.read_text().splitlines() if line.startswith("| no ") or " only |" in line
    }
    assert listed == {*OFF.values(), NO_GATE, *MODALITIES}
