"""Heads of a pool: which tasks of which corpora one output of the model predicts. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from ivr_dist.errors import ConfigError
from ivr_dist.shards.specs import TaskSpec

LossScale = Literal["native", "unit"]
Member = tuple[str, str, TaskSpec]
"""Corpus, task, and its specification."""


def assign_heads(
    tasks: Mapping[str, Mapping[str, TaskSpec]], chosen: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    """Name the head of each task of each trained corpus.

    Tasks of one name and equal specification share the head of that name; classifications only if their classes have
    names, and the same ones. Tasks of one name that differ have a head `TASK_CORPUS` each.

    Args:
        tasks: By corpus and task.
        chosen: By corpus and task: the head that the config names.

    Returns:
        By corpus and task: the head.
    """
    heads: dict[str, dict[str, str]] = {corpus: dict(chosen.get(corpus, {})) for corpus in tasks}
    by_name: dict[str, list[Member]] = {}
    for corpus, specs in tasks.items():
        for task, spec in specs.items():
            if task not in heads[corpus]:
                by_name.setdefault(task, []).append((corpus, task, spec))
    for task, members in by_name.items():
        shared = all(_shares_head(members[0][2], spec) for _, _, spec in members[1:])
        for corpus, _, _ in members:
            heads[corpus][task] = task if shared else f"{task}_{corpus}"
    return {corpus: {task: heads[corpus][task] for task in specs} for corpus, specs in tasks.items()}


def _shares_head(one: TaskSpec, other: TaskSpec) -> bool:
    named = one.type == "regression" or one.names is not None
    # Whether classes are ordered says how they may be scored, not what a head predicts.
    return replace(one, ordered=other.ordered) == other and named


def members_by_head(
    tasks: Mapping[str, Mapping[str, TaskSpec]], heads: Mapping[str, Mapping[str, str]]
) -> dict[str, list[Member]]:
    """Group the tasks of all corpora by their head, in the order of the corpora."""
    members: dict[str, list[Member]] = {}
    for corpus, specs in tasks.items():
        for task, spec in specs.items():
            members.setdefault(heads[corpus][task], []).append((corpus, task, spec))
    return members


def head_specs(members: Mapping[str, list[Member]], scale: LossScale) -> dict[str, TaskSpec]:
    """Specify each head: that of its tasks; a regression on unit scale has the range -1..1."""
    specs = {head: own[0][2] for head, own in members.items()}
    if scale == "native":
        return specs
    return {
        head: replace(spec, low=-1.0, high=1.0) if spec.type == "regression" else spec for head, spec in specs.items()
    }


def head_faults(members: Mapping[str, list[Member]], scale: LossScale) -> Iterator[ConfigError]:
    """Yield an error for each head whose tasks cannot be predicted by one output."""
    for head, own in members.items():
        (first, _, spec), *others = own
        for corpus, task, other in others:
            if _form(spec) != _form(other):
                yield ConfigError(
                    f"head {head} {_shown(spec)} in {first} and {_shown(other)} in {corpus}",
                    where=f"data.corpora.{corpus}.heads",
                    remedy=f"give {task} of one of them another head",
                )
                break
        yield from scale_faults(head, own, scale)


def scale_faults(head: str, members: Sequence[Member], scale: LossScale) -> Iterator[ConfigError]:
    """Yield an error for each regression whose labels are not in the range in which its head predicts.

    Args:
        head: Name of the head.
        members: Its tasks; the first one is of a trained corpus.
        scale: Range in which heads predict.
    """
    first, _, spec = members[0]
    for corpus, task, other in members:
        if other.type != "regression" or spec.type != "regression":
            continue
        if scale == "unit" and (other.low is None or other.high is None):
            yield ConfigError(
                f"{task} of {corpus} has no range, which loss.scale = unit maps to [-1, 1]",
                where=f"data.corpora.{corpus}",
                remedy="give the task low and high in the card and pack again, or set loss.scale=native",
            )
        elif scale == "native" and (spec.low, spec.high) != (other.low, other.high):
            yield ConfigError(
                f"head {head} is {_range(spec)} in {first} and {_range(other)} in {corpus}",
                where=f"data.corpora.{corpus}.heads",
                remedy="set loss.scale=unit, or give them two heads",
            )
            break


def have_one_form(head: TaskSpec, task: TaskSpec) -> bool:
    """Whether a head can predict a task: type and number of classes are equal, and their names where both are known.

    The ranges of regressions may differ; predictions are mapped.
    """
    unlike = head.names is not None and task.names is not None and head.names != task.names
    return (head.type, head.classes) == (task.type, task.classes) and not unlike


def can_score(head: TaskSpec, task: TaskSpec) -> bool:
    """Whether a head can score a task it was not trained on: one of its form, or ordered classes by a regression.

    Equal parts of the range of a regression then stand for the classes.
    """
    if head.type == "regression" and task.type == "classification":
        return task.ordered and head.low is not None and head.high is not None
    return have_one_form(head, task)


def _form(spec: TaskSpec) -> tuple[str, int | None, tuple[str, ...] | None]:
    return spec.type, spec.classes, spec.names


def form_of(spec: TaskSpec) -> str:
    """Describe the form of a task: `a regression`, or `a classification of 3 classes (bad,so,good)`."""
    return "a regression" if spec.type == "regression" else f"a classification of {_classes(spec)}"


def _shown(spec: TaskSpec) -> str:
    return "is a regression" if spec.type == "regression" else f"has {_classes(spec)}"


def _classes(spec: TaskSpec) -> str:
    return f"{spec.classes} classes{f' ({chr(44).join(spec.names)})' if spec.names else ''}"


def _range(spec: TaskSpec) -> str:
    low, high = ("unlimited" if end is None else f"{end:g}" for end in (spec.low, spec.high))
    return f"{low}..{high}"
