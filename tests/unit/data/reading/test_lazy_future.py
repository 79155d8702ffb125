"""Lazy futures: the work runs once, in the thread that first calls `result()`."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from ivr_dist.data.reading.lazy_future import LazyFuture


def test_the_work_runs_once_on_the_first_call_of_result() -> None:
    done: list[str] = []
    future = LazyFuture(lambda: done.append(threading.current_thread().name) or 7)
    told: list[int] = []
    future.add_done_callback(lambda future: told.append(future.result()))
    assert not future.done()
    assert done == told == []
    assert [future.result(), future.result()] == [7, 7]
    assert future.exception() is None
    assert done == [threading.current_thread().name]
    assert told == [7]


def test_an_error_is_kept() -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise OSError("gone")

    future = LazyFuture(fail)
    assert isinstance(future.exception(), OSError)
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            future.result()
    assert calls == [1]


def test_many_who_ask_at_once_get_one_result() -> None:
    calls: list[int] = []
    begun = threading.Event()

    def work() -> int:
        calls.append(1)
        begun.wait(0.05)
        return 7

    future = LazyFuture(work)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: future.result(), range(8))) == {7}
    assert calls == [1]


def test_what_was_cancelled_is_not_done() -> None:
    future = LazyFuture(lambda: 1 // 0)
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result()
