"""Checks of `submit` before an upload."""

from __future__ import annotations

import shutil
import socket
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ivr_dist.config import Config
from ivr_dist.config.loading import load_config
from ivr_dist.errors import ConfigError, UserError
from ivr_dist.orchestration import submit
from tests.repository import ROOT

HERE = "http://127.0.0.1:8265"
ELSEWHERE = "http://head.example.org:8265"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what a checkout has, with a config."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "ivr_dist", root / "ivr_dist", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".rayignore", ".gitignore"):
        shutil.copy(ROOT / name, root / name)
    (root / "configs").mkdir()
    (root / "configs" / "run.yaml").write_text("data: {train: data/x/train, valid: data/x/valid}\n")
    return root


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path, _ in submit.upload_files(root)}


def test_ignore_files_keep_code_and_configs_and_drop_the_rest(checkout: Path) -> None:
    for name in ("data/big.tar", "runs/a/result.json", ".venv/bin/python", ".git/HEAD", "ivr_dist/__pycache__/cli.pyc"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("x")
    kept = names(checkout)
    package = {str(path.relative_to(checkout)) for path in (checkout / "ivr_dist").rglob("*.py")}
    assert package <= kept
    assert "configs/run.yaml" in kept
    assert {name.split("/")[0] for name in kept} == {"ivr_dist", "configs", ".gitignore", ".rayignore"}
    assert not [name for name in kept if "__pycache__" in name]


def test_a_sound_checkout_passes(checkout: Path) -> None:
    submit.check_package(checkout, checkout / "configs" / "run.yaml")


def test_a_large_upload_is_refused_with_its_largest_files(checkout: Path) -> None:
    with open(checkout / "weights.bin", "wb") as file:
        file.truncate(submit.MAX_UPLOAD_BYTES)
    with pytest.raises(UserError, match=r"largest: weights\.bin 94\.4 MB, ivr_dist/") as caught:
        submit.check_package(checkout, checkout / "configs" / "run.yaml")
    assert ".rayignore" in str(caught.value)
    assert str(caught.value).count(", ") >= 9


def test_an_ignore_pattern_that_drops_code_is_refused(checkout: Path) -> None:
    with open(checkout / ".gitignore", "a") as file:
        file.write("data/\n")
    with pytest.raises(UserError, match=r"would lack .* files of the package, first ivr_dist/data/"):
        submit.check_package(checkout, checkout / "configs" / "run.yaml")


def test_a_package_that_does_not_import_is_refused(checkout: Path) -> None:
    (checkout / "ivr_dist" / "units.py").write_text("def broken(:\n")
    with pytest.raises(UserError, match="cannot be imported from the upload: SyntaxError"):
        submit.check_package(checkout, checkout / "configs" / "run.yaml")


def test_a_config_that_is_not_uploaded_is_refused(checkout: Path) -> None:
    (checkout / "runs").mkdir()
    shutil.copy(checkout / "configs" / "run.yaml", checkout / "runs" / "run.yaml")
    with pytest.raises(UserError, match="config would not be uploaded"):
        submit.check_package(checkout, checkout / "runs" / "run.yaml")


def test_the_checkout_is_found_from_below_and_missed_elsewhere(checkout: Path) -> None:
    assert submit.project_root(checkout / "configs") == checkout
    with pytest.raises(UserError, match="no checkout"):
        submit.project_root(Path("/"))


def test_relative_paths_become_absolute_for_a_cluster_on_this_machine(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    config = load_config("configs/run.yaml", ["data.test=s3://bucket/test", "run.dir=/shared/run"])
    assert submit.absolute_paths(config, HERE) == [
        f"data.train={checkout}/data/x/train",
        f"data.valid={checkout}/data/x/valid",
    ]
    odd = load_config("configs/run.yaml", ["data.test='[a] # b'"])
    line = next(line for line in submit.absolute_paths(odd, HERE) if line.startswith("data.test="))
    assert load_config("configs/run.yaml", [line]).data.test == f"{checkout}/[a] # b"
    never = load_config("configs/run.yaml", ["run.dir=s3://b/r", "run.resume=never"])
    assert not [line for line in submit.absolute_paths(never, HERE) if line.startswith("run.")]
    for name, found in (("roberta-base", []), ("configs", [f"model.text.pretrained={checkout}/configs"])):
        text = load_config("configs/run.yaml", [f"model.text.pretrained={name}"])
        assert [line for line in submit.absolute_paths(text, HERE) if line.startswith("model.")] == found


def test_relative_paths_are_refused_for_a_cluster_elsewhere(checkout: Path) -> None:
    config = load_config(str(checkout / "configs" / "run.yaml"), ["run.dir=s3://bucket/run"])
    with pytest.raises(ConfigError, match=r"data\.train=data/x/train is a path relative .*absolute path of a folder"):
        submit.absolute_paths(config, ELSEWHERE)
    reachable = load_config(
        str(checkout / "configs" / "run.yaml"),
        ["run.dir=s3://bucket/run", "data.train=/shared/train", "data.valid=file:///shared/valid"],
    )
    assert submit.absolute_paths(reachable, ELSEWHERE) == []


@pytest.mark.parametrize(
    ("address", "local"),
    [
        (HERE, True),
        ("http://localhost:8265", True),
        ("https://[::1]:8265", True),
        ("http://127.8.9.1", True),
        (ELSEWHERE, False),
        ("http://10.0.0.4:8265", False),
    ],
)
def test_loopback_addresses(address: str, local: bool) -> None:
    """Where no process listens on a loopback address, connecting will report that."""
    assert (submit.why_remote(address) == "") is local


def test_a_port_on_loopback_that_is_not_rays_is_another_machine() -> None:
    """As `ssh -L` and `kubectl port-forward` make it; tests/ray has a real dashboard."""
    config = replace(Config(), data=replace(Config().data, train="data/train"))
    with closing(socket.create_server(("127.0.0.1", 0))) as forwarded:
        port = forwarded.getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        assert submit.why_remote(address).startswith(f"port {port} here belongs not to Ray but to python")
        with pytest.raises(ConfigError, match="is forwarded") as refused:
            submit.absolute_paths(config, address)
        assert "s3://" in refused.value.remedy


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "ray://127.0.0.1:10001", "auto", ""])
def test_other_kinds_of_address_are_refused(address: str) -> None:
    with pytest.raises(UserError, match="http://HOST:8265"):
        submit.why_remote(address)


def test_a_job_has_what_the_run_needs() -> None:
    environment = {"AWS_SECRET_ACCESS_KEY": "s", "HOME": "/root", "RAY_ADDRESS": "auto", "NCCL_SOCKET_IFNAME": "ib0"}
    assert set(submit.job_environment(environment)) == {
        "AWS_SECRET_ACCESS_KEY",
        "NCCL_SOCKET_IFNAME",
        "RAY_JOB_STOP_WAIT_TIME_S",
        "TORCH_FR_BUFFER_SIZE",
    }
    assert submit.job_environment({"TORCH_FR_BUFFER_SIZE": "0"})["TORCH_FR_BUFFER_SIZE"] == "0", (
        "the user's value is kept"
    )


def with_code(checkout: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A config that names a class in a folder of the checkout, where the command is given."""
    (checkout / folder / "minecode").mkdir(parents=True)
    (checkout / folder / "minecode" / "parts.py").write_text("class Alarm: ...\n")
    monkeypatch.chdir(checkout / folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("minecode", "minecode.parts"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return load_config(None, ["data.train=x", "train.select=last", "run.callbacks=[minecode.parts:Alarm]"])


def test_code_of_the_config_is_uploaded(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_code(checkout, ".", monkeypatch)
    files = submit.code_files(config, checkout)
    assert files == [checkout / "minecode" / "parts.py"]
    submit.check_package(checkout, checkout / "configs" / "run.yaml", files)
    with open(checkout / ".rayignore", "a") as file:
        file.write("minecode/\n")
    with pytest.raises(UserError, match=r"code that the config names would not be uploaded .*minecode/parts\.py"):
        submit.check_package(checkout, checkout / "configs" / "run.yaml", files)


def test_code_that_the_job_would_not_find_is_refused(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_code(checkout, "experiments", monkeypatch)
    with pytest.raises(UserError, match=r"would not find minecode\.parts: .*\(run\.callbacks\[0\], .*; move minecode"):
        submit.code_files(config, checkout)
