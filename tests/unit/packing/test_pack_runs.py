"""Packing runs: the same bytes with any number of processes and after any kill, in bounded memory."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from ivr_dist.corpora.source import Opener, SampleRef, Source, SourceSample
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.errors import DataError
from ivr_dist.packing.pack import PackOptions, PackSummary, pack
from ivr_dist.packing.worker_pool import ProcessPool
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.specs import FeatureSpec, TaskSpec
from tests.repository import ROOT

OPENER = Opener(partial(SynthSource, 160, missing=0.1), "synth 160")
OPTIONS = PackOptions(shard_samples=20, seed=3)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: a kill loses nothing there either, and no disk makes anyone wait."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ivr-test-") as folder:
        yield Path(folder)


def run(place: Path, opener: Opener = OPENER, options: PackOptions = OPTIONS, jobs: int = 0) -> PackSummary:
    return pack(opener(), str(place), options, opener=opener, pool=ProcessPool(jobs, start_s=0) if jobs else None)


def tree(place: Path) -> dict[str, str]:
    """Snapshot of a folder: files with their hash, hidden ones and directories included."""
    return {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "directory"
        for path in sorted(place.rglob("*"))
    }


def check_manifests(place: Path) -> int:
    """Check every manifest and the files that it lists; returns the number of manifests."""
    found = list(place.glob("*/manifest.json"))
    for path in found:
        for shard in Manifest.load(str(path.parent)).shards:
            for entry in (shard, shard.index):
                assert hashlib.sha256((path.parent / entry.name).read_bytes()).hexdigest() == entry.sha256
    return len(found)


@dataclass
class Watched:
    """A corpus that records which samples were loaded, and may fail after some of them."""

    source: Source
    loaded: list[str]
    breaks_after: int | None = None

    @property
    def corpus(self) -> str:
        return self.source.corpus

    @property
    def features(self) -> Mapping[str, FeatureSpec]:
        return self.source.features

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        return self.source.tasks

    def splits(self) -> Mapping[str, Sequence[SampleRef]]:
        return self.source.splits()

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        if len(self.loaded) == self.breaks_after:
            raise DataError("a sample cannot be read", where=ref.id)
        self.loaded.append(ref.id)
        return self.source.load(split, ref)


def broken_off(place: Path, after: int, opener: Opener = OPENER, options: PackOptions = OPTIONS) -> None:
    with pytest.raises(DataError, match="a sample cannot be read"):
        pack(Watched(opener(), [], after), str(place), options, opener=opener)


def resumed(place: Path, opener: Opener = OPENER, options: PackOptions = OPTIONS) -> tuple[PackSummary, list[str]]:
    watched = Watched(opener(), [])
    return pack(watched, str(place), options, opener=opener), watched.loaded


def test_any_number_of_processes_writes_the_same_bytes(place: Path) -> None:
    options = PackOptions(shard_bytes=50_000)
    summaries = [run(place / str(jobs), options=options, jobs=jobs) for jobs in (0, 1, 3)]
    assert tree(place / "0") == tree(place / "1") == tree(place / "3")
    assert len({tuple(split.manifest_id for split in summary.splits) for summary in summaries}) == 1
    assert summaries[0].splits[0].shards > 5
    # Compared on the process pool as well.
    assert {split.status for split in run(place / "3", options=options, jobs=2).splits} == {"already packed"}


def test_progress_over_processes_adds_up(place: Path) -> None:
    seen: dict[str, list[int]] = {}

    def progress(split: str, done: int, total: int) -> None:
        assert done <= total
        seen.setdefault(split, []).append(done)

    pack(OPENER(), str(place), OPTIONS, progress, opener=OPENER, pool=ProcessPool(2, start_s=0))
    assert {split: calls[-1] for split, calls in seen.items()} == {"train": 112, "valid": 24, "test": 24}
    assert all(calls == sorted(calls) for calls in seen.values())


def test_what_was_written_is_not_made_again(place: Path) -> None:
    run(place / "whole")
    packed = place / "resumed"
    broken_off(packed, after=75)
    kept = {path: path.stat().st_mtime_ns for path in packed.glob("train/synth-*")}
    assert len(kept) == 2 * 3
    assert check_manifests(packed) == 0
    summary, loaded = resumed(packed)
    assert len(loaded) == 160 - 60
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert tree(packed) == tree(place / "whole")
    assert [split.status for split in summary.splits] == ["packed"] * 3
    assert [replace(s, url="") for s in summary.splits] == [replace(s, url="") for s in run(place / "third").splits]


def test_what_followed_from_something_else_is_made_again(place: Path) -> None:
    other = Opener(partial(SynthSource, 160, seed=1, missing=0.1), "synth 160, another seed")
    for name, opener, options in (
        ("source", other, OPTIONS),
        ("seed", OPENER, replace(OPTIONS, seed=4)),
        ("cut", OPENER, replace(OPTIONS, shard_samples=16)),
    ):
        run(place / name / "whole", opener, options)
        broken_off(place / name / "resumed", after=75)
        _, loaded = resumed(place / name / "resumed", opener, options)
        assert len(loaded) == 160
        assert tree(place / name / "resumed") == tree(place / name / "whole")


@pytest.mark.parametrize("damage", ["cut shard", "no index", "torn record", "half a file"])
def test_incomplete_shards_are_made_again(place: Path, damage: str) -> None:
    run(place / "whole")
    packed = place / "resumed"
    broken_off(packed, after=75)
    stem = packed / "train" / "synth-train-000001"
    if damage == "cut shard":
        stem.with_suffix(".tar").write_bytes(stem.with_suffix(".tar").read_bytes()[:-1])
    elif damage == "no index":
        stem.with_suffix(".idx").unlink()
    elif damage == "half a file":
        (stem.parent / ".0123.ivr-staged").write_bytes(b"what a killed write leaves")
    else:
        record = packed / "train" / ".pack" / f"{stem.name}.json"
        record.write_bytes(record.read_bytes()[:-5])
    _, loaded = resumed(packed)
    assert len(loaded) == 160 - (60 if damage == "half a file" else 40)
    assert tree(packed) == tree(place / "whole")


def test_an_overwriting_that_was_broken_off_leaves_no_manifest(place: Path) -> None:
    other = Opener(partial(SynthSource, 200), "synth 200")
    options = replace(OPTIONS, overwrite=True)
    run(place / "whole")
    packed = place / "place"
    run(packed, other)
    before = tree(packed)
    with pytest.raises(DataError, match="the folder holds another packing"):
        run(packed)
    assert tree(packed) == before
    # 160 samples are loaded for the comparison; then it fails in the second shard.
    broken_off(packed, after=160 + 30, options=options)
    assert check_manifests(packed) == 0
    run(packed, options=options)
    assert tree(packed) == tree(place / "whole")


def files_in(place: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(place))


def killed_at(files: int, pause: float, place: Path) -> None:
    """Killed a moment after there are as many files, or at its end."""
    child = multiprocessing.get_context("fork").Process(target=run, args=(place,), kwargs={"jobs": 0})
    child.start()
    while child.is_alive() and files_in(place) < files:
        pass
    time.sleep(pause)
    child.kill()
    child.join()


def test_kills_at_20_moments_leave_no_trace(place: Path) -> None:
    run(place / "whole")
    whole = tree(place / "whole")
    # Records and unfinished files go on the way, so that what is there at one time is less than what there was.
    most = files_in(place / "whole") + 4
    moments = random.Random(0)
    states = set()
    for number in range(20):
        packed = place / str(number)
        killed_at(moments.randint(0, most), moments.uniform(0, 0.004), packed)
        states.add((check_manifests(packed), len(list(packed.glob("*/*.tar")))))
        run(packed)
        assert tree(packed) == whole
    assert len(states) > 5, "the kills were not spread over the run"


def test_a_kill_with_processes_at_work(place: Path) -> None:
    run(place / "whole")
    packed = place / "killed"
    opener = Opener(partial(SynthSource, 160, missing=0.1), OPENER.fingerprint)
    child = multiprocessing.get_context("fork").Process(target=run, args=(packed, opener), kwargs={"jobs": 2})
    child.start()
    while len(list(packed.glob("train/.pack/*.json"))) < 2:
        assert child.is_alive()
        time.sleep(0.002)
    child.kill()
    child.join()
    assert check_manifests(packed) == 0
    run(packed, jobs=2)
    assert tree(packed) == tree(place / "whole")


def test_a_kill_after_the_manifests_loses_nothing(place: Path) -> None:
    """Records are deleted last, so even then no shard is made again."""
    run(place / "whole")
    packed = place / "killed"
    child = multiprocessing.get_context("fork").Process(target=_die_at_the_first_record_deleted, args=(packed,))
    child.start()
    child.join()
    assert check_manifests(packed) == 3 and (packed / "test" / ".pack").exists()
    summary, loaded = resumed(packed)
    assert not loaded and {split.status for split in summary.splits} == {"already packed"}
    assert tree(packed) == tree(place / "whole")


def _die_at_the_first_record_deleted(place: Path) -> None:
    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "shutil.rmtree":
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    run(place)


IN_BOUNDED_MEMORY = """
import resource, sys
import numpy as np
from ivr_dist.corpora.source import SampleRef, SourceSample
from ivr_dist.packing.index_tars import index_tars
from ivr_dist.shards.specs import FeatureSpec
from ivr_dist.packing.pack import PackOptions, pack

COUNT, STEPS, WIDTH = 100, 1024, 1024  # 4 MiB each
place = sys.argv[1]


class Large:
    corpus = "large"
    features = {"audio": FeatureSpec(set="audio", dim=WIDTH, dtype="float32", kind="features")}
    tasks = {}

    def splits(self):
        return {"train": [SampleRef(number, f"s{number}") for number in range(COUNT)]}

    def load(self, split, ref):
        array = np.full((STEPS, WIDTH), ref.number, np.float32)
        return SourceSample(ref.id, split, None, {}, "", {}, {"audio": array})


with open("/proc/self/statm") as file:
    used = int(file.read().split()[5]) * resource.getpagesize()
limit = used + (96 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
(train,) = pack(Large(), place, PackOptions(shard_bytes=12 << 20)).splits
assert train.bytes > 1.5 * limit and train.shards > 10, (train.bytes, limit)
# All of them in one tar.
with open(f"{place}/one/one.tar", "wb") as out:
    for number in range(train.shards):
        with open(f"{place}/train/large-train-{number:06d}.tar", "rb") as shard:
            out.write(shard.read()[: -1024 if number < train.shards - 1 else None])
assert index_tars(f"{place}/one", corpus="large", split="train").statistics["audio"].steps == COUNT * STEPS
try:
    pack(Large(), f"{place}/all", PackOptions(shard_samples=COUNT))
except MemoryError:
    sys.exit(0)
sys.exit("the limit does not limit")
"""


def test_a_corpus_larger_than_memory_is_packed_and_indexed(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", IN_BOUNDED_MEMORY, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
