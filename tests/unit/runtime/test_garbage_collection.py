"""The garbage collector runs at fixed steps only."""

from __future__ import annotations

import gc
import weakref

import pytest

from ivr_dist.runtime.garbage_collection import EVERY, collected_by_step, uncollected


class Cycle:
    def __init__(self) -> None:
        self.own = self


def test_garbage_is_collected_at_fixed_steps() -> None:
    with collected_by_step() as collect:
        assert not gc.isenabled()
        gone = weakref.ref(Cycle())
        for step in range(1, EVERY):
            collect(step)
            assert gone() is not None
        collect(EVERY)
        assert gone() is None
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_as_before_after_an_error() -> None:
    try:
        with collected_by_step():
            raise ValueError
    except ValueError:
        pass
    assert gc.isenabled()


@pytest.mark.parametrize("collecting", [True, False])
def test_nothing_is_collected_inside_and_all_is_as_before_after_it(collecting: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if collecting else gc.disable)()
        with pytest.raises(ValueError, match="inside"), uncollected():
            assert not gc.isenabled()
            raise ValueError("inside")
        assert gc.isenabled() == collecting
    finally:
        (gc.enable if before else gc.disable)()
