"""`ivr-dist submit` and `ray job submit` against a real cluster, started and stopped by launch/local_cluster.sh."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ray.clusters import ROOT, Cluster, local_cluster

# One after the other, however many processes run the suite: clusters are heavy, and they share one.
pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

SECRET = "c2f3-secret-of-the-test"

# Stands in for the training program: the tests are about what happens around it.
PROGRAM = """
import os, signal, sys, time
print("arguments:", *sys.argv[1:], flush=True)
print("folder:", os.getcwd(), flush=True)
print("credentials:", len(os.environ["AWS_SECRET_ACCESS_KEY"]), flush=True)
def end(*_):
    time.sleep(4)  # longer than the 3 s that Ray grants by itself
    print("checkpoint written", flush=True)
    sys.exit(143)
if "run.seed=1" in sys.argv:
    signal.signal(signal.SIGTERM, end)
if "run.seed=0" not in sys.argv:
    print("waiting", flush=True)
    time.sleep(120)
sys.exit(7)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose training program is `PROGRAM`."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "ivr_dist", root / "ivr_dist", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".rayignore", root)
    (root / "ivr_dist" / "__main__.py").write_text(PROGRAM)
    (root / "configs").mkdir()
    (root / "configs" / "run.yaml").write_text("data: {train: data/train, valid: data/valid}\n")
    return root


def start_submit(cluster: Cluster, checkout: Path, *arguments: str) -> subprocess.Popen[str]:
    code = "import sys; from ivr_dist.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "submit", "configs/run.yaml", "--address", cluster.url, *arguments]
    environment = {**cluster.environment, "AWS_SECRET_ACCESS_KEY": SECRET}
    return subprocess.Popen(
        command, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if text in line:
            return read
    raise AssertionError(f"{text!r} never came: {read}")


def test_exit_code_and_output_are_those_of_the_job(cluster: Cluster, checkout: Path) -> None:
    process = start_submit(cluster, checkout, "run.seed=0")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 7, err
    assert err == ""
    expected = f"train configs/run.yaml run.seed=0 run.dir={checkout}/runs/default data.train={checkout}/data/train"
    assert f"arguments: {expected}" in out
    assert f"folder: {checkout}" not in out, "the job must run in the uploaded copy"
    assert f"credentials: {len(SECRET)}" in out
    assert SECRET not in out
    logs = [path for path in cluster.state.rglob("*") if path.is_file() and path.suffix in (".log", ".out", ".err")]
    assert logs
    assert [path for path in logs if SECRET in path.read_text(errors="replace")] == []


@pytest.mark.long
def test_ctrl_c_stops_the_job_and_lets_it_end(cluster: Cluster, checkout: Path) -> None:
    process = start_submit(cluster, checkout, "run.seed=1")
    read_until(process, "waiting")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "checkpoint written" in out
    assert "Traceback" not in err


def test_a_job_that_ray_job_stop_ends_is_no_success(cluster: Cluster, checkout: Path) -> None:
    process = start_submit(cluster, checkout, "run.seed=2")
    job = read_until(process, "waiting").split()[1]
    stop = [f"{sys.prefix}/bin/ray", "job", "stop", "--no-wait", "--address", cluster.url, job]
    subprocess.run(stop, env=cluster.environment, check=True, capture_output=True)
    process.communicate(timeout=60)
    assert process.returncode == 143


def test_no_wait_returns_once_the_job_is_accepted(cluster: Cluster, checkout: Path) -> None:
    process = start_submit(cluster, checkout, "--no-wait", "run.seed=0")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.startswith("submitted raysubmit_")
    assert "arguments:" not in out


def test_ray_job_submit_as_typed_runs_the_project(cluster: Cluster, tmp_path: Path) -> None:
    command = [f"{sys.prefix}/bin/ray", "job", "submit", "--address", cluster.url, "--"]
    command += ["python", "-m", "ivr_dist", "train", "configs/no-such-file.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=cluster.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: no such config file (configs/no-such-file.yaml)" in done.stdout
    assert "exit code 2" in done.stdout + done.stderr


def test_a_second_cluster_is_refused_and_the_first_stays(cluster: Cluster) -> None:
    again = cluster.script("up")
    assert again.returncode == 1
    assert again.stderr.startswith("error: a cluster is up already")
    assert cluster.script("status").stdout.startswith("up: ")


@pytest.mark.long
def test_a_cluster_with_a_token_refuses_without_it(checkout: Path) -> None:
    with local_cluster("--token") as guarded:
        process = start_submit(guarded, checkout)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2
        assert err.startswith("error: the cluster refused the request") and "RAY_AUTH_MODE=token" in err
        assert len(err.splitlines()) == 1
        guarded.environment.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(guarded.state / "token"))
        process = start_submit(guarded, checkout, "--no-wait", "run.seed=0")
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "submitted raysubmit_" in out


def test_no_cluster_is_one_line(checkout: Path, cluster: Cluster) -> None:
    nowhere = Cluster("http://127.0.0.1:1", cluster.state, cluster.environment)
    process = start_submit(nowhere, checkout)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith("error: no Ray cluster answers (http://127.0.0.1:1)")
