"""Layout of a pool: feature sets, heads, held-out corpora, and what does not fit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist.config import Config
from ivr_dist.config.loading import load_config
from ivr_dist.errors import ConfigError, DataError, FaultsError, UserError
from ivr_dist.planning.pool_layout import PoolLayout, corpus_layout, pool_layout
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.specs import FeatureSpec, TaskSpec

SENTIMENT = TaskSpec(type="regression", low=-3.0, high=3.0)
SCORE = TaskSpec(type="regression", low=-1.0, high=1.0)
MOOD = TaskSpec(type="classification", classes=3, names=("bad", "so", "good"))

HALVES = ("mosi", "sims")

Features = Mapping[str, tuple[str, int]]
Tasks = Mapping[str, TaskSpec]


def manifest(
    features: Features, tasks: Mapping[str, TaskSpec] | None = None, *, split: str = "train", words: int = 0
) -> Manifest:
    """A split with features by modality, set and width; a width of 0 is of token ids."""
    specs = {
        modality: FeatureSpec(
            set=name, dim=width or 1, dtype="float32" if width else "int32", kind="features" if width else "tokens"
        )
        for modality, (name, width) in features.items()
    }
    return Manifest.create(
        corpus="files",
        split=split,
        seed=0,
        features=specs,
        tasks={"sentiment": SENTIMENT} if tasks is None else tasks,
        shards=[],
        transcripts=words,
        vocabulary={modality: 30 for modality, (_, width) in features.items() if not width},
    )


TALKS = manifest({"audio": ("covarep", 74), "vision": ("facet", 35)})
CALLS = manifest({"text": ("glove", 300), "audio": ("opensmile", 74)})


def config(*corpora: str, overrides: tuple[str, ...] = (), held_out: tuple[str, ...] = ()) -> Config:
    urls = [f"data.corpora.{name}.train={name}/train" for name in corpora]
    scored = [f"data.corpora.{name}.test={name}/test" for name in held_out]
    return load_config(None, [*urls, *scored, "train.select=last", *overrides])


def layout(
    pool: Mapping[str, Manifest],
    *overrides: str,
    scored: Mapping[str, Manifest] | None = None,
    words: int | None = None,
) -> PoolLayout:
    """The layout of trained corpora, and of some that are scored only."""
    held_out = scored or {}
    manifests = {f"{name}/train": own for name, own in pool.items()}
    manifests |= {f"{name}/test": replace(own, split="test") for name, own in held_out.items()}
    return pool_layout(config(*pool, overrides=overrides, held_out=tuple(held_out)), manifests, words)


def test_sets_are_those_of_all_corpora_in_name_order() -> None:
    found = layout({"talks": TALKS, "calls": CALLS})
    assert found.sets == {
        "text": {"glove": ("features", 300)},
        "audio": {"covarep": ("features", 74), "opensmile": ("features", 74)},
        "vision": {"facet": ("features", 35)},
    }
    assert list(found.sets) == ["text", "audio", "vision"]
    assert [dict(corpus.sets) for corpus in found.corpora] == [
        {"audio": "covarep", "vision": "facet"},
        {"text": "glove", "audio": "opensmile"},
    ]
    assert found.heads == {"sentiment": replace(SENTIMENT, low=-1.0, high=1.0)} and found.scale == "unit"
    assert found.is_pool and found.number("calls") == 1


def test_sets_are_renamed_and_modalities_left_out_by_the_config() -> None:
    found = layout({"talks": TALKS, "calls": CALLS}, "data.corpora.calls.sets={audio: covarep, text: ''}")
    assert found.sets == {"audio": {"covarep": ("features", 74)}, "vision": {"facet": ("features", 35)}}
    fewer = layout({"talks": TALKS, "calls": CALLS}, "data.modalities=[audio]", "svr.modalities=[audio]")
    assert list(fewer.sets) == ["audio"]


def test_token_ids_of_one_set_have_the_largest_vocabulary() -> None:
    small, large = (replace(manifest({"text": ("words", 0)}), vocabulary={"text": size}) for size in (30, 70))
    assert layout({"a": small, "b": large}).sets == {"text": {"words": ("tokens", 70)}}
    missing = replace(small, vocabulary={})
    with pytest.raises(DataError, match=r"no vocabulary size of the token ids of text .*pack all splits again"):
        layout({"a": small, "b": missing})


def test_transcripts_are_a_set_beside_packed_text() -> None:
    spoken = manifest({"audio": ("covarep", 74)}, words=40)
    found = layout({"talks": spoken, "calls": CALLS}, "model.text.pretrained=tiny", words=64)
    assert found.sets["text"] == {"glove": ("features", 300), "words": ("words", 64)}
    assert [corpus.sets["text"] for corpus in found.corpora] == ["words", "glove"]


@pytest.mark.parametrize(
    ("pool", "overrides", "text", "remedy"),
    [
        (
            {"pom": manifest({"audio": ("covarep", 43)}), "mosi": manifest({"audio": ("covarep", 74)})},
            [],
            "audio of pom and mosi is called covarep, with 43 and 74 features",
            "rename one with sets: {audio: NAME}, or pack with another set name",
        ),
        (
            {"pom": manifest({"text": ("glove", 0)}), "mosi": manifest({"text": ("glove", 300)})},
            [],
            "text of pom and mosi is called glove, of kinds tokens and features",
            "rename one with sets",
        ),
        (
            {"mosi": TALKS, "meld": manifest({"audio": ("covarep", 74)}, {"mood": MOOD})},
            ["data.corpora.meld.heads={mood: sentiment}"],
            "head sentiment is a regression in mosi and has 3 classes (bad,so,good) in meld",
            "another head",
        ),
        (
            {"mosi": TALKS, "sims": manifest({"audio": ("covarep", 74)}, {"sentiment": SCORE})},
            [
                "loss.scale=native",
                *(f"data.corpora.{name}.heads={{sentiment: sentiment}}" for name in ("mosi", "sims")),
            ],
            "head sentiment is -3..3 in mosi and -1..1 in sims",
            "set loss.scale=unit, or give them two heads",
        ),
        (
            {"mosi": CALLS, "pom": TALKS},
            ["data.modalities=[text]", "svr.modalities=[text]"],
            "pom has audio and vision, data.modalities is text",
            "leave the corpus out",
        ),
        (
            {"mosi": TALKS, "pom": CALLS},
            ["data.corpora.pom.heads={mood: mood}"],
            "data.corpora.pom.heads names mood, which is no task of it",
            "there are: sentiment",
        ),
        (
            {"mosi": TALKS, "pom": CALLS},
            ["data.corpora.pom.sample_weight=trust"],
            "data.corpora.pom.sample_weight names trust, which is no task of it",
            "there are: sentiment",
        ),
        (
            {"mosi": TALKS, "pom": CALLS},
            ["data.corpora.pom.class_weights={sentiment: balanced}"],
            "data.corpora.pom.class_weights names sentiment, which is a regression",
            "leave it out",
        ),
        (
            {"mosi": TALKS, "meld": manifest({"audio": ("covarep", 74)}, {"mood": MOOD})},
            ["data.corpora.meld.class_weights={mood: [1, 2]}"],
            "data.corpora.meld.class_weights.mood has 2 weights for 3 classes",
            "give one for each class",
        ),
        (
            {"mosi": TALKS, "free": manifest({"audio": ("covarep", 74)}, {"level": TaskSpec(type="regression")})},
            [],
            "level of free has no range, which loss.scale = unit maps to [-1, 1]",
            "loss.scale=native",
        ),
    ],
)
def test_corpora_that_do_not_fit_together(
    pool: Mapping[str, Manifest], overrides: list[str], text: str, remedy: str
) -> None:
    with pytest.raises(UserError) as error:
        layout(pool, *overrides)
    assert text in str(error.value) and remedy in str(error.value)
    assert "data.corpora." in str(error.value) or "data.modalities" in str(error.value)


def test_several_errors_are_reported_together() -> None:
    pool = {"pom": manifest({"audio": ("covarep", 43)}), "mosi": manifest({"audio": ("covarep", 74)})}
    with pytest.raises(FaultsError) as error:
        layout(pool, "data.corpora.pom.heads={mood: mood}")
    assert "with 43 and 74 features" in str(error.value) and "names mood" in str(error.value)


def test_a_corpus_that_is_scored_only_reads_sets_and_heads_of_the_others() -> None:
    youtube = manifest({"audio": ("covarep", 74), "text": ("bert", 768)}, {"polarity": SCORE, "anger": SCORE})
    found = layout({"mosi": TALKS}, "data.corpora.youtube.heads={polarity: sentiment}", scored={"youtube": youtube})
    corpus = found.corpora[1]
    # A set, and a task, that nothing trains: a missing modality, and no score.
    assert corpus.held_out and corpus.sets == {"audio": "covarep"}
    assert corpus.heads == {"polarity": "sentiment"} and list(corpus.tasks) == ["polarity"]
    assert "text" not in found.sets and list(found.heads) == ["sentiment"]


@pytest.mark.parametrize(
    ("own", "overrides", "text"),
    [
        (
            manifest({"audio": ("covarep", 74)}, {"polarity": SCORE}),
            [],
            "youtube is scored by head polarity, which no trained corpus has",
        ),
        (
            manifest({"audio": ("covarep", 74)}),
            ["data.corpora.youtube.heads={sentiment: mood}"],
            "youtube is scored by head mood, which no trained corpus has",
        ),
        (
            manifest({"audio": ("covarep", 43)}),
            [],
            "audio of youtube is called covarep, with 43 features where trained corpora have 74",
        ),
        (
            manifest({"audio": ("opensmile", 88)}),
            [],
            "youtube is held out and has audio opensmile, which no trained corpus has",
        ),
        (
            manifest({"audio": ("covarep", 74)}, {"sentiment": MOOD}),
            [],
            "by head sentiment, a regression of mosi, but its sentiment is a classification of 3 classes (bad,so,good)",
        ),
    ],
)
def test_a_corpus_that_nothing_trained_can_score_is_refused(own: Manifest, overrides: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        layout({"mosi": TALKS, "pom": TALKS}, *overrides, scored={"youtube": own})
    assert text in str(error.value)
    assert "or leave the corpus out" in str(error.value) or "rename it" in str(error.value)


def test_classes_of_a_corpus_that_is_scored_only_must_be_those_of_the_head() -> None:
    """The same number stands for surprise in one corpus and for joyful in another."""
    meld = manifest({"audio": ("covarep", 74)}, {"mood": MOOD})
    unnamed, other = (replace(MOOD, names=names) for names in (None, ("sad", "so", "good")))
    chosen = "data.corpora.new.heads={mood: mood}"

    def scored(spec: TaskSpec, *overrides: str) -> PoolLayout:
        new = manifest({"audio": ("covarep", 74)}, {"mood": spec})
        return layout({"meld": meld}, *overrides, scored={"new": new})

    for found in (scored(MOOD), scored(MOOD, chosen), scored(unnamed, chosen)):
        assert found.corpora[1].heads == {"mood": "mood"}
    with pytest.raises(
        ConfigError, match=r"new is scored by head mood, but it is not known whether its classes are those"
    ):
        scored(unnamed)
    for overrides in ([], [chosen]):
        with pytest.raises(
            ConfigError, match=r"by head mood, .*\(bad,so,good\) of meld, but its mood is .*\(sad,so,good\)"
        ):
            scored(other, *overrides)


def test_a_regression_scores_ordered_classes_only() -> None:
    graded, words = (
        manifest({"audio": ("covarep", 74)}, {"sentiment": replace(MOOD, ordered=o)}) for o in (True, False)
    )
    assert layout({"mosi": TALKS}, scored={"new": graded}).corpora[1].heads == {"sentiment": "sentiment"}
    with pytest.raises(ConfigError, match=r"a regression scores classes that the card calls ordered"):
        layout({"mosi": TALKS}, scored={"new": words})
    endless = manifest({"audio": ("covarep", 74)}, {"sentiment": TaskSpec(type="regression")})
    with pytest.raises(ConfigError, match="is scored by head sentiment, a regression of mosi"):
        layout({"mosi": endless}, "loss.scale=native", scored={"new": graded})


def test_grades_and_plain_classes_of_equal_names_share_a_head() -> None:
    one, two = (manifest({"audio": ("covarep", 74)}, {"mood": replace(MOOD, ordered=o)}) for o in (False, True))
    found = layout({"one": one, "two": two})
    assert [corpus.heads for corpus in found.corpora] == [{"mood": "mood"}] * 2


@pytest.mark.parametrize(
    ("spec", "scale", "text"),
    [
        (TaskSpec(type="regression"), "unit", "sentiment of new has no range, which loss.scale = unit maps"),
        (SCORE, "native", "head sentiment is -3..3 in mosi and -1..1 in new"),
    ],
)
def test_ranges_of_a_corpus_that_is_scored_only_are_those_of_the_head(spec: TaskSpec, scale: str, text: str) -> None:
    new = manifest({"audio": ("covarep", 74)}, {"sentiment": spec})
    with pytest.raises(ConfigError) as error:
        layout({"mosi": TALKS}, f"loss.scale={scale}", scored={"new": new})
    assert text in str(error.value)


def test_a_label_that_weighs_samples_is_no_task() -> None:
    pom = manifest({"audio": ("covarep", 74)}, {"sentiment": SENTIMENT, "trust": SCORE})
    found = layout({"mosi": TALKS, "pom": pom}, "data.corpora.pom.sample_weight=trust")
    assert list(found.corpora[1].tasks) == ["sentiment"] and list(found.heads) == ["sentiment"]


def test_one_corpus_is_laid_out_as_it_is() -> None:
    found = corpus_layout(TALKS, ["text", "audio", "vision"])
    assert not found.is_pool and found.scale == "native" and found.heads == {"sentiment": SENTIMENT}
    assert found.sets == {"audio": {"covarep": ("features", 74)}, "vision": {"facet": ("features", 35)}}
    with pytest.raises(DataError, match="the data set has audio, vision, the run uses text"):
        corpus_layout(TALKS, ["text"])


TASKS = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from([SENTIMENT, SCORE, MOOD]), min_size=1)
FEATURES = st.dictionaries(
    st.sampled_from(["text", "audio", "vision"]), st.sampled_from([("x", 5), ("y", 6), ("z", 6)]), min_size=1
)


@given(st.lists(st.tuples(FEATURES, TASKS), min_size=1, max_size=5))
def test_any_corpora_whose_sets_have_one_width_fit_together(
    corpora: list[tuple[Features, dict[str, TaskSpec]]],
) -> None:
    """Each task has a head of its form, each set an input; two corpora share them only where they are alike."""
    pool = {f"corpus{number}": manifest(features, tasks) for number, (features, tasks) in enumerate(corpora)}
    found = layout(pool, "loss.scale=unit")
    assert [corpus.name for corpus in found.corpora] == list(pool)
    shared: dict[str, TaskSpec] = {}
    for corpus, own in zip(found.corpora, pool.values(), strict=True):
        assert corpus.tasks == own.tasks and corpus.heads.keys() == own.tasks.keys()
        assert len(set(corpus.heads.values())) == len(corpus.heads)
        for modality, name in corpus.sets.items():
            assert found.sets[modality][name] == ("features", own.features[modality].dim)
        for task, head in corpus.heads.items():
            assert shared.setdefault(head, own.tasks[task]) == own.tasks[task]
            assert found.heads[head].type == own.tasks[task].type
    assert set(found.heads) == set(shared)
    for sets in found.sets.values():
        assert list(sets) == sorted(sets)
