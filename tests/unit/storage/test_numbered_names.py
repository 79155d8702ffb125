"""Numbered names: sorted by number; names of any other format are ignored."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist import storage
from ivr_dist.checkpoint import store
from ivr_dist.checkpoint.store import CheckpointName
from ivr_dist.display.console import LocalConsole
from ivr_dist.errors import SupersededError
from ivr_dist.run.attempts import allocate, check_newest, numbers
from ivr_dist.run.heartbeat import read_heartbeats
from ivr_dist.run.lease import hold, holder
from ivr_dist.storage.numbered_names import Numbered
from tests.states import small_state, stored_state

FORM = Numbered("rank-{:05d}-{:06d}.jsonl")
STRAYS = (".nfs0000000000001", ".DS_Store", "{} (copy){}", "{}~", "._{}{}", "{}{}.tmp", "0{}{}", "Thumbs.db")


def strays(name: str) -> list[str]:
    """Files that other programs create beside such a file."""
    stem, dot, suffix = name.partition(".")
    return [form.format(stem, dot + suffix) for form in STRAYS]


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_numbers_come_back(rank: int, segment: int) -> None:
    assert FORM.parse(FORM.name(rank, segment)) == (rank, segment)


@given(st.text(max_size=30) | st.from_regex(r"rank-\d{4,7}-\d{5,8}\.jsonl\n?", fullmatch=True))
def test_only_a_name_as_we_write_it_is_one(name: str) -> None:
    found = FORM.parse(name)
    assert found is None or FORM.name(*found) == name


def test_what_others_leave_is_no_name() -> None:
    assert [FORM.parse(name) for name in strays(FORM.name(1, 2))] == [None] * len(STRAYS)
    assert FORM.parse("rank-\u0660\u0660\u0660\u0660\u0661-000001.jsonl") is None, "ASCII digits only"


def test_order_is_that_of_the_numbers(tmp_path: Path) -> None:
    found = [(99_999, 1), (99_999, 999_999), (99_999, 1_000_000), (100_000, 2)]
    for each in found[::-1]:
        (tmp_path / FORM.name(*each)).touch()
    assert FORM.list_numbers(str(tmp_path)) == found


SIGN = {"began": 0, "how": "", "ended": False, "seconds": {}, "forked": {}}


@pytest.mark.parametrize("last", [9, 9999, 10_000, 99_999])
def test_attempts_beyond_their_zeros(tmp_path: Path, last: int) -> None:
    run = str(tmp_path)
    for number in (1, last):
        storage.write_text(f"{run}/attempts/{number:04d}.json", '{"workers": []}')
    for name in strays(f"{last + 1:04d}.json"):
        storage.write_text(f"{run}/attempts/{name}", "{}")
    new = allocate(run, parent=None, step=0, stage=0, steps_per_epoch=1, workers=["host:1"])
    assert numbers(run) == [1, last, last + 1] == [1, last, new.number]
    check_newest(run, new.number)
    with pytest.raises(SupersededError, match=f"attempt {last + 1}"):
        check_newest(run, last)


@pytest.mark.parametrize("last", [1, 9999, 10_000, 999_999, 1_000_000])
def test_drivers_and_signs_of_life_beyond_their_zeros(tmp_path: Path, last: int) -> None:
    run = str(tmp_path)
    for number in (last - 1, last):
        storage.write_text(
            f"{run}/driver/{number:06d}.json",
            '{"host": "h", "pid": 1, "process": "1", "token": "t", "beat": 0, "released": true}',
        )
        storage.write_text(f"{run}/pulse/{number:04d}.json", json.dumps({**SIGN, "seen": number}))
    for name in strays(f"{last:06d}.json"):
        storage.write_text(f"{run}/driver/{name}", "{}")
    for name in strays(f"{last:04d}.json"):
        storage.write_text(f"{run}/pulse/{name}", "{}")
    with hold(run, LocalConsole(None), Event()):  # type: ignore[arg-type]
        assert storage.exists(f"{run}/driver/{last + 1:06d}.json")
        assert holder(run) is not None
    assert holder(run) is None
    assert read_heartbeats(run) == {number: {**SIGN, "seen": number} for number in (last - 1, last)}


def test_checkpoints_beyond_their_zeros(tmp_path: Path) -> None:
    run = str(tmp_path)
    names = [CheckpointName(step, attempt) for step in (7, 99_999_999, 100_000_000) for attempt in (1, 99, 100, 10_000)]
    for name in names:
        (tmp_path / "checkpoints" / str(name)).mkdir(parents=True)
        for stray in (f"{name} (copy)", f"step-0{str(name)[5:]}", ".DS_Store"):
            (tmp_path / "checkpoints" / stray).mkdir(exist_ok=True)
    assert store.names(run) == names[::-1]


def test_a_copy_of_a_part_manifest_is_none(tmp_path: Path) -> None:
    url = str(tmp_path)
    store.write_part(url, 0, 1, {store.STATE: [json.dumps(stored_state(1)).encode()]}, [])
    before = store.parts(url)
    for stray in strays("part-00000.json"):
        (tmp_path / stray).write_text("{}")
    assert store.parts(url) == before
    assert store.verify(url) == small_state(1)
