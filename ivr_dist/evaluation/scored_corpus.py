"""Reads one split for a model of several corpora: which corpus it is of, or how it is read as one that is new."""

from __future__ import annotations

from dataclasses import replace

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.data.batches.pool_spec import PoolSpec, Scaling, merged_statistics
from ivr_dist.errors import DataError
from ivr_dist.planning.pool_heads import can_score, form_of
from ivr_dist.planning.pool_layout import WORDS, CorpusLayout, PoolLayout
from ivr_dist.shards.manifest import Manifest


def corpus_of(layout: PoolLayout, split: Manifest, name: str = "") -> CorpusLayout:
    """Find the corpus that a split belongs to: by the name in its manifest, else by its feature sets and tasks.

    Args:
        layout: The corpora of the model.
        split: Manifest of the split.
        name: Name of the corpus, if it is given.

    Raises:
        DataError: No corpus, or more than one, fits.
    """
    where = f"{split.corpus}, split {split.split}"
    if name:
        found = [corpus for corpus in layout.corpora if corpus.name == name]
        if not found:
            known = ", ".join(corpus.name for corpus in layout.corpora)
            raise DataError(f"the model knows no corpus {name}", where=where, remedy=f"give one of {known}")
        return found[0]
    named = [corpus for corpus in layout.corpora if corpus.name == split.corpus and _reads(layout, corpus, split)]
    candidates = named or [corpus for corpus in layout.corpora if _fits(corpus, split)]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise DataError(
            "the split has the features and tasks of no corpus of the model",
            where=where,
            remedy=f"score it with one of its heads: --head {next(iter(layout.heads), 'HEAD')}",
        )
    names = " and ".join(corpus.name for corpus in candidates)
    raise DataError(
        f"the split may be of {names}", where=where, remedy="say of which one: --corpus NAME, or corpus=NAME"
    )


def _reads(layout: PoolLayout, corpus: CorpusLayout, split: Manifest) -> bool:
    """Whether a split has inputs of the forms of a corpus, whose sets may have names of the config, and its tasks."""
    for modality, own in corpus.sets.items():
        kind, width = layout.sets[modality][own]
        feature = split.features.get(modality)
        if kind == WORDS:
            if not split.transcripts:
                return False
        elif feature is None or feature.kind != kind or (kind == "features" and feature.dim != width):
            return False
    return all(split.tasks.get(task) == spec for task, spec in corpus.tasks.items())


def _fits(corpus: CorpusLayout, split: Manifest) -> bool:
    sets = all(
        (modality in split.features and split.features[modality].set == own)
        or (modality == "text" and modality not in split.features)
        for modality, own in corpus.sets.items()
    )
    return sets and all(split.tasks.get(task) == spec for task, spec in corpus.tasks.items())


def native(spec: PoolSpec) -> PoolSpec:
    """Return the same contents with labels in the ranges of the corpora, as metrics need them."""
    return replace(spec, layout=replace(spec.layout, scale="native"))


def with_new_corpus(
    spec: PoolSpec, split: Manifest, head: str, train: Manifest | None, standardized: tuple[str, ...]
) -> tuple[PoolSpec, int]:
    """Add a corpus that the model has not seen, to be scored by one of its heads (zero-shot).

    Args:
        spec: Contents of the model's batches.
        split: Manifest of the split to score.
        head: The head that predicts its task.
        train: A training split of the corpus, whose statistics standardize its features; None: those of the corpora
            that have the same feature sets.
        standardized: Modalities that the model reads standardized.

    Returns:
        The contents, and the number of the corpus.

    Raises:
        DataError: The model has no such head or none of the feature sets, or no task of the split fits the head.
    """
    layout, where = spec.layout, f"{split.corpus}, split {split.split}"
    if head not in layout.heads:
        raise DataError(f"the model has no head {head}", where=where, remedy=f"use one of {', '.join(layout.heads)}")
    form = layout.heads[head]
    fitting = [task for task, own in split.tasks.items() if can_score(form, own)]
    if not fitting:
        raise DataError(
            f"no task of the split is {form_of(form)}, as head {head}",
            where=where,
            remedy="use another head; a regression also scores classes that the card calls ordered",
        )
    task = head if head in fitting else fitting[0]
    own_spec = split.tasks[task]
    if layout.scale == "unit" and own_spec.type == "regression" and (own_spec.low is None or own_spec.high is None):
        raise DataError(
            f"{task} has no range, to which the predictions in [-1, 1] are mapped",
            where=where,
            remedy="give the task low and high in the card and pack the split again",
        )
    sets = _known_sets(layout, split)
    if not sets:
        listed = ", ".join(f"{modality} {feature.set}" for modality, feature in split.features.items())
        raise DataError(
            f"the split has {listed or 'no features'}, none of which the model reads",
            where=where,
            remedy="pack it with a feature set that the model was trained on",
        )
    name = split.corpus if all(corpus.name != split.corpus for corpus in layout.corpora) else f"{split.corpus}_new"
    for modality, own in sets.items():
        kind, width = layout.sets[modality][own]
        if kind == "features" and split.features[modality].dim != width:
            raise DataError(
                f"{modality} {own} of the split has {split.features[modality].dim} features, the model reads {width}",
                where=where,
                remedy="pack it with the features that the model was trained on",
            )
    corpus = CorpusLayout(name=name, sets=sets, tasks={task: split.tasks[task]}, heads={task: head}, held_out=True)
    statistics = {
        modality: _statistics(spec, modality, own, train)
        for modality, own in sets.items()
        if modality in standardized and layout.sets[modality][own][0] == "features"
    }
    grown = replace(layout, corpora=(*layout.corpora, corpus))
    known_statistics = {modality: own for modality, own in statistics.items() if own is not None}
    grown_spec = replace(spec, layout=grown, statistics={**spec.statistics, name: known_statistics})
    return grown_spec, len(layout.corpora)


def new_corpus_notes(spec: PoolSpec, split: Manifest, train: Manifest | None) -> list[str]:
    """Say what the model does not read of a new corpus, and whose statistics standardize the rest.

    Args:
        spec: Contents of the model's batches.
        split: Manifest of the split to score.
        train: As for `with_new_corpus`.
    """
    sets = _known_sets(spec.layout, split)
    notes = [
        f"{modality} counts as missing: no corpus of the model has the feature set {feature.set}"
        for modality, feature in split.features.items()
        if modality not in sets
    ]
    for modality, own in sets.items():
        if (train is None or modality not in train.statistics) and _statistics(spec, modality, own, None) is not None:
            notes.append(f"{modality} is standardized as in the model's corpora; --statistics names data of its own")
    return notes


def _known_sets(layout: PoolLayout, split: Manifest) -> dict[str, str]:
    """By modality: the feature set of a split that the model reads."""
    sets = {}
    for modality in MODALITIES:
        known = layout.sets.get(modality, {})
        if modality in split.features and split.features[modality].set in known:
            sets[modality] = split.features[modality].set
        elif modality == "text" and split.transcripts and any(kind == WORDS for kind, _ in known.values()):
            sets[modality] = next(name for name, (kind, _) in known.items() if kind == WORDS)
    return sets


def _statistics(spec: PoolSpec, modality: str, own: str, train: Manifest | None) -> Scaling | None:
    if train is not None and modality in train.statistics:
        mean, deviation = merged_statistics([train.statistics[modality]])
        return mean.astype("float32"), deviation.astype("float32")
    if own in spec.set_statistics.get(modality, {}):
        return spec.set_statistics[modality][own]
    # A checkpoint of an earlier version has the statistics of its corpora only.
    for corpus in spec.layout.corpora:
        if corpus.sets.get(modality) == own and modality in spec.statistics.get(corpus.name, {}):
            return spec.statistics[corpus.name][modality]
    return None
