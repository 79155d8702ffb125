"""Classes outside the package that a config names: callbacks, the model, loss terms, metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ivr_dist.common.dotted_path import CLASS, ClassReference, reference
from ivr_dist.config.schema import Config
from ivr_dist.config.types import keys, value_of
from ivr_dist.errors import ConfigError

CALLBACKS, MODEL, TERMS, METRICS = "run.callbacks", "model.class", "loss.extra", "eval.metrics"
"""The keys that name classes."""
WEIGHT = "weight"
"""Key beside the class of a loss term: its weight, 1 where it is not given."""

_PRETRAINED = "model.text.pretrained"
"""The one key of the presets that a class outside the package reads as well: its `spec.text`."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = ("total", "task", "consistency", "adversary", "reconstruction", "svr")
"""Names of curves `loss/NAME` that exist already."""


@dataclass(frozen=True)
class ExtraTerm:
    """A loss term of the config's `loss.extra`."""

    name: str
    class_ref: ClassReference
    weight: float


def callbacks(config: Config) -> list[ClassReference]:
    """The classes of `run.callbacks`, in their order."""
    return [reference(value, f"{CALLBACKS}[{number}]") for number, value in enumerate(config.run.callbacks)]


def model(config: Config) -> ClassReference | None:
    """The class of `model.class`; None where a preset is the model."""
    return reference(config.model.class_, MODEL) if config.model.class_ else None


def extra_terms(config: Config) -> list[ExtraTerm]:
    """The terms of `loss.extra`, in their order."""
    return [
        ExtraTerm(name, reference(value, f"{TERMS}.{name}", [WEIGHT]), _weight(value))
        for name, value in config.loss.extra.items()
    ]


def metrics(config: Config) -> dict[str, ClassReference]:
    """The metrics of `eval.metrics`, by name."""
    return {name: reference(value, f"{METRICS}.{name}") for name, value in config.eval.metrics.items()}


def all_of(config: Config) -> list[ClassReference]:
    """Every class that a config names."""
    class_ref = model(config)
    return [
        *([] if class_ref is None else [class_ref]),
        *(term.class_ref for term in extra_terms(config)),
        *metrics(config).values(),
        *callbacks(config),
    ]


def unread_keys(config: Config) -> list[str]:
    """Keys of the presets that are set although `model.class` is the model, which does not read them."""
    if not config.model.class_:
        return []
    # A preset or size sets the other keys.
    decided_first = [path for path in ("model.preset", "model.size") if value_of(config, path) != keys()[path].default]
    others = (path for path in keys() if path.startswith("model.") and path not in (MODEL, _PRETRAINED))
    return decided_first or [path for path in others if value_of(config, path) != keys()[path].default]


def rows(config: Config) -> list[tuple[str, str]]:
    """Rows of the plan: a line for each class but the model's, and one for keys that the model does not read."""
    unread = unread_keys(config)
    return [
        *([("not read by this model", ", ".join(unread))] if unread else []),
        *(("extra loss", f"{t.name} = {t.class_ref.path}, weight {t.weight:g}") for t in extra_terms(config)),
        *(("extra metric", f"{name} = {class_ref.path}") for name, class_ref in metrics(config).items()),
        *(("callback", class_ref.path) for class_ref in callbacks(config)),
    ]


def normal_form(value: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """Normalize a class and its arguments to a mapping, so that both notations compare equal."""
    return {WEIGHT: 1.0, CLASS: value} if isinstance(value, str) else {WEIGHT: 1.0, **value}


def _weight(value: Any) -> float:
    return float(value.get(WEIGHT, 1.0)) if isinstance(value, dict) else 1.0


def faults(config: Config) -> Iterator[tuple[str, ConfigError]]:
    """Check the form of these keys without importing anything; yield each key with its error."""
    for number, value in enumerate(config.run.callbacks):
        yield from _form(value, CALLBACKS, f"{CALLBACKS}[{number}]")
    if config.model.class_:
        yield from _form(config.model.class_, MODEL, MODEL)
    for key, entries in ((TERMS, config.loss.extra), (METRICS, config.eval.metrics)):
        for name, value in entries.items():
            path = f"{key}.{name}"
            if not _NAME.fullmatch(name):
                yield key, ConfigError(f"{path} is not a name", remedy="use letters, digits and underscores")
            yield from _form(value, key, path)
    for name, value in config.loss.extra.items():
        if name in _RESERVED:
            remedy = f"choose another name than {', '.join(_RESERVED)}"
            yield TERMS, ConfigError(f"{TERMS}.{name} has the name of a term of the package", remedy=remedy)
        weight = value.get(WEIGHT, 1.0) if isinstance(value, dict) else 1.0
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            yield (
                TERMS,
                ConfigError(
                    f"{TERMS}.{name}.{WEIGHT} = {weight!r} must be a number, at least 0 and finite",
                    remedy="0 only records it",
                ),
            )


def _form(value: Any, key: str, path: str) -> Iterator[tuple[str, ConfigError]]:
    try:
        reference(value, path)
    except ConfigError as error:
        yield key, ConfigError(f"{path}: {error.what}", remedy=error.remedy)
