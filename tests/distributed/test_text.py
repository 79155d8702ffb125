"""Runs with token ids or a pretrained text encoder: they learn, and are equal at every ZeRO stage."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ivr_dist import open_split, storage
from ivr_dist.checkpoint import store, weights
from ivr_dist.config import Config
from ivr_dist.config.loading import load_config
from ivr_dist.corpora.source import SampleRef, SourceSample
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.data.batches.collate import BatchSpec
from ivr_dist.errors import ConfigError, DataError, FaultsError
from ivr_dist.evaluation.score_checkpoint import score_checkpoint
from ivr_dist.model.text.text_encoder import TextEncoder
from ivr_dist.orchestration.preflight import preflight
from ivr_dist.packing.pack import pack
from ivr_dist.run.results import loss_curve
from ivr_dist.shards.decode import ContextUtterance
from ivr_dist.shards.manifest import Manifest
from tests.distributed.test_training import config, train
from tests.encoders import tiny_bert
from tests.ranks import run_ranks

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="session")
def token_corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("tokens"))
    pack(SynthSource(samples=334, seed=1, text="tokens"), place)
    return place


def on_tokens(corpus: str, run: Path, *overrides: str) -> Config:
    return load_config(
        None,
        [
            f"data.train={corpus}/train",
            f"data.valid={corpus}/valid",
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


@pytest.mark.long
def test_a_run_on_token_ids_learns_what_the_words_say(token_corpus: str, tmp_path: Path) -> None:
    """Only the sign of the text's latent is in the words, which correlates with the label by about 0.6."""
    cases = [on_tokens(token_corpus, tmp_path / f"run-{stage}", f"zero.stage={stage}") for stage in (0, 3)]
    run_ranks(train, 2, [(case, None) for case in cases])
    metrics = storage.read_json(f"{cases[0].run.dir}/result.json")["metrics"]["valid"]
    assert metrics["synth/corr"] > 0.5
    curves = [loss_curve(case.run.dir) for case in cases]
    for (_, expected), (step, value) in list(zip(*curves, strict=True))[:20]:
        assert value == pytest.approx(expected, rel=1e-6), f"step {step}"


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_bert(tmp_path_factory.mktemp("bert"), layers=2)


def on_words(corpus: str, run: Path, bert: str, *overrides: str) -> Config:
    """The run of `test_training` with text from the transcripts."""
    text = (f"model.text.pretrained={bert}", "model.text.dropout=0", "train.text_lr=1e-3")
    return config(corpus, run, *text, *overrides)


def encoder_weights(checkpoint: str) -> dict[str, torch.Tensor]:
    own = {name: part for name, part in weights.read_weights(checkpoint).items() if name.startswith("words.")}
    return {name.removeprefix("words.encoder."): part for name, part in own.items()}


@pytest.mark.long
def test_the_same_run_on_1_and_2_workers_at_every_stage(corpus: str, bert: str, tmp_path: Path) -> None:
    """Also with parameters that are not trained, which must stay bitwise what they were."""
    stages = {"null": (0, 3), "1": (1, 2), "0": (0, 3)}
    places = {
        (layers, world, stage): tmp_path / f"{layers}-{world}-{stage}"
        for layers, on_two in stages.items()
        for world, stage in ((1, 0), *((2, stage) for stage in on_two))
    }
    for world in (1, 2):
        cases = [
            on_words(corpus, place, bert, f"zero.stage={stage}", f"model.text.trained_layers={layers}")
            for (layers, workers, stage), place in places.items()
            if workers == world
        ]
        run_ranks(train, world, [(case, None) for case in cases])
    given = TextEncoder(bert).module(None).state_dict()
    first, final = ({n for n in given if n.startswith(f"encoder.layer.{k}.")} for k in (0, 1))
    for case, place in places.items():
        layers = case[0]
        reference = loss_curve(str(places[layers, 1, 0]))
        assert reference[-1][1] < 0.9 * reference[0][1], "nothing was learnt, so nothing was compared"
        for (step, expected), (other, value) in zip(reference, loss_curve(str(place)), strict=True):
            assert step == other
            assert abs(value - expected) <= 1e-6 * abs(expected), f"{case} differs at step {step}"
        found = encoder_weights(store.names(str(place))[0].url(str(place)))
        moved = {name for name, tensor in found.items() if not torch.equal(tensor, given[name])}
        assert found.keys() == given.keys()
        assert bool(moved & final) == (layers != "0")
        assert bool(moved & (given.keys() - final)) == bool(moved & first) == (layers == "null")


def test_cached_states_train_as_the_whole_encoder_does(corpus: str, bert: str, tmp_path: Path) -> None:
    """Computed by the first run alone; on other numbers of workers, at stage 3, and with no layer left to run."""
    states = tmp_path / "states"
    steps = ("train.max_steps=8", "train.eval_every=4steps")

    def run(name: str, *overrides: str) -> Config:
        return on_words(corpus, tmp_path / name, bert, *steps, f"model.text.states_dir={states}", *overrides)

    half = ("model.text.trained_layers=1", "model.text.cache_states=1")
    none = ("model.text.trained_layers=0", "model.text.cache_states=2")
    plain = {"half": run("plain-half", half[0]), "none": run("plain-none", none[0])}
    cached = {"half": run("cached-half", *half), "none": run("cached-none", *none)}
    again = {"half": run("again-half", *half, "zero.stage=3"), "none": run("again-none", *none)}
    listed = tmp_path / "withdrawn.txt"
    listed.write_text("".join(f"{id_}\n" for id_ in open_split(f"{corpus}/train").ids[:5]))
    fewer = run("fewer", *half, f"data.exclude={listed}", "train.max_steps=1", "train.eval_every=1steps")
    run_ranks(train, 1, [(each, None) for each in (fewer, *plain.values(), *again.values())])
    added = [len(np.load(path)[0]) for path in states.rglob("keys.npy")]
    assert sorted(added)[:1] == [5], "the second run computes the five samples that the first one left out"
    written = {path: path.stat().st_mtime_ns for path in states.rglob("*.npy")}
    assert len(list(states.iterdir())) == 6 and not list(states.rglob("*.tmp")), "three splits, after one layer and two"
    run_ranks(train, 2, [(each, None) for each in cached.values()])
    assert {path: path.stat().st_mtime_ns for path in states.rglob("*.npy")} == written
    for name, reference in plain.items():
        for other in (cached[name], again[name]):
            for (step, expected), (_, value) in zip(
                loss_curve(reference.run.dir), loss_curve(other.run.dir), strict=True
            ):
                assert value == pytest.approx(expected, rel=1e-6), f"{other.run.dir}, step {step}"
            one, two = (storage.read_json(f"{each.run.dir}/result.json")["metrics"] for each in (reference, other))
            for metric, value in one["valid"].items():
                assert two["valid"][metric] == pytest.approx(value, rel=1e-5, nan_ok=True), metric
    # The checkpoint holds the whole encoder, and is scored without the states.
    shutil.rmtree(states)
    result = storage.read_json(f"{cached['half'].run.dir}/result.json")
    scores = score_checkpoint(result["checkpoint"], f"{corpus}/valid", 1)
    for metric, value in result["metrics"]["valid"].items():
        assert scores[metric] == pytest.approx(value, rel=1e-5), metric


class Dialogues(SynthSource):
    """Every sample has the same word and takes its label from the sign of what was said one before: good or bad."""

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        found = super().load(split, ref)
        said = "good film" if (found.labels["sentiment"] or 0) > 0 else "bad film"
        context = [ContextUtterance("so it was bad and good", "A"), ContextUtterance(said, "B")]
        return replace(found, transcript="then", context=context)


def test_the_utterances_before_a_sample_are_read_where_the_config_says_so(bert: str, tmp_path: Path) -> None:
    pack(Dialogues(samples=96, seed=1), str(tmp_path / "data"))

    def run(name: str, *overrides: str) -> Config:
        alone = ("data.modalities=[text]", "model.text.kind=none", "train.max_steps=60", "train.eval_every=60steps")
        task_alone = [f"loss.{term}.weight=0" for term in ("consistency", "adversary", "reconstruction", "svr")]
        return on_words(str(tmp_path / "data"), tmp_path / name, bert, *alone, *task_alone, "train.lr=3e-3", *overrides)

    half = ("model.text.trained_layers=1", "model.text.cache_states=1", f"model.text.states_dir={tmp_path}/states")
    cases = {"without": run("without", *half), "with": run("with", *half, "data.context=1")}
    run_ranks(train, 1, [(each, None) for each in cases.values()])
    results = {name: storage.read_json(f"{each.run.dir}/result.json") for name, each in cases.items()}
    mae = {name: result["metrics"]["valid"]["synth/mae"] for name, result in results.items()}
    assert mae["with"] < 0.8 * mae["without"], "the label is in the context alone"
    # A checkpoint says how many utterances it reads, and reads them without cached states.
    scores = score_checkpoint(results["with"]["checkpoint"], f"{tmp_path}/data/valid", 1)
    for metric, value in results["with"]["metrics"]["valid"].items():
        assert scores[metric] == pytest.approx(value, rel=1e-5), metric


@pytest.mark.long
def test_pieces_of_a_run_continue_bitwise_and_need_no_folder(corpus: str, bert: str, tmp_path: Path) -> None:
    """With dropout, half of the encoder trained; then the checkpoint is scored where the encoder's folder is gone."""
    mine = tmp_path / "encoder"
    shutil.copytree(bert, mine)
    dropout = ("model.dropout=0.2", "model.text.dropout=0.2", "model.text.trained_layers=1")
    cases: list[tuple[Config, int | None]] = []
    for stage in (0, 3):
        whole = on_words(corpus, tmp_path / f"whole-{stage}", str(mine), f"zero.stage={stage}", *dropout)
        pieces = on_words(corpus, tmp_path / f"pieces-{stage}", str(mine), f"zero.stage={stage}", *dropout)
        cases += [(whole, None), (pieces, 7), (pieces, 13), (pieces, None)]
    run_ranks(train, 2, cases)
    shutil.rmtree(mine)
    for (whole, _), (pieces, _) in zip(cases[::4], cases[1::4], strict=True):
        assert loss_curve(pieces.run.dir) == loss_curve(whole.run.dir)
    result = storage.read_json(f"{pieces.run.dir}/result.json")
    scored = score_checkpoint(result["checkpoint"], pieces.data.valid, 2)
    assert scored == result["metrics"]["valid"], "the same batches on as many workers"


def test_each_group_has_its_own_rate_and_one_schedule(corpus: str, bert: str, tmp_path: Path) -> None:
    """A rate of nothing for the encoder alone leaves it, though not the rest, all but where it was."""
    still = on_words(corpus, tmp_path / "still", bert, "train.text_lr=1e-12", "train.weight_decay=0")
    moving = on_words(corpus, tmp_path / "moving", bert, "train.lr=1e-12", "train.weight_decay=0")
    run_ranks(train, 1, [(still, None), (moving, None)])
    given = TextEncoder(bert).module(None).state_dict()
    change = {}
    for case in (still, moving):
        newest = store.names(case.run.dir)[0].url(case.run.dir)
        change[case.run.dir] = max(float((part - given[n]).abs().max()) for n, part in encoder_weights(newest).items())
    assert change[still.run.dir] < 1e-7
    assert 1e-3 < change[moving.run.dir] < 20 * 1e-3, "20 steps of at most the peak rate each"


def test_a_corpus_without_transcripts_is_refused(token_corpus: str, bert: str, tmp_path: Path) -> None:
    silent = tmp_path / "silent"
    for split in ("train", "valid"):
        manifest = Manifest.load(f"{token_corpus}/{split}")
        shutil.copytree(f"{token_corpus}/{split}", silent / split)
        replace(manifest, transcripts=0).save(str(silent / split))
    settings = on_tokens(str(silent), tmp_path / "run", f"model.text.pretrained={bert}")
    with pytest.raises(FaultsError, match=r"no sample of the split has a transcript, .*; pack the corpus with a card"):
        preflight(settings, 1)
    with pytest.raises(DataError, match="no sample of the split has a transcript"):
        BatchSpec.from_manifest(Manifest.load(f"{silent}/train"), ["text"], [], text=TextEncoder(bert))
    with pytest.raises(ConfigError, match="no folder of a text encoder"):
        preflight(on_tokens(token_corpus, tmp_path / "run", "model.text.pretrained=./nowhere"), 1)
