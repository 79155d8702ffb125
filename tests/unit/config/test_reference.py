"""The reference of keys: lists, explanations, the page of docs, and the effective config."""

from __future__ import annotations

import pytest

from ivr_dist.config import Config
from ivr_dist.config.effective import effective_yaml, origins_of
from ivr_dist.config.loading import load, load_config
from ivr_dist.config.reference import explain, list_keys, markdown, search_keys
from ivr_dist.config.types import keys, section_paths
from ivr_dist.errors import ConfigError
from ivr_dist.planning.run_identity import effects
from tests.configs import MINIMAL, Writer
from tests.repository import ROOT


def test_the_page_of_keys_is_current() -> None:
    page = (ROOT / "docs" / "config.md").read_text()
    assert page == markdown(effects()), "write it again: ivr-dist config --markdown > docs/config.md"
    for key in keys():
        assert f"| `{key}` |" in page


def test_a_list_has_every_key_with_its_default() -> None:
    lines = list_keys()
    assert max(map(len, lines)) <= 80
    for path in keys():
        assert any(line.startswith(f"{path} = ") for line in lines)
    assert [line.split()[0] for line in list_keys("loss.svr") if line[0] != " "] == [
        "loss.svr.weight",
        "loss.svr.warmup",
        "loss.svr.decay",
    ]


@pytest.mark.parametrize("path", sorted(keys()))
def test_every_key_is_explained(path: str) -> None:
    head, *lines = explain(path, effects())
    text = " ".join(line.strip() for line in lines)
    assert head.startswith(f"{path}   ") and "default " in head
    assert keys()[path].doc in text and effects()[path] in text


def test_an_explanation_has_type_range_default_and_synonyms() -> None:
    head, *lines = explain("train.max_steps", {})
    assert head == "train.max_steps   a whole number, at least 1, or null; default null"
    assert "max_iters" in " ".join(lines)
    assert explain("train.betas", {})[0].startswith("train.betas   a list of numbers, each at least 0 and below 1;")


@pytest.mark.parametrize("path", sorted(section_paths()))
def test_a_section_lists_its_keys(path: str) -> None:
    head, _, *lines = explain(path, effects())
    assert head.startswith(f"{path}: ") and lines == list_keys(path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("train.lrr", "did you mean train.lr?"), ("lr", "train.lr"), ("output_dir", "run.dir"), ("zzz", "use one of")],
)
def test_an_unknown_key_gets_suggestions(path: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown key {path}; .*{expected}"):
        explain(path, effects())


def test_an_entry_of_a_mapping_is_explained_by_its_key() -> None:
    assert explain("loss.tasks.happy", {}) == explain("loss.tasks", {})
    with pytest.raises(ConfigError, match=r"train\.lr=3 sets a value; give the key alone, train\.lr"):
        explain("train.lr=3", {})


def test_search_takes_several_words() -> None:
    assert any(line.startswith("train.text_lr") for line in search_keys("learning Encoder"))


def test_search_finds_names_meanings_and_synonyms() -> None:
    def keys_of(word: str) -> set[str]:
        return {line.split()[0] for line in search_keys(word) if line[0] != " "}

    assert "train.grad_clip" in keys_of("Clipping") and "train.patience" in keys_of("early stopping")
    assert "train.epochs" in keys_of("num_train_epochs") and keys_of("xyzzy") == set()


def test_the_effective_config_says_where_each_value_came_from(write: Writer) -> None:
    path = write("run: {seed: 3}\nmodel:\n  size: large\n  fusion:\n    heads: 2\n")
    text = effective_yaml(load(path, [*MINIMAL, "train.lr=3e-4"]))
    lines = [line.strip() for line in text.splitlines()]
    for line in (
        f"seed: 3  # {path}:1",
        f"size: large  # {path}:3",
        "hidden: 512  # preset model.size=large",
        f"heads: 2  # {path}:5",
        "lr: 0.0003  # override 'train.lr=3e-4'",
        "epochs: 10.0  # default",
    ):
        assert line in lines
    assert sum("  # " in line for line in lines) == len(keys()), "a comment for each key"


def test_the_effective_config_reads_back(write: Writer) -> None:
    overrides = [*MINIMAL, "model.preset=release", "run.dir=runs/take #2", 'deepspeed={a: "x  # y"}']
    config = load_config(None, overrides)
    assert load_config(write(effective_yaml(load(None, overrides)))) == config
    assert origins_of(load(None, overrides))["svr.over"] == "preset model.preset=release"
    assert config != Config()
