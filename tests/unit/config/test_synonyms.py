"""Synonyms of config keys in other frameworks."""

from __future__ import annotations

import inspect
import re

import pytest

from ivr_dist.config import synonyms
from ivr_dist.config.suggestions import suggest_keys
from ivr_dist.config.synonyms import SYNONYMS, find_synonym
from ivr_dist.config.types import convert, keys
from tests.configs import refused

ASKED = {
    "learning_rate": "train.lr",
    "train.learning_rate": "train.lr",
    "lr": "train.lr",
    "batch_size": "train.global_batch",
    "train.batch_size": "train.global_batch",
    "output_dir": "run.dir",
    "train.gradient_clipping": "train.grad_clip",
    "max_grad_norm": "train.grad_clip",
    "model.hidden_size": "model.hidden",
    "train.fp16": "train.dtype",
    "bf16": "train.dtype",
    "checkpoint.save_every": "checkpoint.every",
    "save_steps": "checkpoint.every",
    "num_train_epochs": "train.epochs",
    "warmup_steps": "train.warmup",
}


@pytest.mark.parametrize(("name", "key"), ASKED.items())
def test_the_first_suggestion_is_the_key(name: str, key: str) -> None:
    assert suggest_keys(name)[0][0] == key
    text = refused(None, f"{name}=1")
    assert f"unknown key {name}" in text and f"did you mean {key}" in text


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("train.fp16", ["did you mean train.dtype=bfloat16?", "no loss scaling"]),
        ("warmup_steps", ["did you mean train.warmup?", "a share of the training steps from 0 to 1"]),
        ("per_device_train_batch_size", ["did you mean train.global_batch?", "over all workers"]),
        ("num_workers", ["did you mean run.num_workers?", "data.prefetch"]),
        ("optimizer.Learning-Rate", ["did you mean train.lr?", "Peak learning rate"]),
        ("torch_compile", ["did you mean train.compile=inductor?"]),
    ],
)
def test_the_remedy_states_the_difference(name: str, parts: list[str]) -> None:
    text = refused(None, f"{name}=1")
    assert [part for part in parts if part not in text] == []


def test_synonyms_lead_to_keys() -> None:
    assert len(SYNONYMS) >= 25
    for name, synonym in SYNONYMS.items():
        assert synonym.key in keys(), name
        if synonym.value:
            convert(synonym.value, keys()[synonym.key].annotation)
            assert synonym.note


def test_synonyms_are_no_names_of_keys() -> None:
    """A key's own name in another section is found without them."""
    own = {path.rpartition(".")[2] for path in keys()}
    assert {name for name in SYNONYMS if name in own} == {"num_workers"}


def test_no_name_is_listed_twice() -> None:
    listed = re.findall(r'_names\(\s*"[\w.]+",\s*"([^"]+)"', inspect.getsource(synonyms))
    names = [name for text in listed for name in text.split()]
    assert sorted(names) == sorted(SYNONYMS)


def test_other_names_have_no_synonym() -> None:
    assert find_synonym("train.zzz") is None and find_synonym("") is None
