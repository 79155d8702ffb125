"""Preflight checks of a pool: how its corpora fit the config and each other, before any worker starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from ivr_dist.config import Config
from ivr_dist.config.corpora import SPLITS, SplitKey, entries, held_out, trained
from ivr_dist.data.left_out import find_left_out
from ivr_dist.errors import ConfigError, DataError, FaultsError, UserError
from ivr_dist.evaluation.pool_metrics import metric_names
from ivr_dist.model.text.text_encoder import check_source
from ivr_dist.planning.label_check import check_labels
from ivr_dist.planning.plan import plan_run
from ivr_dist.planning.pool_layout import PoolLayout, pool_layout
from ivr_dist.shards.manifest import Manifest

_ID_DIGITS = 12


def caught(check: Callable[..., object], *arguments: Any) -> list[UserError]:
    """Run a check, and return the `UserError` that it raises as a list, so that further checks can run."""
    try:
        check(*arguments)
    except FaultsError as error:
        return list(error.faults)
    except UserError as error:
        return [error]
    return []


def pool_faults(config: Config, manifests: Mapping[str, Manifest], worlds: Sequence[int]) -> list[UserError]:
    """Collect the errors of a config with several corpora against data that can be read.

    Args:
        config: The run's config, whose corpora have explicit splits.
        manifests: Manifests of all splits, by the text of their `SplitKey`.
        worlds: Numbers of workers that it must fit.
    """
    errors: list[UserError] = [*_same_data(config, manifests), *_unlike_splits(config, manifests)]
    for world in worlds:
        if not errors:
            # Other world sizes would mostly repeat them.
            errors += caught(plan_run, config, manifests, world)
    errors += _label_faults(config, manifests)
    errors += _leakage(config, manifests)
    encoder = config.model.text.pretrained
    errors += caught(check_source, encoder) if encoder else []
    faults = caught(pool_layout, config, manifests, 1 if encoder else None)
    if not faults:
        faults = list(_monitor_faults(config, pool_layout(config, manifests, 1 if encoder else None), manifests))
    return [*errors, *faults]


def _leakage(config: Config, manifests: Mapping[str, Manifest]) -> list[UserError]:
    """Check the list of `data.exclude`, and that no corpus is scored by what another one trains on."""
    try:
        return list(find_left_out(config, manifests).leaks)
    except UserError as error:
        return [error]


def _same_data(config: Config, manifests: Mapping[str, Manifest]) -> Iterator[UserError]:
    for one, other in combinations(trained(config), 2):
        identity = manifests[str(SplitKey(one, "train"))].id
        if identity == manifests[str(SplitKey(other, "train"))].id:
            yield ConfigError(
                f"{one} and {other} are the same data (id {identity[:_ID_DIGITS]})",
                where=f"data.corpora.{other}",
                remedy="keep one entry with passes: 2; two copies would come in one order",
            )


def _unlike_splits(config: Config, manifests: Mapping[str, Manifest]) -> Iterator[UserError]:
    """Yield an error for each split whose features or tasks are not those of the corpus' first split."""
    for name in entries(config):
        keys = [SplitKey(name, split) for split in SPLITS]
        own = {key: manifests[str(key)] for key in keys if str(key) in manifests}
        (first, reference), *others = own.items()
        for key, manifest in others:
            differing = [m for m in config.data.modalities if manifest.features.get(m) != reference.features.get(m)]
            if differing or manifest.tasks != reference.tasks:
                yield DataError(
                    f"{key} has other {differing[0] + ' features' if differing else 'tasks'} than {first}",
                    where=f"data.corpora.{name}.{key.split}",
                    remedy="pack all splits of a corpus in one run of `ivr-dist pack`",
                )


def _label_faults(config: Config, manifests: Mapping[str, Manifest]) -> list[UserError]:
    errors: list[UserError] = []
    for name in trained(config):
        own = {
            key.split: manifest
            for text, manifest in manifests.items()
            for key in [SplitKey.parse(text)]
            if key.corpus == name
        }
        errors += caught(check_labels, own, config.loss.tasks, False)
    return errors


def _monitor_faults(config: Config, layout: PoolLayout, manifests: Mapping[str, Manifest]) -> Iterator[UserError]:
    if not config.train.monitor:
        return
    scored = [corpus for corpus in layout.corpora if str(SplitKey(corpus.name, "valid")) in manifests]
    names = metric_names(scored, list(config.eval.metrics))
    monitor = config.train.monitor.removeprefix("valid/")
    out = held_out(config)
    if monitor not in names:
        shown = [name for name in names if name.partition("/")[0] not in out]
        yield ConfigError(
            f"train.monitor = {config.train.monitor} is not a metric of the validation splits",
            where="train.monitor",
            remedy=f"use one of {', '.join(f'valid/{name}' for name in shown)}",
        )
