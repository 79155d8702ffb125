"""`ivr-dist doctor` checks this machine, storage and a cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ivr_dist.cli.main import main
from ivr_dist.orchestration import doctor
from tests.ray.clusters import Cluster

# One after the other, however many processes run the suite: they share one cluster.
pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


def test_a_sound_environment_passes(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    assert main(["doctor", str(tmp_path), "--json"]) == 0
    found = {finding["what"]: finding for finding in json.loads(capsys.readouterr().out.splitlines()[-1])}
    assert {
        "packages",
        "C++ compiler",
        "device",
        "network",
        "collectives",
        "storage",
        "cluster",
        "failure detection",
    } <= set(found)
    # The host name of a single machine mostly resolves to loopback.
    assert all(finding["verdict"] == "ok" for what, finding in found.items() if what != "network")
    assert found["network"]["verdict"] in ("ok", "note")
    assert list(tmp_path.iterdir()) == []


def test_each_problem_is_reported_with_a_remedy(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storage that cannot be written, no compiler, and a cluster with slow failure detection."""
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(
        "ivr_dist.orchestration.ray_cluster.FAST_FAILURE_DETECTION", {"RAY_health_check_period_ms": "100"}
    )
    (tmp_path / "file").write_text("")
    assert main(["doctor", str(tmp_path / "file")]) == 1
    shown = capsys.readouterr().out
    assert "BAD  C++ compiler" in shown and "set CXX" in shown
    assert "BAD  storage" in shown
    assert "note failure detection" in shown and "RAY_health_check_period_ms=100" in shown
