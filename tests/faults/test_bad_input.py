"""Bad input ends with one line that names what, where and the remedy, and with the right exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.packing.pack import pack
from ivr_dist.shards.manifest import Manifest

USER, FAILURE = 2, 1


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("packed")
    pack(SynthSource(samples=120, seed=3), str(place))
    return place


@pytest.fixture
def corpus(packed: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(packed, tmp_path / "corpus")
    return tmp_path / "corpus"


def train(corpus: Path, *overrides: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """`ivr-dist train` in one process, small enough for seconds."""
    config = corpus.parent / "config.yaml"
    config.write_text(
        f"run: {{dir: {corpus.parent / 'run'}, num_workers: 0}}\n"
        f"data: {{train: {corpus}/train, valid: {corpus}/valid}}\n"
        "model: {hidden: 8, text: {heads: 2}, audio: {heads: 2}, vision: {heads: 2}, fusion: {heads: 2}}\n"
        "loss: {consistency: {group: 16}}\n"
        "train: {global_batch: 32, max_steps: 4}\n"
    )
    command = [*prefix, sys.executable, "-m", "ivr_dist", "train", str(config), *overrides]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def assert_refused(result: subprocess.CompletedProcess[str], code: int, pattern: str) -> None:
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert result.returncode == code, result.stderr
    assert len(errors) == 1, result.stderr
    assert re.search(pattern, errors[0]), errors[0]
    assert ";" in errors[0], "no remedy"
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("overrides", "pattern"),
    [
        (["train.global_batch=8"], r"train\.global_batch.*8.*loss\.consistency\.group.*16"),
        (["train.global_batch=128"], r"train\.global_batch = 128 is larger than .* 84 samples"),
        (["train.accumulation=3"], r"train\.accumulation.*3"),
        (["train.learning_rate=1"], r"train\.learning_rate.*train\.lr"),
        (["zero.stage=4"], r"zero\.stage.*4"),
        (["data.train=/nowhere/train"], r"no manifest\.json.*/nowhere/train"),
        (["train.monitor=valid/synth/nope"], r"valid/synth/nope is not a metric.*valid/synth/mae"),
        (["run.dir=/proc/nowhere"], r"run\.dir cannot be used.*/proc/nowhere"),
        (["run.resume=/nowhere/step-00000001.a01"], r"no checkpoint.*/nowhere/step-00000001\.a01"),
    ],
)
def test_wrong_settings(corpus: Path, overrides: list[str], pattern: str) -> None:
    assert_refused(train(corpus, *overrides), USER, pattern)


def test_a_wrong_key_is_named_with_its_line(corpus: Path, tmp_path: Path) -> None:
    config = tmp_path / "wrong.yaml"
    config.write_text(f"data:\n  train: {corpus}/train\n  lane: 4\n")
    command = [sys.executable, "-m", "ivr_dist", "train", str(config)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == USER
    assert re.search(r"^error: 2 faults \(.*wrong\.yaml\)$", result.stderr, re.MULTILINE), result.stderr
    assert "unknown key data.lane (line 3); did you mean data.lanes?" in result.stderr
    assert "train.select = best needs a validation split" in result.stderr


def empty_manifest(corpus: Path) -> None:
    (corpus / "train" / "manifest.json").write_text("")


def missing_shard(corpus: Path) -> None:
    (corpus / "train" / Manifest.load(str(corpus / "train")).shards[0].name).unlink()


def truncated_shard(corpus: Path) -> None:
    shard = corpus / "train" / Manifest.load(str(corpus / "train")).shards[0].name
    shard.write_bytes(shard.read_bytes()[:-5000])


@pytest.mark.parametrize(
    ("damage", "pattern"),
    [
        (empty_manifest, r"manifest is empty.*train/manifest\.json"),
        (missing_shard, r"synth-train-000000\.tar.* is missing"),
        (truncated_shard, r"synth-train-000000\.tar has \d+ bytes instead of \d+"),
    ],
)
def test_damage_that_shows_before_the_start(corpus: Path, damage: Callable[[Path], None], pattern: str) -> None:
    damage(corpus)
    assert_refused(train(corpus), USER, pattern)


def test_a_corrupt_tar(corpus: Path) -> None:
    """One flipped bit, which does not change any size."""
    shard = corpus / "train" / Manifest.load(str(corpus / "train")).shards[0].name
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert_refused(train(corpus), FAILURE, r"do not match their checksum.*synth-train-000000\.tar")


def test_a_checkpoint_of_another_model(corpus: Path) -> None:
    assert train(corpus).returncode == 0
    result = train(corpus, "model.hidden=16", "train.max_steps=8")
    assert_refused(result, USER, r"another config: model\.hidden is 8 there and 16 here.*another run\.dir")


def test_a_full_disk(corpus: Path) -> None:
    """A run directory of 200 KiB, in a mount namespace that exists as long as the command."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting a small file system needs root and unshare")
    run = corpus.parent / "run"
    run.mkdir()
    mount = f'mount -t tmpfs -o size=200k tmpfs "{run}" && exec "$@"'
    probe = subprocess.run(["unshare", "--mount", "sh", "-c", mount, "sh", "true"], check=False, capture_output=True)
    if probe.returncode:
        pytest.skip(f"no mount namespaces here: {probe.stderr.decode().strip()}")
    result = train(corpus, prefix=("unshare", "--mount", "sh", "-c", mount, "sh"))
    assert_refused(result, FAILURE, r"no space left.*run")


def test_json_output_is_one_object_on_the_last_line(corpus: Path) -> None:
    result = train(corpus, "--json")
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert found.keys() >= {"run", "checkpoint", "steps", "attempts", "loss", "metrics"}
    assert [step for step, _ in found["loss"]] == [1, 2, 3, 4]
    assert found["metrics"]["valid"]["synth/mae"] > 0
