"""Pooled training gives the same result on any number of workers, at any ZeRO stage, and across interruptions."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ivr_dist import storage
from ivr_dist.checkpoint import store
from ivr_dist.checkpoint.weights import read_weights
from ivr_dist.config import Config
from ivr_dist.config.corpora import SPLITS
from ivr_dist.config.loading import load_config
from ivr_dist.config.loading import override as load_override
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.data.pool_cursor import PoolCursor
from ivr_dist.errors import CheckpointMismatchError
from ivr_dist.evaluation.score_checkpoint import score_own_splits
from ivr_dist.inspection.audit import audit
from ivr_dist.orchestration.preflight import absolute
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.planning.plan import plan_run
from ivr_dist.run.results import loss_curve
from ivr_dist.shards.manifest import Manifest
from tests.distributed.test_training import STAGES, Recorder, train
from tests.pools import SIZES, pack_pool, pool_run
from tests.ranks import RankError, run_ranks

pytestmark = pytest.mark.distributed

STEPS = 10


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("pool"))
    pack_pool(place)
    return place


def manifests(pool: str) -> dict[str, Manifest]:
    return {f"{name}/{split}": Manifest.load(f"{pool}/{name}/{split}") for name in SIZES for split in SPLITS}


def config(pool: str, run: Path, *overrides: str) -> Config:
    steps = (f"train.max_steps={STEPS}", "train.eval_every=10steps")
    return absolute(load_config(None, [*pool_run(pool, run), *steps, *overrides]))


def test_losses_and_weights_are_the_same_on_1_and_2_workers_at_every_stage(pool: str, tmp_path: Path) -> None:
    """Ranks hold other corpora; gradients of adapters of equal width would be summed if one were left out."""
    # Groups of a part of the batch: accumulation needs whole ones.
    variants = [f"zero.stage={stage} loss.consistency.group=12" for stage in STAGES]
    variants.append("train.accumulation=2 loss.consistency.group=12")
    runs: dict[tuple[int, str], Config] = {}
    for world in (1, 2):
        cases = {
            variant: config(pool, tmp_path / f"{world}-{number}", *variant.split())
            for number, variant in enumerate(variants)
        }
        run_ranks(train, world, [(case, None) for case in cases.values()])
        runs |= {(world, variant): case for variant, case in cases.items()}
    reference = runs[1, variants[0]]
    for (world, variant), case in runs.items():
        expected, curve = loss_curve(reference.run.dir), loss_curve(case.run.dir)
        assert [step for step, _ in curve] == list(range(1, STEPS + 1))
        for (step, loss), (_, value) in zip(expected, curve, strict=True):
            assert abs(value - loss) <= 1e-6 * abs(loss), f"{variant} on {world} workers differs at step {step}"
        weights, others = (read_weights(store.names(each.run.dir)[0].url(each.run.dir)) for each in (reference, case))
        for name, tensor in weights.items():
            torch.testing.assert_close(others[name], tensor, rtol=1e-4, atol=2e-5, msg=f"{variant}, {world}: {name}")
    assert expected[-1][1] < 0.9 * expected[0][1], "nothing was learned, so nothing was compared"


@pytest.mark.parametrize("world", [1, 2])
def test_a_pool_of_one_corpus_trains_to_the_bits_of_that_corpus(pool: str, tmp_path: Path, world: int) -> None:
    """More than an epoch with dropout, so with its short last step; also the scores."""
    steps = ("train.max_steps=9", "train.eval_every=9steps", "loss.consistency.group=12", "model.dropout=0.2")
    size = ("data.shuffle_delay=20", "model.hidden=16", "train.global_batch=24", "train.lr=3e-3", "log.console_s=0")
    splits = [f"data.{split}={pool}/talks/{split}" for split in ("train", "valid", "test")]
    plain, entry = (
        absolute(load_config(None, [*data, *size, *steps, f"run.dir={tmp_path}/{name}"]))
        for name, data in (("plain", splits), ("entry", [f"data.corpora.talks.dir={pool}/talks"]))
    )
    run_ranks(train, world, [(plain, None), (entry, None)])
    curve = loss_curve(plain.run.dir)
    assert [step for step, _ in curve] == list(range(1, 10))
    assert loss_curve(entry.run.dir) == curve
    expected, weights = (read_weights(store.names(each.run.dir)[0].url(each.run.dir)) for each in (plain, entry))
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor), name
    metrics, own = (storage.read_json(f"{each.run.dir}/result.json")["metrics"] for each in (plain, entry))
    assert metrics["test"] and metrics["test"].items() <= own["test"].items()
    assert audit(entry.run.dir).ok


@pytest.mark.long
def test_interrupted_pools_continue_bitwise_on_any_number_of_workers(pool: str, tmp_path: Path) -> None:
    """Pieces of one run against the run in one piece, with dropout; each pass over each corpus is audited."""
    variants = ("zero.stage=3",)
    cases: list[tuple[Config, int | None]] = []
    for variant in variants:
        whole = config(pool, tmp_path / f"whole-{variant}", variant, "model.dropout=0.2", "train.max_steps=24")
        pieces = config(pool, tmp_path / f"pieces-{variant}", variant, "model.dropout=0.2", "train.max_steps=24")
        cases += [(whole, None), (pieces, 7), (pieces, 13), (pieces, None)]
    run_ranks(train, 2, cases)
    for (whole, _), (pieces, _) in zip(cases[::4], cases[1::4], strict=True):
        assert loss_curve(pieces.run.dir) == loss_curve(whole.run.dir)
    other = config(pool, tmp_path / "worlds", "train.max_steps=24")
    for world, stop in ((1, 9), (2, 17), (1, None)):
        run_ranks(train, world, [(other, stop)])
    for case in (cases[1][0], other):
        report = audit(case.run.dir)
        assert report.ok and report.attempts == 3, report.problems
        passes = {(each.corpus, each.epoch): each for each in report.epochs}
        assert {corpus for corpus, _ in passes} == set(SIZES)
        assert any(each.complete for each in report.epochs)
        for (corpus, _), each in passes.items():
            if each.complete:
                assert each.seen == round(0.7 * SIZES[corpus]) and each.verdict == "exactly once"
        # In the order of the config; whole passes over a corpus share a row.
        assert [row[0] for row in report.rows()] == [name for name in SIZES for _ in range(2)]
        assert report.rows()[2] == ("calls", *report.rows()[2][1:]) and report.rows()[2][3] == "70 each"
        whole = sum(each.complete for each in report.epochs)
        assert (
            f"exactly once in each of {whole} passes over 3 corpora, and at most once in 3 that are" in report.summary
        )


def test_a_run_goes_on_with_other_shares_and_keeps_its_passes(pool: str, tmp_path: Path) -> None:
    """Shares decide on the lanes of a corpus, but those of the run that is continued stay, also after a kill."""
    shares = {"talks": 0.9, "calls": 0.05, "clips": 0.05}
    other = ("data.mix.alpha=null", *(f"data.corpora.{name}.share={share}" for name, share in shares.items()))
    begun, changed = (
        {name: config(pool, tmp_path / name, "train.max_steps=40", *mix) for name in ("once", "killed")}
        for mix in ((), (*other, "data.mix.changes=allow"))
    )
    lanes = [plan_run(case, manifests(pool), 2).pool for case in (begun["once"], changed["once"])]
    assert all(lanes) and [c.lanes for c in lanes[0].corpora] != [c.lanes for c in lanes[1].corpora]  # type: ignore[union-attr]
    run_ranks(train, 2, [(begun["once"], 9), (begun["killed"], 9)])
    with pytest.raises(CheckpointMismatchError, match=r"data\.mix\.alpha is 0\.5 there and unset"):
        train(0, 1, [(config(pool, tmp_path / "once", "train.max_steps=40", *other), None)])
    run_ranks(train, 2, [(changed["once"], None), (changed["killed"], 23)])
    # The mix is that of the run by now.
    run_ranks(train, 2, [(config(pool, tmp_path / "killed", "train.max_steps=40", *other), None)])
    assert loss_curve(str(tmp_path / "killed")) == loss_curve(str(tmp_path / "once"))
    for name in changed:
        report = audit(str(tmp_path / name))
        assert report.ok, report.problems
        whole = {(each.corpus, each.epoch) for each in report.epochs if each.complete}
        assert {("talks", 0), ("talks", 1), ("talks", 2), ("clips", 0), ("calls", 0)} <= whole
        for each in report.epochs:
            assert each.verdict == ("exactly once" if each.complete else "so far once")
            assert each.seen == round(0.7 * SIZES[each.corpus]) or not each.complete


def test_a_run_that_goes_on_with_the_passes_of_another_is_audited_from_there(pool: str, tmp_path: Path) -> None:
    """Before it has a checkpoint, after a restart, and at its end."""
    first = config(pool, tmp_path / "first")
    run_ranks(train, 1, [(first, None)])
    further = (f"train.init_from={first.run.dir}", "data.mix.uses_from=true", "checkpoint.every=100steps")
    second = config(pool, tmp_path / "second", *further, "train.max_steps=20")
    with pytest.raises(RankError, match="the process ends here"):
        run_ranks(train_until_it_fails, 1, second)
    assert not store.names(second.run.dir)
    report = audit(second.run.dir)
    assert report.ok and report.reach == 0, report.problems
    run_ranks(train, 1, [(second, 7), (second, None)])
    used = dict(_cursor(first).uses)
    report = audit(second.run.dir)
    assert report.ok, report.problems
    for each in report.epochs:
        samples = round(0.7 * SIZES[each.corpus])
        begun = used[each.corpus] - samples * each.epoch
        assert begun < samples, "a pass that the first run completed"
        # Of the pass that the first run began, the rest.
        assert each.seen == samples - max(begun, 0) or not each.complete


def test_a_run_that_keeps_the_statistics_of_its_first_checkpoint_is_resumed(pool: str, tmp_path: Path) -> None:
    """Of a corpus that the checkpoint did not know, by its feature sets."""
    first = config(pool, tmp_path / "first", "train.max_steps=2")
    other = str(tmp_path / "other")
    pack(SynthSource(200, 9, dims={"text": 10, "audio": 12, "vision": 8}, name="other"), other)
    talks = {"data.corpora.talks": None, "data.corpora.other.dir": other, "train.init_from": first.run.dir}
    overrides = [load_override(key, value) for key, value in talks.items()]
    cases = {name: config(pool, tmp_path / name, *overrides) for name in ("whole", "pieces")}
    run_ranks(train, 1, [(first, None), (cases["whole"], None), (cases["pieces"], 4), (cases["pieces"], None)])
    assert loss_curve(cases["pieces"].run.dir) == loss_curve(cases["whole"].run.dir)
    states = [store.read_state(store.names(case.run.dir)[0].url(case.run.dir)) for case in (first, cases["pieces"])]
    kept, own = (state.pool.statistics[name] for state, name in zip(states, ("talks", "other"), strict=True))  # type: ignore[union-attr]
    assert own["vision"] == kept["vision"], "the set of one corpus of the checkpoint"


class _Failing(Recorder):
    """Fails after five steps, as no console should."""

    def stop_requested(self) -> bool:
        if super().stop_requested():
            raise RuntimeError("the process ends here")
        return False


def train_until_it_fails(rank: int, world: int, case: Config) -> None:
    from ivr_dist.orchestration import worker

    worker.train(case, _Failing(5), rank, 0)


def _cursor(case: Config) -> PoolCursor:
    cursor = store.read_state(store.names(case.run.dir)[0].url(case.run.dir)).cursor
    assert isinstance(cursor, PoolCursor)
    return cursor


def test_scores_of_a_pool_equal_those_of_its_checkpoint(pool: str, tmp_path: Path) -> None:
    settings = config(pool, tmp_path / "run", 'data.corpora.calls.train=""', "data.corpora.calls.sets={}")
    run_ranks(train, 2, [(settings, None)])
    result = storage.read_json(f"{settings.run.dir}/result.json")
    assert {name.partition("/")[0] for name in result["metrics"]["valid"]} == {"talks", "clips", "heldout", "macro"}
    assert "heldout/calls/mae" in result["metrics"]["test"]
    scores, splits = score_own_splits(result["checkpoint"], "test", 1)
    assert len(splits) == 3 and scores.keys() == result["metrics"]["test"].keys()
    for name, value in scores.items():
        assert value == pytest.approx(result["metrics"]["test"][name], rel=1e-5, abs=1e-6), name


def test_curves_have_the_padding_and_the_skipped_samples_of_each_corpus(pool: str, tmp_path: Path) -> None:
    """Over all ranks: the damaged samples of one corpus, as the audit counts them, and no more padding than planned."""
    damaged = tmp_path / "pool"
    shutil.copytree(pool, damaged, ignore=shutil.ignore_patterns("calls"))
    calls = SynthSource(SIZES["calls"], 2, dims={"text": 10, "audio": 12}, name="calls")
    pack(calls, str(damaged / "calls"), PackOptions(shard_samples=10))
    shard, *_ = (damaged / "calls" / "train").glob("*.tar")
    with tarfile.open(shard) as tar:
        first = next(member.offset_data for member in tar if member.size)
    with shard.open("r+b") as file:
        file.seek(first)
        file.write(b"\xff\xfe\xfd\xfc")
    case = config(str(damaged), tmp_path / "run", "data.on_error=skip", "data.max_skipped=1000", "log.every=1")
    run_ranks(train, 2, [(case, None)])
    report = audit(case.run.dir)
    skipped = {name: sum(len(each.skipped) for each in report.epochs if each.corpus == name) for name in SIZES}
    assert report.ok and skipped["calls"] > 1 and not skipped["talks"] and not skipped["clips"]
    found = EventAccumulator(f"{case.run.dir}/tensorboard", size_guidance={"scalars": 0})
    found.Reload()
    for name in SIZES:
        points = {kind: found.Scalars(f"corpus/{name}/{kind}") for kind in ("skipped", "padding", "share", "passes")}
        assert [point.step for point in points["skipped"]] == list(range(1, STEPS + 1))
        assert sum(point.value for point in points["skipped"]) == skipped[name]
        assert len(points["padding"]) == STEPS and all(0 < point.value < 1 for point in points["padding"])


def test_a_model_from_outside_reads_one_width_of_every_corpus(pool: str, tmp_path: Path) -> None:
    off = [f"loss.{term}.weight=0" for term in ("consistency", "adversary", "reconstruction", "svr")]
    curves = []
    for world in (1, 2):
        model = ("model.class=tests.extension_parts:Averages", "zero.stage=2", "train.max_steps=6")
        settings = config(pool, tmp_path / str(world), *model, *off)
        run_ranks(train, world, [(settings, None)])
        curves.append([loss for _, loss in loss_curve(settings.run.dir)])
    assert curves[1] == pytest.approx(curves[0], rel=1e-6)
    assert curves[0][-1] != curves[0][0]
    newest = store.names(settings.run.dir)[0].url(settings.run.dir)
    assert "inputs.audio.set_narrow.weight" in read_weights(newest)


@pytest.mark.long
def test_a_compiled_pool_has_the_same_losses(pool: str, tmp_path: Path) -> None:
    """Micro-batches of four samples at most, so that feature sets have no step, or one."""
    curves = []
    for backend in ("none", "eager"):
        small = ("train.accumulation=6", "loss.consistency.group=4", "train.max_steps=4")
        settings = config(pool, tmp_path / backend, f"train.compile={backend}", *small)
        run_ranks(train, 2, [(settings, None)])
        curves.append([loss for _, loss in loss_curve(settings.run.dir)])
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
