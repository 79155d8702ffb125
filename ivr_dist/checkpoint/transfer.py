"""Transfer: which weights of a checkpoint a new run starts from, by feature sets and heads. Pure functions of names.

Input layers go by feature set, heads by name and specification, all others by name. Input layers, heads and modalities
that the checkpoint lacks are new, those that the run lacks are left behind; any other difference is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.errors import CheckpointMismatchError
from ivr_dist.model.adapters import module_name
from ivr_dist.shards.specs import TaskSpec
from ivr_dist.units import format_count

Shapes = Mapping[str, Sequence[int]]

_SINGLE = ("project", "embed")
"""Names of the input layer of a modality with one feature set."""
_HEAD = "heads.task_"
_WORDS = "words."
_TEXT_ALONE = "fusion.norm_text."
"""Part of the fusion that only a model of text alone has."""


@dataclass(frozen=True)
class ModelInputsAndHeads:
    """What the names of a model's tensors depend on."""

    sets: Mapping[str, Sequence[str]]
    """By modality: its feature sets; an empty name where a checkpoint of an older version does not know it."""
    heads: Mapping[str, TaskSpec]


@dataclass(frozen=True)
class Transfer:
    """The tensors of a new run and of the checkpoint that it starts from."""

    taken: Mapping[str, str]
    """By name in the model: the name in the checkpoint."""
    new: tuple[str, ...]
    """What starts from fresh weights: input layers, heads, modalities, in words."""
    left: tuple[str, ...]
    """What is left behind."""
    parameters: int
    """Elements of the tensors that are taken."""

    def describe(self, source: str) -> str:
        """Describe it in one line."""
        parts = [f"{len(self.taken)} tensors taken ({format_count(self.parameters).strip()})"]
        parts += [f"new: {', '.join(self.new)}"] if self.new else []
        parts += [f"left: {', '.join(self.left)}"] if self.left else []
        return f"weights of {source}: {'; '.join(parts)}"

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values, for the record of a run."""
        return {
            "taken": len(self.taken),
            "parameters": self.parameters,
            "new": list(self.new),
            "left": list(self.left),
        }


def match_tensors(
    own: Shapes, here: ModelInputsAndHeads, stored: Shapes, there: ModelInputsAndHeads, *, new_heads: bool, where: str
) -> Transfer:
    """Choose the tensors of a checkpoint that a model takes.

    Args:
        own: Shapes of the model's tensors, by name.
        here: Its inputs and heads.
        stored: Shapes of the checkpoint's tensors.
        there: Inputs and heads of its model.
        new_heads: Whether all heads start from fresh weights.
        where: The checkpoint, for errors.

    Raises:
        CheckpointMismatchError: A tensor that both must have differs; names the first one.
    """
    by_canonical = {_canonical(name, there.sets, here.sets): name for name in stored}
    taken: dict[str, str] = {}
    new: dict[str, None] = {}
    for name, shape in own.items():
        canonical = _canonical(name, here.sets, there.sets)
        source = by_canonical.get(canonical)
        head = _head_of(name)
        fits_head = head is None or (not new_heads and _is_same_head(here.heads.get(head), there.heads.get(head)))
        if source is not None and fits_head and list(stored[source]) == list(shape):
            taken[name] = source
            continue
        part = _optional_part(canonical, there)
        if part is None or (source is not None and fits_head and head is None and "adapters" not in canonical):
            found = f"{list(stored[source])} there" if source is not None else "absent there"
            raise CheckpointMismatchError(
                f"the checkpoint is of another model: {name} is {found} and {list(shape)} here",
                where=where,
                remedy=_remedy(here, there),
            )
        new[part] = None
    used = set(taken.values())
    left: dict[str, None] = {}
    for canonical, name in by_canonical.items():
        if name in used:
            continue
        part = _optional_part(canonical, here)
        if part is None:
            raise CheckpointMismatchError(
                f"the checkpoint is of another model: {name} is {list(stored[name])} there and absent here",
                where=where,
                remedy=_remedy(here, there),
            )
        left[part] = None
    parameters = sum(prod(own[name]) for name in taken)
    return Transfer(taken, tuple(new), tuple(left), parameters)


def _remedy(here: ModelInputsAndHeads, there: ModelInputsAndHeads) -> str:
    """Say how a run gets the checkpoint's model; a fusion of other modalities has other shapes."""
    if here.sets.keys() != there.sets.keys():
        known, own = (", ".join(m for m in MODALITIES if m in side.sets) for side in (there, here))
        return f"train on the modalities of the checkpoint ({known}; this run has {own}), or start from random weights"
    return "use the encoders and the fusion that it was trained with, or start from random weights"


def _canonical(name: str, sets: Mapping[str, Sequence[str]], others: Mapping[str, Sequence[str]]) -> str:
    """Name an input layer by its feature set, whether its modality has one set or several."""
    parts = name.split(".")
    if len(parts) > 3 and parts[0] == "encoders" and parts[2] in _SINGLE:
        own = list(sets.get(parts[1], ()))
        theirs = list(others.get(parts[1], ()))
        # A set without a name is that of the other side, if it has one only.
        label = own[0] if own and own[0] else theirs[0] if len(theirs) == 1 else ""
        return ".".join([*parts[:2], "adapters", module_name(label), *parts[3:]])
    return name


def _is_same_head(one: TaskSpec | None, other: TaskSpec | None) -> bool:
    # Whether classes are ordered says how they may be scored, not what a head predicts.
    if one is None or other is None:
        return one is other
    return replace(one, ordered=other.ordered) == other


def _head_of(name: str) -> str | None:
    return name.removeprefix(_HEAD).rpartition(".")[0] if name.startswith(_HEAD) else None


def _optional_part(canonical: str, other: ModelInputsAndHeads) -> str | None:
    """Say which input layer, head or modality a tensor belongs to that another model need not have; None for others."""
    head = _head_of(canonical)
    if head is not None:
        return f"head {head}"
    parts = canonical.split(".")
    lacking = [modality for modality in MODALITIES if modality in parts and modality not in other.sets]
    if lacking:
        return f"modality {lacking[0]}"
    if canonical.startswith(_TEXT_ALONE):
        return "fusion of text alone"
    if "adapters" in parts:
        label = parts[parts.index("adapters") + 1].removeprefix("set_").replace("%2E", ".").replace("%25", "%")
        return f"{parts[1]} adapter {label or 'of its set'}"
    if canonical.startswith(_WORDS):
        return "text encoder"
    return None
