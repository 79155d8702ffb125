"""Registry of metrics: loads those of `eval.metrics` by dotted path; built-in ones are in `metrics`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ivr_dist.common import dotted_path
from ivr_dist.common.dotted_path import ClassReference
from ivr_dist.common.library_errors import named as named_error
from ivr_dist.common.own_code import OWN_ERRORS
from ivr_dist.config import Config, extensions
from ivr_dist.errors import IvrError
from ivr_dist.evaluation.metric import Metric
from ivr_dist.evaluation.metrics import LOWER_IS_BETTER, Floats
from ivr_dist.shards.specs import TaskSpec


def import_metric(class_ref: ClassReference) -> type[Metric]:
    """Import the class of a metric and check it.

    Raises:
        ConfigError: It cannot be imported, is not derived from `Metric`, or takes other arguments.
    """
    kind: type[Metric] = dotted_path.import_class(class_ref)
    dotted_path.check_derived(kind, class_ref, "a metric", Metric)
    dotted_path.check_methods(kind, class_ref, "a metric", {"compute": 3})
    dotted_path.check_names(kind, class_ref, "task_types", Metric.task_types, "a type of task")
    dotted_path.check_arguments(kind, class_ref)
    return kind


def configured_metrics(config: Config) -> dict[str, Metric]:
    """Instantiate the metrics of `eval.metrics`, by name.

    Raises:
        ConfigError: One cannot be instantiated.
    """
    class_refs = extensions.metrics(config)
    return {name: dotted_path.make(import_metric(class_ref), class_ref) for name, class_ref in class_refs.items()}


def lower_is_better(extra: Mapping[str, Metric]) -> frozenset[str]:
    """Names of all metrics, built-in and extra, where smaller is better."""
    return LOWER_IS_BETTER | {name for name, metric in extra.items() if metric.lower_is_better}


def score_extra(extra: Mapping[str, Metric], task: TaskSpec, truth: Floats, prediction: Floats) -> dict[str, float]:
    """Compute the extra metrics of a task over its labeled samples; nan if one is undefined.

    Raises:
        IvrError: A metric failed; names it.
    """
    values = {}
    sound = len(truth) > 0 and bool(np.isfinite(prediction).all())
    # A metric that changed them would change those after it.
    truth, prediction = _read_only(truth), _read_only(prediction)
    for name, metric in extra.items():
        if task.type not in metric.task_types:
            continue
        try:
            values[name] = float(metric.compute(task, truth, prediction)) if sound else float("nan")
        except OWN_ERRORS as error:  # whatever the metric raises is the user's own code
            raise IvrError(
                f"metric {type(metric).__module__}:{type(metric).__qualname__} failed: {named_error(error)}",
                where=f"{extensions.METRICS}.{name}",
                remedy="correct it; the same command continues the run",
            ) from error
    return values


def _read_only(values: Floats) -> Floats:
    view = values.view()
    view.setflags(write=False)
    return view
