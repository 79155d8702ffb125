"""Errors of the user's own code, and those that only passed through it."""

from __future__ import annotations

import pytest

from ivr_dist.common.own_code import is_own_error
from ivr_dist.errors import ConfigError


def raised_in(module: str, code: str) -> BaseException:
    """The error of a statement that runs in a module of a name."""
    try:
        exec(code, {"__name__": module})
    except (Exception, SystemExit) as error:
        return error
    raise AssertionError("it raises nothing")


@pytest.mark.parametrize("code", ["1 / 0", "raise SystemExit(0)", "open('/nowhere')", "raise RuntimeError('shapes')"])
def test_an_error_of_own_code_would_recur(code: str) -> None:
    assert is_own_error(raised_in("mine.parts", code))


def test_a_lost_worker_a_full_memory_or_an_explained_error_is_not_one_of_own_code() -> None:
    lost = "raise RuntimeError('Connection closed by peer')"
    assert not is_own_error(raised_in("torch.distributed.distributed_c10d", lost))
    assert not is_own_error(raised_in("deepspeed.comm.comm", lost))
    assert is_own_error(raised_in("deepspeed.runtime.zero.linear", lost)), "ZeRO 3 calls a model's layers there"
    assert not is_own_error(raised_in("mine.parts", "raise MemoryError"))
    assert not is_own_error(raised_in("mine.parts", "raise RuntimeError('CUDA error: device-side assert')"))
    assert not is_own_error(ConfigError("it says so already"))
