"""Rules of the corpora of a pool and of their mix, as far as they can be checked without data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_args

from ivr_dist.config.corpora import entries, trained, url_of
from ivr_dist.config.data_schema import CorpusConfig, MixConfig
from ivr_dist.config.declaration import Modality, Range, key_name
from ivr_dist.config.fault import Fault
from ivr_dist.config.schema import Config
from ivr_dist.config.types import ENTRY, entry_keys, keys
from ivr_dist.units import parse_interval

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_RESERVED = ("macro", "heldout", "train", "valid", "test")
_SHARES = ("share", "passes")
_PHASE_KEYS = ("until", "alpha", "share", "passes")


def corpora_faults(config: Config) -> Iterator[Fault]:
    """Yield the faults of `data.corpora` by itself: names, ranges, splits."""
    data = config.data
    if not data.corpora:
        return
    if data.train or data.valid or data.test:
        given = next(split for split in ("train", "valid", "test") if getattr(data, split))
        yield Fault((f"data.{given}", "data.corpora"), f"data.{given} and data.corpora are both set", "keep one")
    for name in data.corpora:
        if not _NAME.fullmatch(name) or name in _RESERVED:
            remedy = "use letters, digits and underscores, beginning with a letter"
            if name in _RESERVED:
                remedy = "metrics are called so; use another name"
            yield Fault(("data.corpora",), f"data.corpora: {name!r} is not a name of a corpus", remedy)
    for name, entry in entries(config).items():
        yield from _entry_faults(f"data.corpora.{name}", entry)
    if not trained(config):
        yield Fault(("data.corpora",), "no corpus of data.corpora has a train split", "set train or dir of one")


def _entry_faults(path: str, entry: CorpusConfig) -> Iterator[Fault]:
    for item in fields(entry):
        name, value = key_name(item.name), getattr(entry, item.name)
        allowed: Range | None = item.metadata["range"]
        if allowed is not None and isinstance(value, int | float) and value not in allowed:
            yield _fault(path, name, f"{path}.{name} = {value} must be {allowed}")
    if not any(url_of(entry, split) for split in ("train", "valid", "test")):
        yield Fault((path,), f"{path} has no split", "set dir, or train, valid or test")
    for modality in entry.sets:
        if modality not in get_args(Modality):
            allowed_names = ", ".join(get_args(Modality))
            yield Fault((f"{path}.sets",), f"{path}.sets: {modality} is no modality", f"use {allowed_names}")
    for task, weights in entry.class_weights.items():
        if isinstance(weights, str) and weights != "balanced":
            yield _fault(path, "class_weights", f"{path}.class_weights.{task} = {weights} is not balanced or a list")
        elif isinstance(weights, list) and (min(weights, default=-1) < 0 or not any(weights)):
            yield _fault(
                path, "class_weights", f"{path}.class_weights.{task} = {weights} must be at least 0, one above"
            )
    for task, head in entry.heads.items():
        if not _NAME.fullmatch(head):
            remedy = "use letters, digits and underscores, beginning with a letter"
            yield Fault((f"{path}.heads",), f"{path}.heads.{task}: {head!r} is not a name", remedy)
    twice = [head for head in entry.heads.values() if [*entry.heads.values()].count(head) > 1]
    if twice:
        yield _fault(path, "heads", f"{path}.heads names {twice[0]} twice")


def _fault(path: str, name: str, what: str) -> Fault:
    doc = entry_keys()[f"data.corpora.{ENTRY}.{name}"].doc
    return Fault((f"{path}.{name}",), what, f"{name}: {doc.rstrip('.')}")


def mix_faults(config: Config) -> Iterator[Fault]:
    """Yield contradictions between the shares of the corpora, `data.mix` and other keys."""
    mix, pooled = config.data.mix, [name for name in trained(config) if name]
    entry_of = entries(config)
    if mix != MixConfig() and not config.data.corpora:
        yield Fault(
            ("data.mix", "data.corpora"), "data.mix mixes corpora, but there is only data.train", "leave it unset"
        )
        return
    if config.loss.scale == "unit" and not config.data.corpora:
        yield Fault(
            ("loss.scale", "data.corpora"),
            "loss.scale = unit maps the labels of corpora, but there is only data.train",
            "leave it unset, or name the corpus in data.corpora",
        )
    yield from _share_faults(config, pooled, entry_of)
    if len(entry_of) > 1:
        if config.model.preset == "release":
            yield Fault(
                ("model.preset", "data.corpora"),
                "model.preset = release reads one corpus of three modalities, data.corpora has several",
                "use model.preset=ivr, or one corpus",
            )
        if config.data.lanes is not None:
            yield Fault(
                ("data.lanes", "data.corpora"),
                f"data.lanes = {config.data.lanes} is set, but the lanes of a pool are worked out for each corpus",
                "leave data.lanes unset",
            )
        if config.data.reader == "webdataset":
            yield Fault(
                ("data.reader", "data.corpora"),
                "data.reader = webdataset reads whole shards, which the order of a pool jumps between",
                "use data.reader=ranges",
            )
    if config.train.init_from == "":
        for path, value in (("train.new_heads", config.train.new_heads), ("data.mix.uses_from", mix.uses_from)):
            if value:
                yield Fault((path, "train.init_from"), f"{path} needs train.init_from", "set it, or leave this unset")


def _share_faults(config: Config, pooled: list[str], entry_of: dict[str, CorpusConfig]) -> Iterator[Fault]:
    kinds = {name: [kind for kind in _SHARES if getattr(entry_of[name], kind) is not None] for name in pooled}
    given = {name: own[0] for name, own in kinds.items() if own}
    both = next((name for name, own in kinds.items() if len(own) > 1), None)
    if both is not None:
        yield Fault((f"data.corpora.{both}.share",), f"{both} has a share and passes", "keep one of them")
        return
    if len(set(given.values())) > 1:
        one, other = (next(name for name in given if given[name] == kind) for kind in _SHARES)
        yield Fault(
            (f"data.corpora.{one}.share",), f"{one} has a share, {other} has passes", "give all corpora the same kind"
        )
        return
    if given and len(given) < len(pooled):
        (kind, *_) = given.values()
        missing = next(name for name in pooled if name not in given)
        what = f"{missing} has no {kind}, the others have"
        yield Fault((f"data.corpora.{missing}",), what, "give it one, or none of them")
        return
    mix = config.data.mix
    if given and mix.alpha is not None:
        kind = next(iter(given.values()))
        noun = "shares" if kind == "share" else "passes"
        yield Fault(
            ("data.mix.alpha",), f"data.mix.alpha has no say where corpora have {noun}", "remove one of the two"
        )
    if "passes" in given.values() and mix.epoch_samples is not None:
        yield Fault(
            ("data.mix.epoch_samples",),
            "data.mix.epoch_samples has no say where corpora have passes, which say how long an epoch is",
            "remove one of the two",
        )
    yield from _schedule_faults(mix.schedule, pooled, bool(given))


def _schedule_faults(schedule: list[dict[str, Any]], pooled: list[str], given: bool) -> Iterator[Fault]:
    path = "data.mix.schedule"
    if schedule and given:
        yield Fault((path,), f"{path} has no say where corpora have shares or passes", "remove one of the two")
    for number, phase in enumerate(schedule):
        name = f"{path}[{number}]"
        unknown = [key for key in phase if key not in _PHASE_KEYS]
        if unknown:
            yield Fault((path,), f"unknown key {name}.{unknown[0]}", f"use {', '.join(_PHASE_KEYS)}")
            continue
        if ("until" in phase) == (number == len(schedule) - 1):
            what = "is the last phase and has until" if "until" in phase else "has no until"
            yield Fault((path,), f"{name} {what}", "every phase but the last one ends, such as until: 2epochs")
        elif "until" in phase:
            try:
                parse_interval(str(phase["until"]))
            except ValueError as error:
                yield Fault((path,), f"{name}.until: {error}", "write it like 2epochs or 500steps")
        yield from _phase_faults(name, phase, pooled)


def _phase_faults(name: str, phase: dict[str, Any], pooled: list[str]) -> Iterator[Fault]:
    path = "data.mix.schedule"
    kinds = [kind for kind in ("alpha", "share", "passes") if kind in phase]
    if len(kinds) != 1:
        yield Fault((path,), f"{name} has {' and '.join(kinds) or 'no mix'}", "give one of alpha, share, passes")
        return
    value = phase[kinds[0]]
    if kinds[0] == "alpha":
        allowed = keys()["data.mix.alpha"].range
        if not isinstance(value, int | float) or allowed is None or value not in allowed:
            yield Fault((path,), f"{name}.alpha = {value} must be {allowed}", "such as alpha: 0.5")
        return
    if not isinstance(value, dict) or set(value) != set(pooled):
        yield Fault(
            (path,), f"{name}.{kinds[0]} must name each trained corpus", f"give {', '.join(pooled)} a number each"
        )
    elif not all(isinstance(number, int | float) and number > 0 for number in value.values()):
        yield Fault((path,), f"{name}.{kinds[0]} must be above 0", "leave a corpus out by null in data.corpora")
