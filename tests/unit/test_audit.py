"""The audit says that a run is sound exactly when it is, whatever its samples are called."""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivr_dist import storage
from ivr_dist.attempts import allocate
from ivr_dist.audit import audit
from ivr_dist.audit_report import AuditReport
from ivr_dist.checkpoint import store
from ivr_dist.checkpoint.store import CheckpointName
from ivr_dist.cli import main
from ivr_dist.config_file import load_config, to_dict
from ivr_dist.corpora.source import SampleRef, SourceSample
from ivr_dist.data.cursor import DataCursor
from ivr_dist.data.foreign import index_tars
from ivr_dist.data.index import load
from ivr_dist.data.manifest import FeatureSpec, Manifest, TaskSpec
from ivr_dist.data.named import NamedSamples
from ivr_dist.data.order import EMPTY, EpochOrder, rank_slots
from ivr_dist.data.pack import PackOptions, pack
from ivr_dist.data.reader import ShardReader
from ivr_dist.data.tar import TarWriter
from ivr_dist.errors import CheckpointMismatchError, CorruptDataError, UserError
from ivr_dist.ledger import AUDIT
from ivr_dist.plan import make_plan
from tests.packed import npy

BATCH, WORLD, EPOCHS = 4, 2, 2
SAMPLES = 10
STEPS = 3
"""An epoch's, the last of 2 samples."""


@dataclass(frozen=True)
class Corpus:
    """Samples of these ids."""

    ids: Sequence[str]
    corpus: str = "list"
    features: dict[str, FeatureSpec] = field(
        default_factory=lambda: {"audio": FeatureSpec(set="a", dim=1, dtype="float32", kind="features")}
    )
    tasks: dict[str, TaskSpec] = field(default_factory=lambda: {"sentiment": TaskSpec(type="regression", scale="none")})

    def splits(self) -> dict[str, list[SampleRef]]:
        return {"train": [SampleRef(number, id_) for number, id_ in enumerate(self.ids)]}

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        return SourceSample(ref.id, split, None, {"sentiment": 1.0}, "", {}, {"audio": np.ones((1, 1), np.float32)})


def somewhere() -> str:
    """A place of its own, in memory: hundreds of runs are made."""
    return f"memory://audit/{uuid.uuid4().hex}"


def packed(ids: Sequence[str]) -> str:
    place = somewhere()
    pack(Corpus(ids), place, PackOptions(shard_samples=4))
    return f"{place}/train"


def indexed(ids: Sequence[str], keys: Sequence[str]) -> str:
    """Tars made elsewhere."""
    place = somewhere()
    for first in range(0, SAMPLES, 4):
        out = io.BytesIO()
        writer = TarWriter(out)
        for id_, key in list(zip(ids, keys, strict=True))[first : first + 4]:
            writer.add(f"{key}.json", json.dumps({"id": id_, "labels": {"sentiment": 0.5}}).encode())
            writer.add(f"{key}.audio.npy", npy(np.ones((1, 1), np.float32)))
        writer.close()
        storage.write_bytes(f"{place}/part-{first}.tar", out.getvalue())
    index_tars(place, corpus="films", split="train")
    return place


def forget_ids(place: str) -> None:
    """Make the indexes of a split what they were before there were ids in them."""
    manifest = Manifest.load(place)
    shards = []
    for shard in manifest.shards:
        url = f"{place}/{shard.index.name}"
        content = replace(load(url), ids=None).to_bytes()
        storage.write_bytes(url, content)
        entry = replace(shard.index, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        shards.append(replace(shard, index=entry))
    replace(manifest, shards=shards).save(place)


def ids_of(split: str) -> list[str]:
    """By number, from the shards."""
    reader = ShardReader(split, Manifest.load(split), 0)
    found = list(reader.read(np.arange(SAMPLES)).ids)
    reader.close()
    return found


Line = dict[str, Any]
Lines = dict[tuple[int, int], list[Line]]
"""By attempt and rank."""


@dataclass
class Run:
    """A run that never was, with the ledger of one."""

    split: str
    place: str = field(default_factory=somewhere)

    def __post_init__(self) -> None:
        # Small enough for any machine: what is audited is how steps were recorded, not how they were trained.
        options = (f"data.train={self.split}", f"run.dir={self.place}", f"train.global_batch={BATCH}")
        more = (
            "loss.consistency.group=2",
            f"train.epochs={EPOCHS}",
            "data.modalities=[audio]",
            "data.standardize=[]",
            "train.select=last",
        )
        self.config = load_config(None, [*options, *more])
        self.manifest = Manifest.load(self.split)
        self.plan = make_plan(self.config, SAMPLES, WORLD, self.manifest.total_bytes)
        self.names = ids_of(self.split)
        storage.write_json(f"{self.place}/run.json", {"config": to_dict(self.config)})

    def begin(self, step: int = 0, parent: int | None = None, world: int = WORLD) -> int:
        workers = ["host:1"] * world
        return allocate(self.place, parent=parent, step=step, stage=0, steps_per_epoch=STEPS, workers=workers).number

    def line(self, step: int, rank: int, world: int = WORLD) -> Line:
        """What a worker records of a step, by the order of the data."""
        epoch, place = divmod(step - 1, STEPS)
        order = EpochOrder(
            self.manifest.shard_samples, self.manifest.id, 0, epoch, self.plan.lanes, BATCH, self.plan.delay
        )
        slots = order.batch(place)[list(rank_slots(range(BATCH), rank, world))]
        return {"step": step, "epoch": epoch, "ids": [self.names[number] for number in slots if number != EMPTY]}

    def lines(self, attempt: int, steps: Sequence[int], world: int = WORLD) -> Lines:
        return {(attempt, rank): [self.line(step, rank, world) for step in steps] for rank in range(world)}

    def record(self, lines: Lines, per_segment: int = 2) -> None:
        for (attempt, rank), own in lines.items():
            for segment, first in enumerate(range(0, len(own), per_segment), 1):
                text = "".join(json.dumps(line) + "\n" for line in own[first : first + per_segment])
                name = f"attempt-{attempt:04d}/rank-{rank:05d}-{segment:06d}.jsonl"
                storage.write_text(f"{self.place}/{AUDIT}/{name}", text)

    def checkpoint(self, step: int, attempt: int = 1, **changes: Any) -> None:
        cursor = DataCursor(
            manifest_id=self.manifest.id, seed=0, lanes=self.plan.lanes, global_batch=BATCH, delay=self.plan.delay
        )
        state = {"format": store.FORMAT, "cursor": {**cursor.to_json(), **changes}}
        url = CheckpointName(step, attempt).url(self.place)
        store.write_part(url, 0, 1, {store.STATE: [json.dumps(state).encode()]}, [])

    def end(self, steps: int = STEPS * EPOCHS) -> None:
        storage.write_json(f"{self.place}/result.json", {"steps": steps})

    def audit(self) -> AuditReport:
        return audit(self.place)


def sound(run: Run) -> Run:
    run.record(run.lines(run.begin(), range(1, 7)))
    run.end()
    return run


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
def test_a_sound_run_is_sound_whatever_its_samples_are_called(ids: list[str]) -> None:
    run = sound(Run(packed(ids)))
    report = run.audit()
    assert report.ok, report
    assert sorted(run.names) == sorted(ids)
    assert [(epoch.verdict, epoch.seen, epoch.missing) for epoch in report.epochs] == [("exactly once", 10, 0)] * 2
    json.dumps(report.to_json())


@settings(max_examples=40)
@given(IDS, st.booleans())
def test_so_it_is_on_tars_made_elsewhere(ids: list[str], kept: bool) -> None:
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
def test_ids_that_are_the_keys_of_others(kept: bool, turn: int) -> None:
    place = indexed([*PLAIN[turn:], *PLAIN[:turn]], PLAIN)
    if not kept:
        forget_ids(place)
    assert sound(Run(place)).audit().ok


def test_names_that_each_shard_counts_anew() -> None:
    assert sound(Run(indexed(PLAIN, [str(number % 4) for number in range(SAMPLES)]))).audit().ok


CHANGES = ("lose line", "lose id", "forge id", "swap steps", "repeat line", "repeat id", "cut off", "damage", "epoch")


@given(st.data(), st.sampled_from(["finished", "running", "two attempts"]))
def test_ok_exactly_when_nothing_is_wrong(split: str, data: st.DataObject, kind: str) -> None:
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


def test_what_is_wrong_is_told_apart(split: str) -> None:
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
    assert not report.ok and len(report.faults) == 2


def test_a_worker_that_recorded_nothing_and_a_whole_ledger_that_is_gone(split: str) -> None:
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
        ((1, 2), lambda run: run.line(2, 1), "attempt 1, worker 2: there were 2 workers"),
        ((2, 0), lambda run: run.line(2, 0), "attempt 2, worker 0: step 2, but it began at step 4"),
        ((2, 0), lambda run: run.line(7, 0), "attempt 2, worker 0: step 7, but the run ends at step 6"),
        ((2, 0), lambda run: {**run.line(5, 0), "epoch": 0}, "attempt 2, worker 0: step 5 is of epoch 1, not 0"),
        ((2, 0), lambda run: {"step": 5}, "attempt 2, worker 0: a line is damaged"),
        ((2, 0), lambda run: ["step", 5], "attempt 2, worker 0: a line is damaged"),
        ((2, 0), lambda run: {**run.line(5, 0), "ids": [None]}, "attempt 2, worker 0: a line is damaged"),
        ((7, 0), lambda run: run.line(5, 0), "attempt 7 never began"),
    ],
)
def test_lines_that_nobody_can_have_written(
    split: str, who: tuple[int, int], line: Callable[[Run], Any], said: str
) -> None:
    run = Run(split)
    lines = {**run.lines(run.begin(), range(1, 6)), **run.lines(run.begin(3, 1), range(4, 7))}
    run.record(lines)
    run.end()
    assert run.audit().ok, "steps 4 and 5 of the first attempt were trained again, and do not count"
    lines.setdefault(who, []).append(line(run))
    run.record(lines)
    report = run.audit()
    assert not report.ok and said in report.forged[0]


def test_how_far_a_ledger_must_reach(split: str) -> None:
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
def test_attempts_of_other_numbers_of_workers(split: str, world: int) -> None:
    run = Run(split)
    run.record(run.lines(run.begin(), range(1, 5)))
    run.record(run.lines(run.begin(2, 1, world), range(3, 7), world))
    run.end()
    assert run.audit().ok


def test_a_run_from_the_checkpoint_of_another(split: str) -> None:
    run = Run(split)
    run.record(run.lines(run.begin(2), range(3, 7)))
    run.end()
    report = run.audit()
    assert report.ok and [epoch.verdict for epoch in report.epochs] == ["so far once", "exactly once"]


def test_samples_that_were_left_out_count_as_skipped_by_id_or_key() -> None:
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


def test_data_that_the_run_was_not_trained_on(split: str) -> None:
    run = sound(Run(split))
    run.checkpoint(6, manifest_id="another")
    with pytest.raises(CheckpointMismatchError, match="manifest_id another"):
        run.audit()


def test_what_the_audit_goes_by_is_damaged(split: str) -> None:
    run = sound(Run(split))
    for name, text in (("result.json", "[]"), ("result.json", '{"steps": "6"}'), ("run.json", "7")):
        kept = storage.read_text(f"{run.place}/{name}")
        storage.write_text(f"{run.place}/{name}", text)
        with pytest.raises(CorruptDataError, match="it does not say"):
            run.audit()
        storage.write_text(f"{run.place}/{name}", kept)
    storage.delete_tree(f"{run.place}/{AUDIT}")
    config = replace(run.config, run=replace(run.config.run, audit=False))
    storage.write_json(f"{run.place}/run.json", {"config": to_dict(config)})
    with pytest.raises(UserError, match="no audit ledger"):
        run.audit()


def test_what_is_kept_of_a_sample_is_small() -> None:
    """Of long ids too; of a sound run nothing else is."""
    place = packed([f"{number}" * 200 for number in range(SAMPLES)])
    samples = NamedSamples(place, Manifest.load(place))
    arrays = [value for value in vars(samples).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) <= 17 * SAMPLES


def test_the_command(split: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = sound(Run(split))
    assert main(["audit", run.place]) == 0
    assert "each sample counted exactly once: 10 samples, 6 steps that count" in capsys.readouterr().out
    lines = run.lines(1, range(1, 7))
    lines[1, 0].append({"step": 99, "epoch": 0, "ids": []})
    run.record(lines)
    assert main(["audit", run.place]) == 1
    shown = capsys.readouterr().out
    assert "1 lines are forged or damaged: attempt 1, worker 0: step 99" in shown and "NOT exactly once" in shown
    assert main(["audit", run.place, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["forged"]
