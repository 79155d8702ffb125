"""Layout of a pool: what the model reads from and predicts for each corpus, equal on all workers. Pure data.

A pool is one or more corpora that are trained on together. A feature set (`FeatureSpec.set`, or the name that
`data.corpora.NAME.sets` gives it) is read by one input layer of the model, whichever corpora have it; a head predicts
one or more tasks of equal specification. A run of `data.train` is a pool of one corpus, whose heads are its tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config import Config, CorpusConfig
from ivr_dist.config.corpora import SPLITS, SplitKey, entries, is_pool
from ivr_dist.errors import ConfigError, DataError, UserError, raise_together
from ivr_dist.planning.pool_heads import (
    LossScale,
    Member,
    assign_heads,
    can_score,
    form_of,
    head_faults,
    head_specs,
    members_by_head,
    scale_faults,
)
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.specs import TaskSpec

WORDS = "words"
"""Kind, and name, of the feature set of transcripts that a pretrained encoder reads."""

Input = tuple[str, int]
"""Kind and width of a feature set: D of `features`, size of the vocabulary of `tokens`, width of the pretrained
encoder of `words`."""


@dataclass(frozen=True, kw_only=True)
class CorpusLayout:
    """One corpus of a pool."""

    name: str
    """Its name in the config and in metrics; that of the manifest for `data.train`."""
    sets: Mapping[str, str]
    """By modality that is read from it: the name of its feature set."""
    tasks: Mapping[str, TaskSpec]
    """By task, in the corpus' own range."""
    heads: Mapping[str, str]
    """By task: the head that predicts it; different tasks have different heads."""
    held_out: bool = False
    """Whether it is scored only."""
    loss_weight: float = 1.0
    """Factor of its task losses."""


@dataclass(frozen=True, kw_only=True)
class PoolLayout:
    """All corpora of a run, and the inputs and outputs of the model."""

    corpora: tuple[CorpusLayout, ...]
    """In the order of the config."""
    sets: Mapping[str, Mapping[str, Input]]
    """By modality, in the order of MODALITIES, and by feature set, in the order of their names: those of trained
    corpora."""
    heads: Mapping[str, TaskSpec]
    """By head, of those of trained corpora; the range of a regression is -1..1 where `scale` is `unit`."""
    scale: LossScale = "native"
    """Range in which regression heads predict: that of the task, or [-1, 1], to which labels are mapped linearly."""

    is_pool: bool = False
    """Whether names, losses and records are by corpus; a run of `data.train` is none."""

    def number(self, name: str) -> int:
        """Return the number of a corpus, as in `Batch.corpus`."""
        return [corpus.name for corpus in self.corpora].index(name)

    def trained_on(self, modality: str, own: str) -> list[CorpusLayout]:
        """List the trained corpora with a feature set of a modality."""
        return [corpus for corpus in self.corpora if not corpus.held_out and corpus.sets.get(modality) == own]


def corpus_layout(train: Manifest, modalities: Collection[str], words_width: int | None = None) -> PoolLayout:
    """Lay out a run on one corpus.

    Args:
        train: Manifest of its training split.
        modalities: Modalities to use, where the data set has them.
        words_width: Width of the pretrained encoder that reads transcripts; None without one.

    Raises:
        DataError: The data set has none of the modalities, no transcripts, or no size of its vocabulary.
    """
    if words_width is not None and "text" in modalities:
        train.check_transcripts()
    inputs = _inputs(train, modalities, words_width, {})
    if not inputs:
        raise DataError(
            f"the data set has {', '.join(train.features)}, the run uses {', '.join(modalities)}",
            where="data.modalities",
            remedy="name at least one modality that the data set has",
        )
    corpus = CorpusLayout(
        name=train.corpus,
        sets={modality: name for modality, (name, _) in inputs.items()},
        tasks=train.tasks,
        heads={task: task for task in train.tasks},
    )
    sets = {modality: dict([named]) for modality, named in inputs.items()}
    return PoolLayout(corpora=(corpus,), sets=sets, heads=dict(train.tasks))


def pool_layout(config: Config, manifests: Mapping[str, Manifest], words_width: int | None) -> PoolLayout:
    """Lay out the corpora of a run.

    Args:
        config: The run's config.
        manifests: Manifests of its splits, by the text of their `SplitKey`.
        words_width: Width of the pretrained encoder that reads transcripts; None without one.

    Raises:
        ConfigError: Corpora do not fit together; several errors are raised together.
        DataError: A corpus has nothing that the run reads, or its manifest lacks something.
    """
    corpora = entries(config)
    if not is_pool(config):
        return corpus_layout(manifests["train"], config.data.modalities, words_width)
    first = {name: own for name in corpora if (own := _first_split(name, manifests)) is not None}
    trained = [name for name in first if str(SplitKey(name, "train")) in manifests]
    inputs = {
        name: _inputs(manifest, config.data.modalities, words_width, corpora[name].sets)
        for name, manifest in first.items()
    }
    errors = [*_input_faults(inputs, first, config), *_task_faults(first, corpora)]
    sets, faults = _merged_sets({name: inputs[name] for name in trained})
    tasks = {name: _tasks(manifest, corpora[name]) for name, manifest in first.items()}
    chosen = {name: {task: head for task, head in corpora[name].heads.items() if task in tasks[name]} for name in first}
    trained_tasks = {name: tasks[name] for name in trained}
    heads = assign_heads(trained_tasks, chosen)
    members = members_by_head(trained_tasks, heads)
    scale: LossScale = config.loss.scale or ("unit" if len(corpora) > 1 else "native")
    specs = head_specs(members, scale)
    for name in [name for name in first if name not in trained]:
        heads[name] = {task: chosen[name].get(task, task) for task in tasks[name]}
        faults += _held_out_faults(name, inputs[name], sets, tasks[name], heads[name], chosen[name], members)
        heads[name] = {task: head for task, head in heads[name].items() if head in specs}
        for task, head in heads[name].items():
            faults += scale_faults(head, [members[head][0], (name, task, tasks[name][task])], scale)
    raise_together([*errors, *faults, *head_faults(members, scale)])
    return PoolLayout(
        corpora=tuple(
            CorpusLayout(
                name=name,
                sets={modality: own for modality, (own, _) in inputs[name].items() if own in sets.get(modality, {})},
                tasks={task: spec for task, spec in tasks[name].items() if task in heads[name]},
                heads=heads[name],
                held_out=name not in trained,
                loss_weight=corpora[name].loss_weight,
            )
            for name in first
        ),
        sets=sets,
        heads=specs,
        scale=scale,
        is_pool=True,
    )


_Named = tuple[str, Input]
"""Name of a feature set, and its kind and width."""


def _first_split(name: str, manifests: Mapping[str, Manifest]) -> Manifest | None:
    keys = (str(SplitKey(name, split)) for split in SPLITS)
    return next((manifests[key] for key in keys if key in manifests), None)


def _inputs(
    manifest: Manifest, modalities: Collection[str], words_width: int | None, names: Mapping[str, str]
) -> dict[str, _Named]:
    """Feature set that is read of each modality, in the order of MODALITIES.

    Args:
        manifest: Manifest of the corpus.
        modalities: Modalities to use.
        words_width: Width of the pretrained encoder; it reads transcripts where there are any.
        names: Names of sets by modality, in place of the manifest's; empty: not read.
    """
    inputs: dict[str, _Named] = {}
    for modality in [name for name in MODALITIES if name in modalities and names.get(name) != ""]:
        if modality == "text" and words_width is not None and (manifest.transcripts or "text" not in manifest.features):
            if manifest.transcripts:
                inputs[modality] = names.get(modality, WORDS), (WORDS, words_width)
        elif modality in manifest.features:
            spec = manifest.features[modality]
            width = spec.dim if spec.kind == "features" else _vocabulary(manifest, modality)
            inputs[modality] = names.get(modality, spec.set), (spec.kind, width)
    return inputs


def _vocabulary(manifest: Manifest, modality: str) -> int:
    if modality not in manifest.vocabulary:
        raise DataError(
            f"the {manifest.split} split has no vocabulary size of the token ids of {modality}",
            where=f"{manifest.corpus}, split {manifest.split}",
            remedy="pack all splits again with this version",
        )
    return manifest.vocabulary[modality]


def _merged_sets(inputs: Mapping[str, Mapping[str, _Named]]) -> tuple[dict[str, dict[str, Input]], list[UserError]]:
    """All feature sets by modality, and an error for each that differs between corpora."""
    sets: dict[str, dict[str, Input]] = {}
    owner: dict[tuple[str, str], str] = {}
    errors: list[UserError] = []
    for corpus, own in inputs.items():
        for modality, (name, (kind, width)) in own.items():
            known = sets.setdefault(modality, {})
            first = owner.setdefault((modality, name), corpus)
            there = known.setdefault(name, (kind, width))
            if kind == there[0] == "tokens":
                # One embedding serves all of them.
                known[name] = (kind, max(width, there[1]))
            elif there != (kind, width):
                widths, kinds = f"with {there[1]} and {width} features", f"of kinds {there[0]} and {kind}"
                errors.append(
                    ConfigError(
                        f"{modality} of {first} and {corpus} is called {name}, {widths if kind == there[0] else kinds}",
                        where=f"data.corpora.{corpus}.sets",
                        remedy=f"rename one with sets: {{{modality}: NAME}}, or pack with another set name",
                    )
                )
    ordered = {modality: dict(sorted(sets[modality].items())) for modality in MODALITIES if modality in sets}
    return ordered, errors


def _tasks(manifest: Manifest, corpus: CorpusConfig) -> dict[str, TaskSpec]:
    return {task: spec for task, spec in manifest.tasks.items() if task != corpus.sample_weight}


def _input_faults(
    inputs: Mapping[str, Mapping[str, _Named]], first: Mapping[str, Manifest], config: Config
) -> Iterator[UserError]:
    for name, manifest in first.items():
        if not inputs[name]:
            has = [*manifest.features, *(["transcripts"] if manifest.transcripts else [])]
            yield ConfigError(
                f"{name} has {' and '.join(has) or 'no features'}, data.modalities is "
                f"{', '.join(config.data.modalities)}",
                where="data.modalities",
                remedy="name one that it has (transcripts need model.text.pretrained), or leave the corpus out",
            )


def _task_faults(first: Mapping[str, Manifest], corpora: Mapping[str, CorpusConfig]) -> Iterator[UserError]:
    for name, manifest in first.items():
        corpus, tasks = corpora[name], ", ".join(manifest.tasks)
        named = {**dict.fromkeys(corpus.heads, "heads"), **dict.fromkeys(corpus.class_weights, "class_weights")}
        if corpus.sample_weight:
            named[corpus.sample_weight] = "sample_weight"
        for task, key in named.items():
            if task not in manifest.tasks:
                yield ConfigError(
                    f"data.corpora.{name}.{key} names {task}, which is no task of it",
                    where=f"data.corpora.{name}.{key}",
                    remedy=f"there are: {tasks}",
                )
        for task, weights in corpus.class_weights.items():
            spec = manifest.tasks.get(task)
            if spec is not None and spec.type != "classification":
                yield ConfigError(
                    f"data.corpora.{name}.class_weights names {task}, which is a regression",
                    where=f"data.corpora.{name}.class_weights",
                    remedy="leave it out",
                )
            elif spec is not None and isinstance(weights, list) and len(weights) != spec.classes:
                yield ConfigError(
                    f"data.corpora.{name}.class_weights.{task} has {len(weights)} weights for {spec.classes} classes",
                    where=f"data.corpora.{name}.class_weights",
                    remedy="give one for each class, in their order",
                )


def _held_out_faults(
    name: str,
    inputs: Mapping[str, _Named],
    sets: Mapping[str, Mapping[str, Input]],
    tasks: Mapping[str, TaskSpec],
    heads: Mapping[str, str],
    chosen: Mapping[str, str],
    members: Mapping[str, list[Member]],
) -> Iterator[UserError]:
    """Yield an error for what no trained corpus has of a corpus that is scored only."""
    for modality, (own, form) in inputs.items():
        there = sets.get(modality, {}).get(own)
        if there is not None and there != form and form[0] != "tokens":
            yield ConfigError(
                f"{modality} of {name} is called {own}, with {form[1]} features where trained corpora have {there[1]}",
                where=f"data.corpora.{name}.sets",
                remedy=f"rename it with sets: {{{modality}: NAME}}",
            )
    if inputs and not any(own in sets.get(modality, {}) for modality, (own, _) in inputs.items()):
        listed = ", ".join(f"{modality} {own}" for modality, (own, _) in inputs.items())
        yield ConfigError(
            f"{name} is held out and has {listed}, which no trained corpus has",
            where=f"data.corpora.{name}.sets",
            remedy="name its sets as a trained corpus does, or leave the corpus out",
        )
    for task, head in heads.items():
        if head not in members:
            if task in chosen or not any(other in members for other in heads.values()):
                yield ConfigError(
                    f"{name} is scored by head {head}, which no trained corpus has",
                    where=f"data.corpora.{name}.heads",
                    remedy=f"name one of {', '.join(members)} for {task}, or leave the corpus out",
                )
        else:
            corpus, _, spec = members[head][0]
            own_spec = tasks[task]
            if not can_score(spec, own_spec):
                yield ConfigError(
                    f"{name} is scored by head {head}, {form_of(spec)} of {corpus}, but its {task} is "
                    f"{form_of(own_spec)}",
                    where=f"data.corpora.{name}.heads",
                    remedy="name a head of the same form (a regression scores classes that the card calls ordered), or "
                    "leave the corpus out",
                )
            elif task not in chosen and spec.classes and (spec.names is None or own_spec.names is None):
                yield ConfigError(
                    f"{name} is scored by head {head}, but it is not known whether its classes are those of {corpus}",
                    where=f"data.corpora.{name}.heads",
                    remedy=f"if they are, set heads: {{{task}: {head}}}; otherwise leave the corpus out",
                )
