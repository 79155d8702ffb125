"""Complete checkpoints are found, torn ones are invisible, and the only good one is never deleted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ivr_dist.checkpoint import store
from ivr_dist.checkpoint.store import CheckpointName
from ivr_dist.errors import CheckpointError
from ivr_dist.run.attempts import Span
from ivr_dist.training.resume import _newest_complete
from tests.states import stored_state


def write(run: Path, step: int, attempt: int = 1, world: int = 2, parts: int | None = None) -> CheckpointName:
    """A checkpoint of `world` parts, of which the first `parts` are written."""
    name = CheckpointName(step, attempt)
    for rank in range(world if parts is None else parts):
        files: dict[str, list[bytes | memoryview]] = {f"rank{rank}.bin": [bytes([rank]) * 60, bytes(40)]}
        if rank == 0:
            files[store.STATE] = [json.dumps(stored_state(step)).encode()]
        store.write_part(name.url(str(run)), rank, world, files, [])
    return name


def newest(run: Path, spans: list[Span] | None = None) -> tuple[CheckpointName | None, list[str]]:
    """What a run would continue from, and what it says of the others."""
    notes: list[str] = []
    return _newest_complete(str(run), spans or [Span(1, 1, None)], None, notes), notes


def test_names_round_trip() -> None:
    name = CheckpointName(1200, 2)
    assert str(name) == "step-00001200.a02"
    assert CheckpointName.parse(str(name)) == name
    assert CheckpointName.parse("latest") is None


def test_newest_complete_checkpoint_is_found(tmp_path: Path) -> None:
    write(tmp_path, 10)
    expected = write(tmp_path, 20)
    assert newest(tmp_path) == (expected, [])
    assert store.verify(expected.url(str(tmp_path))).step == 20


def test_a_checkpoint_with_a_missing_part_is_passed_over(tmp_path: Path) -> None:
    expected = write(tmp_path, 10)
    write(tmp_path, 20, parts=1)
    found, notes = newest(tmp_path)
    assert found == expected
    assert "part-00001.json is missing" in notes[0]


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_file_makes_the_checkpoint_invisible(tmp_path: Path, damage: str) -> None:
    expected = write(tmp_path, 10)
    target = Path(write(tmp_path, 20).url(str(tmp_path))) / "rank1.bin"
    data = bytearray(target.read_bytes())
    if damage == "truncate":
        target.write_bytes(data[:-1])
    elif damage == "flip":
        data[50] ^= 1
        target.write_bytes(data)
    else:
        target.unlink()
    found, notes = newest(tmp_path)
    assert found == expected
    assert len(notes) == 1


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    assert newest(tmp_path) == (None, [])
    with pytest.raises(CheckpointError, match="no part manifest"):
        store.verify(CheckpointName(1, 1).url(str(tmp_path)))


def test_what_a_superseded_attempt_wrote_after_the_fork_is_ignored(tmp_path: Path) -> None:
    expected = write(tmp_path, 10, attempt=1)
    write(tmp_path, 30, attempt=1)
    assert newest(tmp_path, [Span(1, 1, 10), Span(2, 11, None)])[0] == expected


def test_retention_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    names = [write(tmp_path, step) for step in (10, 20, 30, 40)]
    store.retain(str(tmp_path), [Span(1, 1, None)], newest=names[-1], keep_last=2, best=str(names[0]))
    assert store.names(str(tmp_path)) == [names[3], names[2], names[0]]


def test_retention_never_deletes_the_checkpoint_just_written(tmp_path: Path) -> None:
    stale = write(tmp_path, 50, attempt=1)
    fresh = write(tmp_path, 5, attempt=2)
    store.retain(str(tmp_path), [Span(2, 1, None)], newest=fresh, keep_last=1, best=None)
    assert store.names(str(tmp_path)) == [fresh], f"{stale} was superseded by starting over"


def test_a_superseded_attempt_leaves_the_checkpoints_of_its_successor_alone(tmp_path: Path) -> None:
    newer = [write(tmp_path, 60, attempt=2), write(tmp_path, 70, attempt=2)]
    late = write(tmp_path, 110, attempt=1)
    store.retain(str(tmp_path), [Span(1, 1, None)], newest=late, keep_last=1, best=None)
    assert set(store.names(str(tmp_path))) == {*newer, late}


def test_retention_keeps_multiples_for_good(tmp_path: Path) -> None:
    names = [write(tmp_path, step) for step in (10, 15, 20, 25, 30)]
    store.retain(str(tmp_path), [Span(1, 1, None)], newest=names[-1], keep_last=1, best=None, keep_every=20)
    assert store.names(str(tmp_path)) == [names[4], names[2]]


def test_older_checkpoints_are_found_where_newer_ones_are_not_wanted(tmp_path: Path) -> None:
    expected = write(tmp_path, 10)
    write(tmp_path, 20)
    assert _newest_complete(str(tmp_path), [Span(1, 1, None)], 19, []) == expected


def test_shares_of_the_check_cover_every_file(tmp_path: Path) -> None:
    url = write(tmp_path, 10, world=3).url(str(tmp_path))
    (Path(url) / "rank2.bin").write_bytes(bytes(100))
    failed = []
    for rank in range(2):
        try:
            store.verify(url, rank, 2)
        except CheckpointError as error:
            failed.append(str(error))
    assert len(failed) == 1
    assert "rank2.bin is not what its part manifest says" in failed[0]


def test_another_format_is_refused_by_name(tmp_path: Path) -> None:
    url = write(tmp_path, 10, world=1).url(str(tmp_path))
    part = Path(url) / "part-00000.json"
    content = json.loads(part.read_text())
    del content["sha256"]
    part.write_text(json.dumps({**content, "format": 1}))
    with pytest.raises(CheckpointError, match="has format 1, this version reads 2 and 3"):
        store.verify(url)
