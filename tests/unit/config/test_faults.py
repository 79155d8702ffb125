"""Overrides that YAML would change, errors that are reported together, and groups that fit the batch."""

from __future__ import annotations

import pickle
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.config.loading import load_config, override
from ivr_dist.config.types import keys
from ivr_dist.errors import ConfigError, FaultsError
from tests.configs import MINIMAL, Writer, refused


@pytest.mark.parametrize("text", ["runs/take #2", "#2", "a: b", "a - b", "*a", "&a b", "%1", "@x", "- x", "runs/a # b"])
def test_an_override_is_taken_literally(text: str) -> None:
    """To YAML some of these are shorter, a mapping, a list or no value at all."""
    assert load_config(None, [*MINIMAL, f"run.dir={text}"]).run.dir == text


@given(st.text(st.sampled_from(" ab#:'\"[]{}!&*,-?|>%@`~=/.0_1e\n\t"), min_size=1, max_size=8))
def test_an_override_of_a_path_is_that_path_or_refused(text: str) -> None:
    try:
        config = load_config(None, [*MINIMAL, f"run.dir={text}"])
    except ConfigError:
        return
    if not text.strip().startswith(("'", '"', "[", "{", "!")):
        assert config.run.dir == text


@given(st.text(min_size=1, max_size=8))
def test_any_text_can_be_made_an_override(text: str) -> None:
    if text.isprintable():
        assert load_config(None, [*MINIMAL, override("run.dir", text)]).run.dir == text


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ("run.dir='a' #2", ["#2 after the value would not be read"]),
        ("data.modalities=[text] # only", ["# only after the value"]),
        ("run.dir= runs/a", ["' runs/a' would be read as 'runs/a'", "leave out the rest"]),
        ("data.test=runs/a ", ["'runs/a ' would be read as 'runs/a'"]),
        ("run.dir=1_000", ["1_000 is not a string"]),
        ("run.dir=1e-3", ["1e-3 is not a string"]),
        ("run.dir=010", ["010 is not a string"]),
        ("run.dir=true", ["true is not a string"]),
        ("train.lr=1e-3 # small", ["'1e-3 # small' is not a number"]),
    ],
)
def test_overrides_that_would_mean_something_else_are_refused(written: str, parts: list[str]) -> None:
    text = refused(None, written)
    for part in parts:
        assert part in text


def test_what_looks_like_a_comment_in_a_file(write: Writer) -> None:
    path = write("run:\n  dir: runs/take #2\n")
    text = refused(path)
    assert "run.dir: 'runs/take #2' would be read as 'runs/take'" in text and f"{path}:2" in text
    assert 'write "runs/take #2" in quotes' in text
    plain = write("run: {dir: runs/a#1, seed: 3}   #seed\ntrain:\n  lr: 0.1 #quick\n  epochs: 2   # two\n")
    config = load_config(plain, MINIMAL)
    assert (config.run.dir, config.train.lr, config.train.epochs) == ("runs/a#1", 0.1, 2)
    for line in (
        "dir: runs/a # the first",
        "dir: runs/a   ## the first",
        "dir: 'runs/take #2' #2",
        "dir: runs/a\n  #x",
    ):
        load_config(write(f"run:\n  {line}\n"), MINIMAL)


def test_all_faults_are_reported_together(write: Writer) -> None:
    path = write("train:\n  lr: fast\n  lrr: 2\n  epochs: 0\n  global_batch: 96\nloss: {consistency: {group: 36}}\n")
    with pytest.raises(FaultsError) as error:
        load_config(path, [*MINIMAL, "zero.stage=4", "model", "model.hidden=30", "model=3"])
    lines = str(error.value).splitlines()
    assert lines[0] == f"7 faults ({path})"
    found = "\n".join(lines[1:])
    for part in (
        "train.lr: 'fast' is not a number (line 2)",
        "unknown key train.lrr (line 3)",
        "zero.stage: 4 is not one of 0, 1, 2, 3 (override 'zero.stage=4')",
        "an override needs a value (override 'model')",
        "model is a section, not 3",
        "train.epochs = 0.0 must be above 0 (line 4)",
        "loss.consistency.group = 36 does not divide train.global_batch = 96 (line 5, line 6)",
    ):
        assert part in found
    assert all(line.startswith("  ") and ";" in line for line in lines[1:])
    assert error.value.exit_code == 2
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_one_cause_is_one_fault() -> None:
    """Contradictions with a value that is invalid or was not understood are not reported."""
    for wrong in ("train.global_batch=0", "train.global_batch=x", "model.hidden=-2", "data.modalities=[txt]"):
        refused(None, wrong, "loss.consistency.group=48" if "batch" in wrong else "train.lr=0.1")
    assert "unknown key data.vald" in refused(None, "data.vald=x", "train.select=best")


@pytest.mark.parametrize(
    ("batch", "group"), [(64, 64), (128, 64), (8, 8), (96, 48), (100, 50), (2, 2), (62, 62), (134, 2)]
)
def test_an_unset_group_fits_the_batch(batch: int, group: int) -> None:
    assert load_config(None, [*MINIMAL, f"train.global_batch={batch}"]).group == group


def test_a_batch_without_divisors_needs_a_group() -> None:
    text = refused(None, "train.global_batch=67")
    assert "the largest divisor of train.global_batch = 67 up to 64" in text and "set it to 67" in text
    assert load_config(None, [*MINIMAL, "train.global_batch=67", "loss.consistency.group=67"]).group == 67
    assert load_config(None, [*MINIMAL, "train.global_batch=67", "loss.consistency.weight=0"]).group == 1


def test_every_number_has_a_range() -> None:
    numbers = {path for path, key in keys().items() if {int, float} & {key.annotation, *get_args(key.annotation)}}
    ranged = {path for path, key in keys().items() if key.range is not None}
    assert ranged == numbers


BY_THEMSELVES = ("run.num_workers", "train.betas", "loss.tasks")
"""Keys of several numbers, whose errors say more than the range."""
RANGES = {path: key.range for path, key in keys().items() if key.range is not None and path not in BY_THEMSELVES}


@pytest.mark.parametrize("path", sorted(RANGES))
def test_a_default_is_in_its_range(path: str) -> None:
    default = keys()[path].default
    assert default is None or default in RANGES[path]


@pytest.mark.parametrize("path", sorted(RANGES))
def test_values_out_of_range_are_refused_by_name(path: str) -> None:
    allowed = RANGES[path]
    below = allowed.low if allowed.low_open else allowed.low - 1
    whole = int in {keys()[path].annotation, *get_args(keys()[path].annotation)}
    text = refused(None, f"{path}={int(below) if whole else below}")
    assert path in text and f"must be {allowed}" in text


@pytest.mark.parametrize("value", ["9" * 5000, "x" * 5000, f"[{', '.join(['audio'] * 900)}]", '"' + "y" * 5000 + '"'])
def test_a_long_value_does_not_make_a_long_error(value: str) -> None:
    """It is shortened, and seen to be."""
    text = refused(None, f"train.max_steps={value}")
    assert len(text) < 800 and "..." in text and "train.max_steps" in text
