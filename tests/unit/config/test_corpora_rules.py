"""Mistakes in `data.corpora` and `data.mix` that need no data: each is refused by its own text, with a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from ivr_dist.config import Config
from ivr_dist.config.corpora import SplitKey, held_out, is_pool, simplified, split_urls, trained
from ivr_dist.config.loading import load_config
from ivr_dist.errors import ConfigError, FaultsError

POOL = ("data.corpora.mosi.train=data/mosi/train", "data.corpora.pom.train=data/pom/train", "train.select=last")


def loaded(*overrides: str) -> Config:
    return load_config(None, [*POOL, *overrides])


def refusal(*overrides: str) -> str:
    """The one fault of a config, as the user reads it."""
    with pytest.raises(ConfigError) as error:
        loaded(*overrides)
    text = str(error.value)
    assert "\n" not in text
    return text


SHARES = ("data.corpora.mosi.share=0.3", "data.corpora.pom.share=0.7")
PASSES = ("data.corpora.mosi.passes=2", "data.corpora.pom.passes=0.5")


@pytest.mark.parametrize(
    ("overrides", "text", "remedy"),
    [
        (["data.train=data/train"], "data.train and data.corpora are both set", "keep one"),
        (["data.valid=data/valid"], "data.valid and data.corpora are both set", "keep one"),
        (
            [
                "data.corpora.mosi.train=",
                "data.corpora.pom.train=",
                *(f"data.corpora.{n}.test=t" for n in ("mosi", "pom")),
            ],
            "no corpus of data.corpora has a train split",
            "set train or dir of one",
        ),
        (["data.corpora.mosi.shre=1"], "unknown key data.corpora.mosi.shre", "did you mean share?"),
        (
            ["data.corpora={mosi-2: {dir: d}}"],
            "data.corpora: 'mosi-2' is not a name",
            "letters, digits and underscores",
        ),
        (["data.corpora={macro: {dir: d}}"], "data.corpora: 'macro' is not a name", "metrics are called so"),
        (
            ["data.corpora.empty.share=1", *SHARES],
            "data.corpora.empty has no split",
            "set dir, or train, valid or test",
        ),
        ([SHARES[0], PASSES[1]], "mosi has a share, pom has passes", "give all corpora the same kind"),
        ([*SHARES, PASSES[0]], "mosi has a share and passes", "keep one of them"),
        ([SHARES[0]], "pom has no share, the others have", "give it one, or none of them"),
        ([PASSES[1]], "mosi has no passes, the others have", "give it one, or none of them"),
        (
            [*SHARES, "data.mix.alpha=0.5"],
            "data.mix.alpha has no say where corpora have shares",
            "remove one of the two",
        ),
        ([*PASSES, "data.mix.alpha=1"], "data.mix.alpha has no say where corpora have passes", "remove one of the two"),
        (
            [*PASSES, "data.mix.epoch_samples=100"],
            "data.mix.epoch_samples has no say where corpora have passes",
            "remove one of the two",
        ),
        (["data.corpora.mosi.share=0", SHARES[1]], "data.corpora.mosi.share = 0", "above 0"),
        (["data.corpora.mosi.passes=-1", PASSES[1]], "data.corpora.mosi.passes = -1", "above 0"),
        (["data.corpora.mosi.max_passes=0"], "data.corpora.mosi.max_passes = 0", "above 0"),
        (["data.corpora.mosi.loss_weight=-0.5"], "data.corpora.mosi.loss_weight = -0.5", "at least 0"),
        (["data.mix.alpha=1.5"], "data.mix.alpha = 1.5", "0"),
        (["data.mix.alpha=-0.1"], "data.mix.alpha = -0.1", "0"),
        (["data.corpora.mosi.sets={smell: a}"], "data.corpora.mosi.sets: smell is no modality", "text, audio, vision"),
        (
            ["data.corpora.mosi.heads={sentiment: a b}"],
            "data.corpora.mosi.heads.sentiment: 'a b' is not a name",
            "letters",
        ),
        (["data.corpora.mosi.heads={a: x, b: x}"], "data.corpora.mosi.heads names x twice", "heads"),
        (
            ["data.corpora.mosi.class_weights={mood: even}"],
            "data.corpora.mosi.class_weights.mood = even is not balanced or a list",
            "class_weights",
        ),
        (["data.corpora.mosi.class_weights={mood: [1, -1]}"], "must be at least 0, one above", "class_weights"),
        (
            ["model.preset=release"],
            "model.preset = release reads one corpus of three modalities",
            "use model.preset=ivr",
        ),
        (["data.lanes=8"], "the lanes of a pool are worked out for each corpus", "leave data.lanes unset"),
        (["data.reader=webdataset"], "data.reader = webdataset reads whole shards", "use data.reader=ranges"),
        (["train.new_heads=true"], "train.new_heads needs train.init_from", "set it, or leave this unset"),
        (["data.mix.uses_from=true"], "data.mix.uses_from needs train.init_from", "set it, or leave this unset"),
        (
            [*SHARES, "data.mix.schedule=[{until: 2epochs, alpha: 1}, {alpha: 0}]"],
            "data.mix.schedule has no say where corpora have shares or passes",
            "remove one of the two",
        ),
        (["data.mix.schedule=[{alfa: 1}]"], "unknown key data.mix.schedule[0].alfa", "until, alpha, share, passes"),
        (["data.mix.schedule=[{alpha: 1}, {alpha: 0}]"], "data.mix.schedule[0] has no until", "2epochs"),
        (["data.mix.schedule=[{until: 2epochs, alpha: 1}]"], "is the last phase and has until", "2epochs"),
        (["data.mix.schedule=[{until: soon, alpha: 1}, {alpha: 0}]"], "data.mix.schedule[0].until: 'soon'", "2epochs"),
        (["data.mix.schedule=[{}]"], "data.mix.schedule[0] has no mix", "give one of alpha, share, passes"),
        (["data.mix.schedule=[{alpha: 2}]"], "data.mix.schedule[0].alpha = 2", "alpha: 0.5"),
        (
            ["data.mix.schedule=[{share: {mosi: 1}}]"],
            "data.mix.schedule[0].share must name each trained corpus",
            "mosi, pom",
        ),
        (["data.mix.schedule=[{passes: {mosi: 1, pom: 0}}]"], "data.mix.schedule[0].passes must be above 0", "null"),
    ],
)
def test_mistakes_are_refused_by_their_text(overrides: list[str], text: str, remedy: str) -> None:
    found = refusal(*overrides)
    assert text in found and remedy in found
    assert "override '" in found, "it does not name where"


def test_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text(
        "data:\n  corpora:\n    mosi: {train: a, share: 1}\n    pom:\n      train: b\ntrain: {select: last}\n"
    )
    with pytest.raises(ConfigError, match=rf"pom has no share, the others have \(.*{path}:4"):
        load_config(str(path), [])


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["data.mix.alpha=0.5"], "data.mix mixes corpora, but there is only data.train"),
        (["loss.scale=unit"], "loss.scale = unit maps the labels of corpora, but there is only data.train"),
    ],
)
def test_keys_of_a_pool_are_refused_without_one(overrides: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, ["data.train=data/train", "train.select=last", *overrides])
    assert text in str(error.value)


def test_several_mistakes_are_reported_together() -> None:
    with pytest.raises(FaultsError) as error:
        loaded("data.corpora.mosi.max_passes=0", "data.corpora.pom.sets={smell: a}")
    assert "max_passes = 0" in str(error.value) and "smell is no modality" in str(error.value)


def test_what_is_allowed() -> None:
    assert loaded(*SHARES).data.corpora["mosi"] is not None
    loaded(*PASSES)
    loaded("data.mix.schedule=[{until: 2epochs, alpha: 1}, {share: {mosi: 1, pom: 3}}]")
    scored = loaded(*SHARES, "data.corpora.youtube.test=data/youtube/test")
    assert trained(scored) == ["mosi", "pom"] and held_out(scored) == ["youtube"]
    left_out = loaded("data.corpora.pom=null")
    assert trained(left_out) == ["mosi"]
    assert split_urls(left_out) == {"mosi/train": "data/mosi/train"}


def test_keys_of_splits_are_read_as_written() -> None:
    for key, text in ((SplitKey("", "train"), "train"), (SplitKey("mosi", "valid"), "mosi/valid")):
        assert str(key) == text and SplitKey.parse(text) == key


@pytest.mark.parametrize(
    ("overrides", "pool"),
    [
        ([], False),
        (["data.corpora.mosi.share=2"], False),
        (["data.mix.alpha=0.3"], False),
        (["data.mix.epoch_samples=100"], True),
        (["loss.scale=unit"], True),
        (["data.corpora.mosi.loss_weight=2"], True),
        (["data.corpora.mosi.sets={audio: other}"], True),
    ],
)
def test_one_corpus_of_which_nothing_is_set_is_trained_as_without_a_pool(overrides: list[str], pool: bool) -> None:
    config = loaded("data.corpora.pom=null", "data.corpora.mosi.valid=data/mosi/valid", *overrides)
    found = simplified(config)
    assert is_pool(config) and is_pool(found) == pool
    if not pool:
        assert (found.data.train, found.data.valid, found.data.test) == ("data/mosi/train", "data/mosi/valid", "")
