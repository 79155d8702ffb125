"""Driver lease: one driver at a time, under any failure of the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from threading import Event

import pytest

from ivr_dist import storage
from ivr_dist.display.console import LocalConsole
from ivr_dist.errors import SupersededError, UserError
from ivr_dist.run import lease
from ivr_dist.run.lease import hold, holder


def elsewhere(run: Path, number: int, beat: int, **more: object) -> None:
    """A record as a driver of another host leaves it."""
    record = {"host": "elsewhere", "pid": 1, "process": "1", "token": "t", "beat": beat, **more}
    storage.write_json(str(run / "driver" / f"{number:06d}.json"), record)


def test_a_second_driver_is_refused_and_a_third_follows_the_first(tmp_path: Path) -> None:
    with hold(str(tmp_path), LocalConsole(), Event()):
        driver = holder(str(tmp_path))
        assert driver is not None
        assert driver["pid"] == os.getpid()
        with (
            pytest.raises(UserError, match=rf"{os.getpid()} is running on this run"),
            hold(str(tmp_path), LocalConsole(), Event()),
        ):
            pass
    assert holder(str(tmp_path)) is None
    with hold(str(tmp_path), LocalConsole(), Event()) as held:
        assert held.error is None


def test_a_killed_driver_of_this_host_is_followed_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, os\nfrom ivr_dist.run.lease import hold\nfrom ivr_dist.display.console import LocalConsole\n"
        "from threading import Event\n"
        "with hold(sys.argv[1], LocalConsole(), Event()):\n    print(flush=True)\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, check=False)
    assert holder(str(tmp_path)) is not None, "it could not release the run"
    started = time.monotonic()
    with hold(str(tmp_path), LocalConsole(), Event()):
        assert time.monotonic() - started < 2.0


def test_a_silent_driver_of_another_host_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere(tmp_path, 4, beat=7)
    started = time.monotonic()
    with hold(str(tmp_path), LocalConsole(), Event(), silent_s=0.5):
        assert time.monotonic() - started >= 0.5
    assert "to see whether driver elsewhere:1 is still alive" in capsys.readouterr().out


def test_a_live_driver_of_another_host_keeps_its_lease(tmp_path: Path) -> None:
    elsewhere(tmp_path, 1, beat=7)
    timer = threading.Timer(0.2, elsewhere, (tmp_path, 1, 8))
    timer.start()
    with (
        pytest.raises(UserError, match="driver elsewhere:1 is running on this run"),
        hold(str(tmp_path), LocalConsole(), Event(), 5.0),
    ):
        pass
    timer.join()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"host": 5}', '{"host": "h", "pid": "x"}'])
def test_a_damaged_record_is_of_a_driver_that_may_still_live(tmp_path: Path, text: str) -> None:
    place = tmp_path / "driver" / "000003.json"
    place.parent.mkdir()
    place.write_text(text)
    assert holder(str(tmp_path)) is not None
    with hold(str(tmp_path), LocalConsole(), Event(), 0.1):
        assert (tmp_path / "driver" / "000004.json").exists()


def test_a_driver_that_lets_go_meanwhile_is_followed(tmp_path: Path) -> None:
    elsewhere(tmp_path, 1, beat=7)
    timer = threading.Timer(0.2, elsewhere, (tmp_path, 1, 7), {"released": True})
    timer.start()
    started = time.monotonic()
    with hold(str(tmp_path), LocalConsole(), Event(), 20.0):
        assert time.monotonic() - started < 15.0
    timer.join()


def test_a_driver_mistaken_for_dead_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.05)
    console = LocalConsole()
    with hold(str(tmp_path), console, console.stop) as held:
        elsewhere(tmp_path, 2, beat=0)
        assert console.stop.wait(10)
        assert isinstance(held.error, SupersededError)
        assert "driver elsewhere:1 has taken over this run" in str(held.error)
    assert json.loads((tmp_path / "driver" / "000002.json").read_text()).get("released") is None, "not ours to release"


def test_of_many_newcomers_one_wins(tmp_path: Path) -> None:
    elsewhere(tmp_path, 1, beat=7)
    won, lost = [], []
    done = threading.Barrier(8)

    def come() -> None:
        try:
            with hold(str(tmp_path), LocalConsole(), Event(), 0.3):
                won.append(1)
                done.wait(20)
        except UserError:
            lost.append(1)
            done.wait(20)

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
