"""Run identity: which config keys make two runs the same run, and which may differ. Pure functions.

A run directory belongs to one experiment. A command that continues the run, or shows its result, names the
keys in which the given config differs from the run's. docs/running.md shows `table()`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from ivr_dist.config import Config, Modality, extensions
from ivr_dist.config.corpora import SplitKey, config_key, entries, is_pool, split_urls
from ivr_dist.config.types import keys, value_of
from ivr_dist.errors import UserError
from ivr_dist.planning.model_inputs import model_inputs, standardized
from ivr_dist.planning.plan import data_order, plan_run, total_steps
from ivr_dist.shards.manifest import Manifest
from ivr_dist.units import parse_interval

Role = Literal["data", "identity", "recipe", "length", "free"]
"""data: compared by the manifests' ids; identity: one value for the whole run; recipe: may change until a run has
finished; length: where training ends; free: changes results by rounding at most."""


@dataclass(frozen=True)
class Rule:
    """Keys with the same role."""

    role: Role
    keys: tuple[str, ...]
    note: str = ""
    """Addition to the table."""


def _in(section: str, names: str) -> tuple[str, ...]:
    return tuple(f"{section}.{name}" for name in names.split())


_ENCODER = "kind layers heads feedforward"

RULES = (
    Rule("data", _in("data", "train valid test"), "by the manifests' ids, wherever the data is"),
    Rule("identity", ("data.corpora",), "data by the manifests' ids; shares as `data.mix`"),
    Rule("identity", _in("data.mix", "alpha epoch_samples schedule"), "with `data.mix.changes=allow` listed"),
    Rule("identity", _in("data.mix", "scale uses_from")),
    Rule("free", ("data.mix.changes",)),
    Rule("data", ("data.exclude", "data.mix.overlap"), "by the samples that are left out"),
    Rule("identity", ("run.seed",), "given by `--seeds` where that is used"),
    Rule("identity", _in("data", "modalities standardize"), "of those the data set has"),
    Rule("identity", ("data.context",)),
    Rule("identity", _in("data", "lanes shuffle_delay by_length"), "effective values"),
    Rule("identity", _in("model", "preset class hidden dropout input_dropout feature_dropout modality_dropout")),
    Rule("identity", _in("model.text", f"{_ENCODER} pretrained trained_layers dropout")),
    Rule("identity", (*_in("model.audio", _ENCODER), *_in("model.vision", _ENCODER))),
    Rule("identity", _in("model.fusion", "heads layers content gate positions pooling")),
    Rule("identity", _in("loss", "tasks regression scale extra")),
    Rule("identity", _in("loss.consistency", "weight group moments"), "effective group"),
    Rule("identity", _in("loss.adversary", "weight scale margin reverse")),
    Rule("identity", (*_in("loss.reconstruction", "weight per"), *_in("loss.svr", "weight warmup decay"))),
    Rule("identity", _in("svr", "kind modalities codes temperature over")),
    Rule("identity", _in("train", "global_batch optimizer"), "their states differ"),
    Rule("identity", _in("train", "init_from new_heads init_statistics freeze")),
    Rule("length", _in("train", "epochs max_steps"), "compared by the resulting steps; fewer than trained: refused"),
    Rule("recipe", _in("train", "lr muon_lr text_lr weight_decay betas grad_clip")),
    Rule("recipe", _in("train", "schedule warmup min_lr_ratio")),
    Rule("recipe", _in("train", "eval_every monitor patience select")),
    Rule("recipe", _in("train", "on_fault spike_factor rollback_steps max_faults")),
    Rule("recipe", _in("train", "accumulation max_micro_batch dtype compile"), "other rounding or dropout masks"),
    Rule("recipe", ("eval.metrics",)),
    Rule("recipe", (*_in("data", "on_error max_skipped"), "deepspeed")),
    Rule("free", _in("run", "dir threads resume audit max_failures wait_s resize_s hang_after_s callbacks")),
    Rule("free", ("run.num_workers",), "but for dropout masks, which follow the workers"),
    Rule("free", _in("data", "prefetch cache_bytes disk_cache disk_cache_bytes reader pipe deadline_s verify")),
    Rule("free", ("model.size",), "the keys that it sets are compared"),
    Rule("free", _in("train", "recompute torch_adam")),
    Rule("free", _in("model.text", "cache_states states_dir")),
    Rule("free", _in("zero", "stage offload_optimizer offload_parameters")),
    Rule("free", _in("checkpoint", "every keep_last keep_every asynchronous max_failed")),
    Rule("free", _in("log", "every console_s svr_every")),
)

ROLES: Mapping[str, Role] = {key: rule.role for rule in RULES for key in rule.keys}
"""The role of each key of the config."""

_MIX = ("data.corpora", "data.mix.alpha", "data.mix.epoch_samples", "data.mix.schedule")
"""Keys that may differ where `data.mix.changes` allows another mix; heads and sets of corpora are in the checkpoint."""
_BORROWED = ("loss.", "svr.", "data.valid", "data.test")
"""Prefixes of keys that may differ in a run which starts from the checkpoint of another run."""


@dataclass(frozen=True)
class Change:
    """A key whose value differs."""

    key: str
    there: str
    """Its value in the run, as text."""
    here: str
    """Its value in the given config."""
    note: str = ""

    def __str__(self) -> str:
        """Render an entry of the list of changes."""
        return f"{self.key} {self.there} -> {self.here}{self.note}"


@dataclass(frozen=True)
class Difference:
    """The differences between a config and that of a run."""

    refused: tuple[Change, ...] = ()
    """Changes that make it another run."""
    listed: tuple[Change, ...] = ()
    """Changes that are allowed while a run is trained."""

    def describe(self, finished: bool = False) -> str:
        """Describe the refused changes, for error texts; for a finished run, all changes."""
        changes = (*self.refused, *self.listed) if finished else self.refused
        return ", ".join(f"{change.key} is {change.there} there and {change.here} here" for change in changes)


@dataclass(frozen=True)
class Experiment:
    """A config and its data."""

    config: Config
    manifests: Mapping[str, str]
    """Manifest ids by split; absent if unknown."""


def ids(manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """The manifests' ids by split."""
    return {split: manifest.id for split, manifest in manifests.items()}


def compare(
    there: Experiment, here: Experiment, manifests: Mapping[str, Manifest], *, borrowed: bool = False
) -> Difference:
    """Compare a config with that of a run.

    Effective values are compared: an unset key equals its default for the data.

    Args:
        there: The run's config and data.
        here: The given config and data.
        manifests: Manifests of the splits of `here`.
        borrowed: Whether another run takes only a checkpoint of this one, with its own losses and evaluation.
    """
    refused = _data_changes(there, here)
    listed: list[Change] = []
    effective_here, effective_there = _effective(here.config, manifests), _effective(there.config, manifests)
    may_mix = here.config.data.mix.changes == "allow"
    for key, role in ROLES.items():
        old, new = value_of(there.config, key), value_of(here.config, key)
        # If only the effective values differ, another key is the cause and is reported.
        if role in ("data", "free") or old == new or effective_there[key] == effective_here[key]:
            continue
        note = ""
        if role == "length":
            note = f" (the schedule is that of {_text(new)})" if new is not None else ""
        change = Change(key, _value_text(old, effective_there[key]), _value_text(new, effective_here[key]), note)
        is_allowed = may_mix and key in _MIX
        (refused if role == "identity" and not is_allowed else listed).append(change)
    if borrowed:
        listed += [change for change in refused if change.key.startswith(_BORROWED)]
        refused = [change for change in refused if not change.key.startswith(_BORROWED)]
    return Difference(tuple(refused), tuple(listed))


def _data_changes(there: Experiment, here: Experiment) -> list[Change]:
    changes = []
    old_urls, new_urls = split_urls(there.config), split_urls(here.config)
    for split in dict.fromkeys([*old_urls, *new_urls]):
        old, new = old_urls.get(split, ""), new_urls.get(split, "")
        old_id, new_id = there.manifests.get(split), here.manifests.get(split)
        if old_id and new_id:
            if old_id != new_id:
                # Twelve digits suffice to distinguish them.
                descriptions = [f"{url} (manifest {identity[:12]})" for url, identity in ((old, old_id), (new, new_id))]
                changes.append(Change(config_key(*SplitKey.parse(split)), *descriptions))
        elif old != new:
            changes.append(Change(config_key(*SplitKey.parse(split)), old or "unset", new or "unset"))
    return changes


def _effective(config: Config, manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """Effective values by key, on the data of a run."""
    values: dict[str, Any] = {key: value_of(config, key) for key in ROLES}
    values |= {
        "data.corpora": _corpora_without_data(config),
        "svr.codes": sorted(config.svr.codes),
        "loss.consistency.group": config.group,
        "loss.extra": {name: extensions.normal_form(value) for name, value in config.loss.extra.items()},
        "model.class": extensions.normal_form(config.model.class_),
        "loss.tasks": {task: weight for task, weight in config.loss.tasks.items() if weight != 1},
    }
    if is_pool(config) or "train" not in manifests:
        return values | _effective_lengths(config, _slots(config, manifests))
    train = manifests["train"]
    used = list(model_inputs(config, train).used)
    lanes, delay = data_order(config, train.samples, train.total_bytes)
    return (
        values
        | _effective_lengths(config, train.samples)
        | {
            "data.modalities": used,
            "data.standardize": standardized(config, train),
            "data.lanes": lanes,
            "data.shuffle_delay": delay,
            "svr.modalities": [name for name in get_args(Modality) if name in config.svr.modalities and name in used],
        }
    )


def _effective_lengths(config: Config, slots: int) -> dict[str, Any]:
    steps, epoch = total_steps(config, slots), -(-slots // config.train.global_batch)
    return {
        "train.epochs": steps,
        "train.max_steps": steps,
        "train.eval_every": parse_interval(config.train.eval_every).steps(epoch),
    }


def _slots(config: Config, manifests: Mapping[str, Manifest]) -> int:
    """Slots of an epoch; 1 where the mix does not fit the data, which is another difference."""
    try:
        return plan_run(config, manifests, 1).samples
    except (UserError, KeyError):
        return 1


def _corpora_without_data(config: Config) -> dict[str, Any]:
    """Entries of `data.corpora` without their splits, which are compared by the manifests' ids."""
    return {
        name: asdict(replace(entry, dir="", train=None, valid=None, test=None))
        for name, entry in entries(config).items()
        if name
    }


def _value_text(value: Any, effective: Any) -> str:
    if value is None and effective is not None and not isinstance(effective, bool):
        return f"unset ({_text(effective)})"
    return _text(value)


def _text(value: Any) -> str:
    """Format a value as a user would type it."""
    if value is None or value == "":
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_text(item)}' for name, item in value.items())}}}"
    return str(value)


_TREATED: Mapping[Role, tuple[str, str, str]] = {
    "data": ("refused", "refused", "refused, before any seed is trained"),
    "identity": ("refused", "refused", "refused, before any seed is trained"),
    "recipe": ("refused", "listed", "refused where the seed is finished, else listed"),
    "length": ("continued, listed", "listed", "continued, listed"),
    "free": ("no influence", "no influence", "no influence"),
}


_EFFECTS: Mapping[Role, str] = {
    "data": "other data need another run.dir; compared by manifest id, not by path",
    "identity": "fixed: another value needs another run.dir",
    "recipe": "may change until the run is finished",
    "length": "may be raised, also of a finished run",
    "free": "may change at any time; results differ by rounding at most",
}


def effects() -> dict[str, str]:
    """Effects of another value on a run that has begun, by key, as clauses."""
    return {key: _EFFECTS[role] for key, role in ROLES.items()}


def table() -> list[str]:
    """Lines of the table in docs/running.md: how a changed key is treated, by the state of the run."""
    lines = ["| key | finished run | unfinished or lengthened run | `--seeds` |", "|---|---|---|---|"]
    for rule in RULES:
        note = f" ({rule.note})" if rule.note else ""
        lines.append(f"| {_names(rule.keys)}{note} | {' | '.join(_TREATED[rule.role])} |")
    return lines


def _names(paths: Collection[str]) -> str:
    return ", ".join(f"`{path}`" for path in paths)


def unclassified() -> Sequence[str]:
    """Keys of the config without a role, unknown keys with one, and keys with two."""
    listed = [key for rule in RULES for key in rule.keys]
    return sorted({*keys()} ^ {*listed}) + sorted(key for key in set(listed) if listed.count(key) > 1)
