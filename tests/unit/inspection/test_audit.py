"""The audit accepts a run exactly if it is correct, for any sample ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivr_dist import storage
from ivr_dist.cli.main import main
from ivr_dist.config.loading import to_dict
from ivr_dist.data.exclusions import Exclusions
from ivr_dist.errors import CheckpointMismatchError, CorruptDataError, UserError
from ivr_dist.inspection.audit_report import AuditReport, EpochAudit
from ivr_dist.inspection.recorded_ids import SampleNames
from ivr_dist.run.paths import AUDIT
from ivr_dist.shards.index import load
from ivr_dist.shards.manifest import Manifest
from tests.recorded import SAMPLES, STEPS, WORLD, Lines, Run, forget_ids, indexed, packed, sound

PLAIN = [f"clip{number}" for number in range(SAMPLES)]


@pytest.fixture(scope="module")
def split() -> str:
    return packed(PLAIN)


AWKWARD = [
    "video$_$1", "\n", "\u4f60\u597d", "a.b", "a b", "a_b", "__meta__", "\ud800", "e\u0301/x", "\u00e9/x", "Clip",
    "clip", "x" * 300, "../up", " ", "\0", "a\0", "1", "01", "\u2028",
]  # fmt: skip


IDS = st.lists(st.text(st.characters(), min_size=1) | st.sampled_from(AWKWARD), min_size=10, max_size=10, unique=True)


@settings(max_examples=40)
@given(IDS)
def test_a_correct_ledger_passes_for_any_ids(ids: list[str]) -> None:
    run = sound(Run(packed(ids)))
    report = run.audit()
    assert report.ok, report
    assert sorted(run.names) == sorted(ids)
    assert [(epoch.verdict, epoch.seen, epoch.missing) for epoch in report.epochs] == [("exactly once", 10, 0)] * 2
    json.dumps(report.to_json())


@settings(max_examples=40)
@given(IDS, st.booleans())
def test_a_correct_ledger_passes_on_foreign_tars(ids: list[str], kept: bool) -> None:
    """Where KEYs have nothing to do with ids: with the ids in the index, and without, when shards are read for them."""
    place = indexed(ids, PLAIN)
    if not kept:
        forget_ids(place)
    run = sound(Run(place))
    assert run.names == ids
    assert run.audit().ok
    forged = run.line(2, 0)
    lost, forged["ids"][0] = forged["ids"][0], "nobody" * 20
    run.record({(1, 0): [run.line(1, 0), forged]})
    report = run.audit()
    assert not report.ok
    assert (report.epochs[0].unknown, report.epochs[0].missing) == (["nobody" * 20], 1)
    assert report.epochs[0].examples == [lost if kept or lost in PLAIN else PLAIN[ids.index(lost)]]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("turn", [1, 3, 5])
def test_ids_that_are_the_keys_of_other_samples(kept: bool, turn: int) -> None:
    place = indexed([*PLAIN[turn:], *PLAIN[:turn]], PLAIN)
    if not kept:
        forget_ids(place)
    assert sound(Run(place)).audit().ok


def test_keys_that_repeat_in_every_shard() -> None:
    assert sound(Run(indexed(PLAIN, [str(number % 4) for number in range(SAMPLES)]))).audit().ok


@pytest.fixture
def with_exclusions(split: str) -> Run:
    """A run that leaves samples 2 and 7 out."""
    run = Run(split)
    manifest = run.manifest
    run.exclude(Exclusions.of([2, 7], manifest.id))
    return run


def test_samples_that_are_left_out_are_not_missing(with_exclusions: Run) -> None:
    report = sound(with_exclusions).audit()
    assert report.ok and report.excluded == 2
    assert [(epoch.verdict, epoch.seen, epoch.left_out) for epoch in report.epochs] == [
        ("exactly once or left out", 8, 2)
    ] * 2
    assert "10 samples, 2 left out by data.exclude, 6 counted steps" in report.summary
    assert report.to_json()["epochs"][0]["left_out"] == 2


def test_a_step_that_was_not_trained_need_not_name_what_is_left_out(with_exclusions: Run) -> None:
    run = with_exclusions
    lines = run.lines(run.begin(), range(1, 7))
    for own in lines.values():
        own[1] = {"step": 2, "epoch": 0, "ids": [], "skipped": own[1]["ids"]}
    run.record(lines)
    run.end()
    report = run.audit()
    assert report.ok and report.epochs[0].left_out == 2
    assert report.epochs[0].verdict == "exactly once or skipped or left out"


def test_a_checkpoint_names_its_list(with_exclusions: Run, split: str) -> None:
    run = with_exclusions
    run.record(run.lines(run.begin(), range(1, 7)))
    run.checkpoint(4)
    assert run.audit().ok
    other = Run(split)
    other.record(other.lines(other.begin(), range(1, 7)))
    other.checkpoint(4, excluded=run.excluded.digest)
    with pytest.raises(CheckpointMismatchError, match="leaves out 2 samples"):
        other.audit()


@pytest.mark.parametrize("what", ["trained on", "named elsewhere", "forged", "lost"])
def test_a_ledger_that_contradicts_the_list_fails(with_exclusions: Run, what: str) -> None:
    run = with_exclusions
    lines = run.lines(run.begin(), range(1, 7))
    line = next(line for own in lines.values() for line in own if line.get("excluded"))
    name = line["excluded"][0]
    if what == "trained on":
        line["ids"].append(line.pop("excluded")[0])
    elif what == "named elsewhere":
        other = next(line for own in lines.values() for line in own if name not in line.get("excluded", []))
        other.setdefault("excluded", []).append(other["ids"][0])
    elif what == "forged":
        line["excluded"] = ["nobody"]
    else:
        line["ids"] = line["ids"][1:]
    run.record(lines)
    run.end()
    report = run.audit()
    assert not report.ok
    assert report.epochs[0].trained_though_left_out == ([name] if what == "trained on" else [])
    if what == "trained on":
        assert report.problems == [f"1 samples were trained on although they are left out: {name}"]


CHANGES = ("lose line", "lose id", "forge id", "swap steps", "repeat line", "repeat id", "cut off", "damage", "epoch")


@given(st.data(), st.sampled_from(["finished", "running", "two attempts"]))
def test_the_verdict_agrees_with_a_simple_model(split: str, data: st.DataObject, kind: str) -> None:
    """Random faults of a ledger against a model that holds all of it in memory."""
    run = Run(split)
    lines: Lines = run.lines(run.begin(), range(1, 7))
    reach = 6
    if kind == "finished":
        run.end()
    else:
        reach = data.draw(st.integers(0, 5))
        if reach:
            run.checkpoint(reach)
    first = {1: 1}
    if kind == "two attempts":
        second = run.begin(step=reach, parent=1 if reach else None)
        first = {1: 1, second: reach + 1} if reach else {second: 1}
        lines |= run.lines(second, range(reach + 1, 7))
        more = data.draw(st.integers(reach, 6))
        if more > reach:
            run.checkpoint(more, second)
        reach = more
    for change in data.draw(st.lists(st.sampled_from(CHANGES), max_size=3)):
        _damage(lines, change, data)
    shuffled = {who: data.draw(st.permutations(own)) for who, own in lines.items()}
    run.record(shuffled if data.draw(st.booleans()) else lines, per_segment=data.draw(st.integers(1, 6)))
    assert run.audit().ok == _right(run, lines, first, reach)


def _damage(lines: Lines, change: str, data: st.DataObject) -> None:
    """Change a ledger, if it can be changed so."""
    who = data.draw(st.sampled_from(sorted(lines)))
    own = lines[who]
    if not own:
        return
    at = data.draw(st.integers(0, len(own) - 1))
    other = data.draw(st.integers(0, len(own) - 1))
    line = own[at]
    ids = line.get("ids", [])
    if change == "lose line":
        del own[at]
    elif change == "cut off":
        del own[at:]
    elif change == "repeat line":
        own.append(line)
    elif change == "damage":
        own[at] = {"step": line["step"], "epoch": 0}
    elif change == "epoch":
        own[at] = {**line, "epoch": line["epoch"] + 1}
    elif change == "swap steps":
        own[at], own[other] = {**own[other], "step": line["step"]}, {**line, "step": own[other]["step"]}
    elif ids:
        new = {"lose id": ids[1:], "forge id": ["nobody", *ids[1:]], "repeat id": [ids[0], *ids]}[change]
        own[at] = {**line, "ids": new}


def _right(run: Run, lines: Lines, first: dict[int, int], reach: int) -> bool:
    """Whether every line that counts is one that was written, and every step up to `reach` has all of them."""
    ends = [*(begin - 1 for begin in list(first.values())[1:]), 6]
    for (attempt, _), own in lines.items():
        for line in own if attempt in first else ():
            if set(line) != {"step", "epoch", "ids"} or line["step"] < first[attempt]:
                return False
            if line["epoch"] != (line["step"] - 1) // STEPS:
                return False
    for attempt, last in zip(first, ends, strict=True):
        written = [(rank, line) for (who, rank), own in lines.items() if who == attempt for line in own]
        for step in range(first[attempt], last + 1):
            found = [(rank, line["ids"]) for rank, line in written if line["step"] == step]
            ranks, recorded = [rank for rank, _ in found], [id_ for _, ids in found for id_ in ids]
            held = [id_ for rank in range(WORLD) for id_ in run.line(step, rank)["ids"]]
            whole = set(ranks) == set(range(WORLD))
            if len(set(ranks)) < len(ranks) or len(set(recorded)) < len(recorded) or set(recorded) - set(held):
                return False
            if (step <= reach and not whole) or ((step <= reach or whole) and set(recorded) != set(held)):
                return False
    return True


def test_kinds_of_problems_are_distinguished(split: str) -> None:
    run = sound(Run(split))
    lines = run.lines(1, range(1, 7))
    stolen = run.line(2, 0)["ids"][0]
    lines[1, 0][0]["ids"][0] = "nobody"
    lines[1, 1][1]["ids"].append(stolen)
    lines[1, 0][3]["ids"] = run.line(5, 0)["ids"]
    lines[1, 1].append(lines[1, 1][5])
    del lines[1, 0][4]
    run.record(lines)
    report = run.audit()
    first, second = report.epochs
    assert (first.unknown, first.twice, first.elsewhere, first.missing) == (["nobody"], [stolen], [], 1)
    assert second.unknown == [] and second.missing == 4 and sorted(second.elsewhere) == sorted(run.line(5, 0)["ids"])
    assert (report.lost_steps, report.repeated_steps, report.forged) == ([5], [6], [])
    assert not report.ok and len(report.problems) == 2


def test_a_missing_ledger_of_one_worker_and_of_all(split: str) -> None:
    run = sound(Run(split))
    storage.delete_tree(f"{run.place}/{AUDIT}")
    report = run.audit()
    assert not report.ok and report.lost_steps == [1, 2, 3, 4, 5, 6]
    assert [(epoch.missing, len(epoch.examples)) for epoch in report.epochs] == [(10, 5)] * 2
    run.record({(1, 0): run.lines(1, range(1, 7))[1, 0]})
    assert run.audit().lost_steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("who", "line", "said"),
    [
        ((1, 2), lambda run: run.line(2, 1), "attempt 1, worker 2: the attempt had only 2 workers"),
        ((2, 0), lambda run: run.line(2, 0), "attempt 2, worker 0: step 2, but the attempt began at step 4"),
        ((2, 0), lambda run: run.line(7, 0), "attempt 2, worker 0: step 7, but the run ends at step 6"),
        ((2, 0), lambda run: {**run.line(5, 0), "epoch": 0}, "attempt 2, worker 0: step 5 is of epoch 1, not 0"),
        ((2, 0), lambda run: {"step": 5}, "attempt 2, worker 0: a line is damaged"),
        ((2, 0), lambda run: ["step", 5], "attempt 2, worker 0: a line is damaged"),
        ((2, 0), lambda run: {**run.line(5, 0), "ids": [None]}, "attempt 2, worker 0: a line is damaged"),
        ((7, 0), lambda run: run.line(5, 0), "attempt 7 was never started"),
    ],
)
def test_forged_lines(split: str, who: tuple[int, int], line: Callable[[Run], Any], said: str) -> None:
    run = Run(split)
    lines = {**run.lines(run.begin(), range(1, 6)), **run.lines(run.begin(3, 1), range(4, 7))}
    run.record(lines)
    run.end()
    assert run.audit().ok, "steps 4 and 5 of the first attempt were trained again, and do not count"
    lines.setdefault(who, []).append(line(run))
    run.record(lines)
    report = run.audit()
    assert not report.ok and said in report.forged[0]


def test_the_last_step_that_must_be_recorded(split: str) -> None:
    run = Run(split)
    lines = run.lines(run.begin(), range(1, 5))
    del lines[1, 1][2:]
    report = run.audit()
    assert report.ok and (report.reach, report.epochs) == (0, []), "nothing counts yet"
    run.record(lines)
    report = run.audit()
    assert report.ok and report.epochs[0].verdict == "so far once"
    assert report.rows()[0][4] == "(1 to come)"
    run.checkpoint(2)
    storage.write_text(f"{run.place}/checkpoints/step-00000004.a01/state.json", "{}")
    assert run.audit().ok, "a checkpoint that is not complete does not count"
    run.checkpoint(4)
    report = run.audit()
    assert (report.ok, report.lost_steps, report.epochs[0].missing) == (False, [3, 4], 1)
    run.begin(step=2, parent=1)
    assert run.audit().ok, "the newest attempt has gone on from step 2"


@pytest.mark.parametrize("world", [1, 2, 3])
def test_attempts_with_different_numbers_of_workers(split: str, world: int) -> None:
    run = Run(split)
    run.record(run.lines(run.begin(), range(1, 5)))
    run.record(run.lines(run.begin(2, 1, world), range(3, 7), world))
    run.end()
    assert run.audit().ok


def test_a_run_that_starts_from_the_checkpoint_of_another(split: str) -> None:
    run = Run(split)
    run.record(run.lines(run.begin(2), range(3, 7)))
    run.end()
    report = run.audit()
    assert report.ok and [epoch.verdict for epoch in report.epochs] == ["so far once", "exactly once"]


def test_skipped_samples_are_matched_by_id_or_key() -> None:
    place = packed([f"video{number}$_$1" for number in range(SAMPLES)])
    run = sound(Run(place))
    keys = [key for shard in run.manifest.shards for key in load(f"{place}/{shard.index.name}").keys]
    by_id = dict(zip(run.names, keys, strict=True))
    lines = run.lines(1, range(1, 7))
    for line, called in ((lines[1, 0][0], str), (lines[1, 1][3], by_id.__getitem__)):
        line["skipped"], line["ids"] = list(map(called, line["ids"])), []
    run.record(lines)
    report = run.audit()
    assert report.ok and [len(epoch.skipped) for epoch in report.epochs] == [2, 2]
    lines[1, 1][3]["skipped"][0] = "nobody"
    run.record(lines)
    assert run.audit().epochs[1].unknown == ["nobody"]


def test_data_that_was_replaced_is_refused(split: str) -> None:
    run = sound(Run(split))
    run.checkpoint(6, manifest_id="another")
    with pytest.raises(CheckpointMismatchError, match="manifest_id another"):
        run.audit()


def test_damaged_records_of_the_run_are_refused(split: str) -> None:
    run = sound(Run(split))
    for name, text in (("result.json", "[]"), ("result.json", '{"steps": "6"}'), ("run.json", "7")):
        kept = storage.read_text(f"{run.place}/{name}")
        storage.write_text(f"{run.place}/{name}", text)
        with pytest.raises(CorruptDataError, match="a record of the run is damaged"):
            run.audit()
        storage.write_text(f"{run.place}/{name}", kept)
    storage.delete_tree(f"{run.place}/{AUDIT}")
    config = replace(run.config, run=replace(run.config.run, audit=False))
    storage.write_json(f"{run.place}/run.json", {"config": to_dict(config)})
    with pytest.raises(UserError, match="no audit ledger"):
        run.audit()


def test_memory_per_sample_is_small() -> None:
    """Of long ids too; of a sound run nothing else is."""
    place = packed([f"{number}" * 200 for number in range(SAMPLES)])
    samples = SampleNames(place, Manifest.load(place))
    arrays = [value for value in vars(samples).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) <= 17 * SAMPLES


def test_the_command(split: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = sound(Run(split))
    assert main(["audit", run.place]) == 0
    assert "each sample counted exactly once: 10 samples, 6 counted steps" in capsys.readouterr().out
    lines = run.lines(1, range(1, 7))
    lines[1, 0].append({"step": 99, "epoch": 0, "ids": []})
    run.record(lines)
    assert main(["audit", run.place]) == 1
    shown = capsys.readouterr().out
    assert "1 lines are forged or damaged: attempt 1, worker 0: step 99" in shown and "NOT exactly once" in shown
    assert main(["audit", run.place, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["forged"]


def test_whole_passes_with_nothing_to_report_share_a_row() -> None:
    report = AuditReport("run", 30, 2, 9)
    report.epochs = [
        *(EpochAudit(number, True, steps=3 + number, seen=10, corpus="one") for number in range(3)),
        EpochAudit(3, True, steps=3, seen=9, skipped=["bad"], corpus="one"),
        EpochAudit(4, False, steps=1, seen=2, to_come=8, corpus="one"),
        EpochAudit(0, True, steps=5, seen=20, corpus="two"),
        EpochAudit(1, True, steps=5, seen=19, missing=1, corpus="two"),
    ]
    assert report.header[:4] == ("corpus", "pass", "steps", "seen")
    assert [row[:6] for row in report.rows()] == [
        ("one", "0-2", "3-5", "10 each", "0", "0"),
        ("one", "3", "3", "9", "1", "0"),
        ("one", "4", "1", "2", "0", "(8 to come)"),
        ("two", "0", "5", "20", "0", "0"),
        ("two", "1", "5", "19", "0", "1"),
    ]
    assert report.summary.startswith("NOT exactly once: 30 samples")
    report.epochs.pop()
    assert report.summary == (
        "each sample counted exactly once in each of 5 passes over 2 corpora, and at most once in 1 that is not "
        "complete, except 1 skipped: 30 samples, 9 counted steps, 2 attempts"
    )
