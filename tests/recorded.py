"""Synthetic run directories with audit ledgers, in memory: hundreds of them for the audit tests."""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ivr_dist import storage
from ivr_dist.checkpoint import store
from ivr_dist.checkpoint.store import CheckpointName
from ivr_dist.config.loading import load_config, to_dict
from ivr_dist.corpora.source import SampleRef, SourceSample
from ivr_dist.data.cursor import DataCursor
from ivr_dist.data.exclusions import NOTHING, Exclusions, save_excluded
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.data.sample_order import EMPTY, EpochOrder, rank_slots
from ivr_dist.inspection.audit import audit
from ivr_dist.inspection.audit_report import AuditReport
from ivr_dist.packing.index_tars import index_tars
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.planning.plan import make_plan
from ivr_dist.run.attempts import allocate
from ivr_dist.run.paths import AUDIT
from ivr_dist.shards.index import load
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.specs import FeatureSpec, TaskSpec
from ivr_dist.shards.tar import TarWriter
from tests.packed import npy
from tests.states import stored_state

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
        self.excluded = NOTHING

    def exclude(self, excluded: Exclusions) -> None:
        """Leave samples out, in all lines that are made from here on."""
        self.excluded = excluded
        save_excluded(self.place, {"train": self.manifest}, {"train": excluded})
        config = replace(self.config, data=replace(self.config.data, exclude="withdrawn.txt"))
        storage.write_json(f"{self.place}/run.json", {"config": to_dict(config)})

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
        numbers = slots[slots != EMPTY]
        left_out = self.excluded.mask(numbers)
        line: Line = {"step": step, "epoch": epoch, "ids": [self.names[number] for number in numbers[~left_out]]}
        if left_out.any():
            line["excluded"] = [self.names[number] for number in numbers[left_out]]
        return line

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
            manifest_id=self.manifest.id,
            seed=0,
            lanes=self.plan.lanes,
            global_batch=BATCH,
            delay=self.plan.delay,
            excluded=self.excluded.digest,
        )
        state = stored_state(step, cursor={**cursor.to_json(), **changes})
        url = CheckpointName(step, attempt).url(self.place)
        store.write_part(url, 0, 1, {store.STATE: [json.dumps(state).encode()]}, [])

    def end(self, steps: int = STEPS * EPOCHS) -> None:
        result = {"status": "finished", "checkpoint": f"step-{steps:08d}.a01", "attempts": 1, "metrics": {}}
        storage.write_json(f"{self.place}/result.json", {**result, "steps": steps, "total_steps": steps})

    def audit(self) -> AuditReport:
        return audit(self.place)


def sound(run: Run) -> Run:
    run.record(run.lines(run.begin(), range(1, 7)))
    run.end()
    return run
