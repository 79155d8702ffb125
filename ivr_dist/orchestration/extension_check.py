"""Checks the classes outside the package that a config names, before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ivr_dist.common.dotted_path import ClassReference
from ivr_dist.config import Config, extensions
from ivr_dist.config.types import value_of
from ivr_dist.errors import ConfigError, UserError
from ivr_dist.evaluation import metrics
from ivr_dist.evaluation.metric import Metric
from ivr_dist.evaluation.registry import import_metric
from ivr_dist.planning.model_inputs import model_inputs
from ivr_dist.shards.manifest import Manifest
from ivr_dist.training.callbacks.registry import import_callback


def extension_faults(config: Config, train: Manifest | None) -> list[UserError]:
    """Import every class that a config names and collect the errors.

    Args:
        config: The run's config.
        train: The training split, which the model must fit; None if it cannot be read.
    """
    if not extensions.all_of(config):
        return []
    faults: list[UserError] = []
    for class_ref in extensions.callbacks(config):
        _import(import_callback, class_ref, faults)
    for name, class_ref in extensions.metrics(config).items():
        kind = _import(import_metric, class_ref, faults)
        if kind is not None and train is not None:
            faults += _undefined_monitor(config, name, class_ref, kind, train)
        if train is not None and name in _metric_names(train):
            remedy = "choose another name"
            faults.append(ConfigError(f"{class_ref.key} has the name of a built-in metric", remedy=remedy))
    return [*faults, *_model_and_losses(config, train)]


def _import(importer: Callable[[ClassReference], Any], class_ref: ClassReference, faults: list[UserError]) -> Any:
    """Call an importer; return None if it raises, and add the error to the faults."""
    try:
        return importer(class_ref)
    except UserError as error:
        faults.append(error)
        return None


def _undefined_monitor(
    config: Config, name: str, class_ref: ClassReference, kind: type[Metric], train: Manifest
) -> Iterator[ConfigError]:
    """The fault of a monitored metric that is not defined for its task, and thus never computed."""
    for task, spec in train.tasks.items():
        monitored = f"{metrics.prefix(train.corpus, task, train.tasks)}/{name}"
        if config.train.monitor.removeprefix("valid/") == monitored and spec.type not in kind.task_types:
            yield ConfigError(
                f"train.monitor = {config.train.monitor}: {class_ref.path} is not defined for a {spec.type}",
                where="train.monitor",
                remedy="monitor another metric",
            )


def _metric_names(train: Manifest) -> set[str]:
    return {name.rpartition("/")[2] for name in metrics.names(train.corpus, train.tasks)}


def _model_and_losses(config: Config, train: Manifest | None) -> list[UserError]:
    """Faults of the model and the loss terms, and losses that the model does not support."""
    extra, class_ref = extensions.extra_terms(config), extensions.model(config)
    if not extra and class_ref is None:
        return []
    # Both need torch, which takes seconds to import.
    from ivr_dist.losses.registry import import_term
    from ivr_dist.model.build import PRESETS, import_model, unmet_needs

    faults: list[UserError] = []
    terms = {entry.name: _import(import_term, entry.class_ref, faults) for entry in extra}
    kind: Any = PRESETS[config.model.preset] if class_ref is None else _import(import_model, class_ref, faults)
    if kind is None:
        return faults
    model_name = f"model.preset = {config.model.preset}" if class_ref is None else class_ref.path
    for entry in extra:
        missing = [] if terms[entry.name] is None else [p for p in terms[entry.name].needs if p not in kind.provides]
        if missing:
            faults.append(_unsupported(model_name, missing, entry.class_ref.key, "remove it, or use another model"))
    if class_ref is not None:
        faults += _built_in_losses(config, kind.provides, model_name)
        if train is not None:
            faults += unmet_needs(kind, class_ref, model_inputs(config, train), train.tasks)
    return faults


def _built_in_losses(config: Config, provides: tuple[str, ...], model: str) -> Iterator[UserError]:
    from ivr_dist.losses.registry import built_in_terms

    for term in built_in_terms(config):
        if term.name == "task" or value_of(config, f"{term.section}.weight") == 0:
            continue
        missing = [part for part in term.needs if part not in provides]
        if missing:
            yield _unsupported(model, missing, term.section, f"set {term.section}.weight=0, or use another model")


def _unsupported(model: str, missing: list[str], loss: str, remedy: str) -> ConfigError:
    return ConfigError(f"{loss} needs {', '.join(missing)}, which {model} does not return", where=loss, remedy=remedy)
