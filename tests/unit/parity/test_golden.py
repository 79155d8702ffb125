"""The parity command: golden files of the released code, generated ones, and invalid files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ivr_dist.cli import main as cli
from ivr_dist.errors import UserError
from ivr_dist.parity.golden import TOLERANCE, parity
from tests.released import Sizes, golden

FOLDER = Path(os.environ.get("IVR_DIST_GOLDEN", "/nonexistent"))
Arrays = dict[str, np.ndarray[Any, Any]]
GATE = ["fbp_at.fusion_1_matrix", "fbp_at.fusion_2_matrix", "fbp_vt.fusion_1_matrix", "fbp_vt.fusion_2_matrix"]


def arrays_of(sizes: Sizes, seed: int = 0) -> Arrays:
    return {name: value.float().numpy() for name, value in golden(sizes, seed)[0].items()}


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Arrays], str]:
    def saved(arrays: Arrays) -> str:
        np.savez(tmp_path / "golden.npz", **arrays)
        return str(tmp_path / "golden.npz")

    return saved


@pytest.mark.skipif(not FOLDER.is_dir(), reason="IVR_DIST_GOLDEN names no folder with golden files")
@pytest.mark.parametrize("seed", [4, 5])
def test_the_released_code_is_reproduced(seed: int) -> None:
    """Method 3.1: prediction, codes, every loss and every gradient to 1e-5; the gate's six gradients are dead."""
    report = parity(str(FOLDER / f"release_seed{seed}.npz"))
    names = [found.name for found in report.comparisons]
    assert {"out.prediction", "loss.task", "loss.domain", "loss.cmd", "loss.recon", "loss.jsd", "loss.total"} <= {
        *names
    }
    assert [found for found in report.comparisons if not found.ok] == []
    assert report.ok and report.worst().error <= TOLERANCE
    dead = {found.name for found in report.comparisons if found.dead}
    assert dead == {f"grad.{name}.weight" for name in [*GATE, "fc_gate_at"]} | {"grad.fc_gate_at.bias"}
    with np.load(FOLDER / f"release_seed{seed}.npz") as file:
        assert sorted(n for n in names if n.startswith("grad.")) == sorted(
            n for n in file.files if n.startswith("grad.")
        )


@pytest.mark.parametrize(
    "sizes",
    [
        Sizes(),
        Sizes(samples=2, steps=2, text=1, audio=3, vision=3),
        Sizes(samples=9, steps=12, text=31, audio=7, vision=10, hidden=32),
        Sizes(outputs=2),
        Sizes(samples=8, outputs=4, hidden=16),
    ],
    ids=str,
)
def test_sizes_are_read_from_the_file(sizes: Sizes, save: Callable[[Arrays], str]) -> None:
    report = parity(save(arrays_of(sizes)))
    assert report.sizes == vars(sizes)
    assert [found for found in report.comparisons if not found.ok] == []


@pytest.mark.parametrize("name", ["out.prediction", "loss.jsd", "code.private.vision", "grad.recon_a.recon_a_1.weight"])
def test_any_difference_shows(name: str, save: Callable[[Arrays], str]) -> None:
    arrays = arrays_of(Sizes())
    arrays[name] = arrays[name] * np.float32(1 + 3e-5)
    report = parity(save(arrays))
    assert not report.ok
    (differing,) = [found for found in report.comparisons if not found.ok]
    assert (differing.name, report.worst()) == (name, differing)
    assert differing.error == pytest.approx(3e-5, rel=0.5)


def test_a_gradient_that_is_dead_here_only_differs(save: Callable[[Arrays], str]) -> None:
    arrays = arrays_of(Sizes())
    assert not arrays["grad.fc_gate_at.weight"].any()
    every = np.sqrt(sum(float((part.astype(np.float64) ** 2).sum()) for n, part in arrays.items() if n[:4] == "grad"))
    arrays["grad.fc_gate_at.weight"][0, 0] = 1e-7 * every
    assert parity(save(arrays)).ok, "rounding residue is no gradient"
    arrays["grad.fc_gate_at.weight"][0, 0] = 1e-5 * every
    assert not parity(save(arrays)).ok


def test_a_gradient_that_is_dead_there_only_differs(save: Callable[[Arrays], str]) -> None:
    arrays = arrays_of(Sizes())
    arrays["grad.recon_a.recon_a_1.weight"][:] = 0
    (differing,) = [found for found in parity(save(arrays)).comparisons if not found.ok]
    assert differing.dead and differing.name == "grad.recon_a.recon_a_1.weight"


def test_parameters_without_a_gradient_play_no_part(save: Callable[[Arrays], str]) -> None:
    arrays = arrays_of(Sizes())
    assert parity(save(arrays | {"param.never.used": np.ones(3, np.float32)})).ok
    used = {"param.also.used": np.ones(3, np.float32), "grad.also.used": np.ones(3, np.float32)}
    with pytest.raises(UserError, match=re.escape("also.used has a gradient")):
        parity(save(arrays | used))


def changed(name: str, value: Any) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {name: np.asarray(value)}


def without(name: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {other: value for other, value in arrays.items() if other != name}


FAULTS: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "empty": (lambda arrays: {}, "lacks param.project_t.project_t.weight"),
    "alien": (lambda arrays: {"x": np.ones(3)}, "lacks param.project_t"),
    "no input": (without("in.audio"), "lacks in.audio"),
    "no prediction": (without("out.prediction"), "lacks out.prediction"),
    "no loss": (without("loss.cmd"), "lacks loss.cmd"),
    "no code": (without("code.shared.text"), "lacks code.shared.text"),
    "no gradient": (without("grad.fc_gate_at.bias"), "lacks grad.fc_gate_at.bias"),
    "no parameter": (without("param.norm_atten1.bias"), "lacks param.norm_atten1.bias"),
    "not finite": (changed("in.audio", [np.nan]), "in.audio is float64 [1], not finite numbers"),
    "text": (changed("in.text", ["a"]), "in.text is"),
    "objects": (changed("in.text", np.array([{}], dtype=object)), "cannot be read"),
    "flat input": (changed("in.text", np.ones(4)), "in.text is [4]"),
    "another length": (changed("in.audio", np.ones((3, 5, 6))), "in.audio is [3, 5, 6]"),
    "labels": (changed("in.label", np.ones(3)), "in.label has 3 values for 5 samples"),
    "a vector": (changed("param.shared.shared_1.weight", np.ones(8)), "not a matrix"),
    "a narrow vector": (changed("param.norm_atten1.bias", np.ones(3)), "norm_atten1.bias is [3]"),
    "odd heads": (changed("param.shared.shared_1.weight", np.ones((6, 6))), "not a multiple"),
    "scalar prediction": (changed("out.prediction", 1.0), "out.prediction is a single number"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_none_is_a_users_mistake(
    fault: str, save: Callable[[Arrays], str], capsys: pytest.CaptureFixture[str]
) -> None:
    change, said = FAULTS[fault]
    path = save(change(arrays_of(Sizes())))
    assert cli.main(["parity", path]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and len(shown.err.splitlines()) == 1
    assert said in shown.err and path in shown.err


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 torn", b"\x93NUMPY", b"\x80\x04}."], ids=repr)
def test_a_file_that_cannot_be_read_is_a_users_mistake(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "golden.npz"
    if content is not None:
        path.write_bytes(content)
    assert cli.main(["parity", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_torn_file_is_a_users_mistake(save: Callable[[Arrays], str], capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(save(arrays_of(Sizes())))
    whole = path.read_bytes()
    for cut in (whole[: len(whole) // 2], whole[:2000] + bytes(2000) + whole[4000:]):
        path.write_bytes(cut)
        assert cli.main(["parity", str(path)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_compression_that_python_does_not_have_is_a_users_mistake(save: Callable[[Arrays], str]) -> None:
    path = Path(save(arrays_of(Sizes())))
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        first = data.index(signature)
        data[first + at : first + at + 2] = (99).to_bytes(2, "little")
    path.write_bytes(data)
    with pytest.raises(UserError, match="not a golden file: it is damaged"):
        parity(str(path))


def test_an_array_alone_is_no_golden_file(tmp_path: Path) -> None:
    np.save(tmp_path / "golden.npy", np.ones(3))
    with pytest.raises(UserError, match="not a golden file"):
        parity(str(tmp_path / "golden.npy"))


def test_the_command_prints_a_table_and_returns_its_verdict(
    save: Callable[[Arrays], str], capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = arrays_of(Sizes())
    assert cli.main(["parity", save(arrays)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"out\.prediction +\d\.\d\de-\d\d +ok", shown)
    assert re.search(r"grad\.fc_gate_at\.weight +dead +ok", shown)
    assert "all errors are within 1e-05" in shown
    arrays["loss.task"] = arrays["loss.task"] * 2
    assert cli.main(["parity", save(arrays), "--json"]) == 1
    shown = capsys.readouterr()
    assert re.search(r"loss\.task +5\.00e-01 +DIFFERS", shown.err)
    assert "in float64 the largest error is 5.00e-01, of loss.task" in shown.err
    (line,) = shown.out.splitlines()
    found = json.loads(line)
    assert (found["ok"], found["tolerance"]) == (False, TOLERANCE)
    assert [c["name"] for c in found["comparisons"] if not c["ok"]] == ["loss.task"]


def test_float64_tells_a_relu_on_its_kink_from_a_difference(save: Callable[[Arrays], str]) -> None:
    """At this seed one unit of the fusion layer has an input of 2e-8, which float32 may take for negative."""
    report = parity(
        save(arrays_of(Sizes(samples=7, steps=16, text=25, audio=22, vision=20, hidden=44), seed=51)), torch.float64
    )
    assert report.ok and report.worst().error < 2e-7


def test_the_result_follows_from_the_file_alone(save: Callable[[Arrays], str]) -> None:
    path = save(arrays_of(Sizes()))
    state = torch.get_rng_state()
    first = parity(path)
    torch.manual_seed(99)
    assert parity(path).comparisons == first.comparisons
    torch.set_rng_state(state)
