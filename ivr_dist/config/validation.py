"""Validates configs without data: ranges of single keys, and contradictions between keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from ivr_dist.config import extensions
from ivr_dist.config.corpora import has_split
from ivr_dist.config.corpora_rules import corpora_faults, mix_faults
from ivr_dist.config.declaration import Modality, Range, key_name
from ivr_dist.config.fault import Fault
from ivr_dist.config.lanes import check_layout, default_lanes
from ivr_dist.config.presets import RELEASE_FIXED
from ivr_dist.config.schema import Config, EncoderConfig
from ivr_dist.config.types import keys, value_of
from ivr_dist.errors import ConfigError, raise_together
from ivr_dist.units import parse_bytes, parse_interval

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def check(config: Config, origins: Mapping[str, str] | None = None) -> None:
    """Raise the faults of a config that cannot train on any data.

    Args:
        config: The config.
        origins: See `faults`.

    Raises:
        ConfigError: Names all faults.
    """
    raise_together(faults(config, origins))


def faults(
    config: Config, origins: Mapping[str, str] | None = None, suspects: Collection[str] = ()
) -> list[ConfigError]:
    """Find the faults that keep a config from training on any data.

    Args:
        config: The config.
        origins: Where each key's value came from, such as `configs/mosi.yaml:12`; keys with their default are absent.
        suspects: Keys known to have a wrong or unintended value: contradictions with them are not reported, as for
            keys out of their range.
    """
    single = _singly(config)
    wrong = wrong_keys(config, suspects)
    sound = with_defaults(config, wrong)
    rules = (_data, mix_faults, _batch, _release, _model, _text, _loss, _zero, _train)
    several = [fault for rule in rules for fault in rule(sound) if not wrong & set(fault.keys)]
    return [_error(fault, origins or {}) for fault in single + several]


def wrong_keys(config: Config, suspects: Collection[str] = ()) -> set[str]:
    """The suspects, and the keys that are wrong by themselves."""
    return {key for fault in _singly(config) for key in fault.keys} | set(suspects)


def with_defaults(section: T, paths: Collection[str], prefix: str = "") -> T:
    """Reset some keys to their defaults, so that checks of several keys can rely on each."""
    changes: dict[str, Any] = {}
    for item in fields(section):
        path, value = f"{prefix}{key_name(item.name)}", getattr(section, item.name)
        if is_dataclass(value):
            changes[item.name] = with_defaults(value, paths, f"{path}.")  # type: ignore[type-var]
        elif path in paths:
            changes[item.name] = keys()[path].default
    return replace(section, **changes)


def _singly(config: Config) -> list[Fault]:
    return [fault for rule in (_ranges, _spans, _single, corpora_faults) for fault in rule(config)]


def _error(fault: Fault, origins: Mapping[str, str]) -> ConfigError:
    where = [origins[key] for key in fault.keys if key in origins]
    return ConfigError(fault.what, where=", ".join(dict.fromkeys(where)) or fault.keys[0], remedy=fault.remedy)


def _ranges(config: Config) -> Iterator[Fault]:
    for path, key in keys().items():
        value = value_of(config, path)
        # Lists and mappings have separate messages.
        if key.range is not None and isinstance(value, int | float) and value not in key.range:
            yield Fault((path,), f"{path} = {value} must be {key.range}", f"{path}: {key.doc.rstrip('.')}")
    allowed = _range("loss.tasks")
    for task, weight in config.loss.tasks.items():
        if weight not in allowed:
            yield Fault(("loss.tasks",), f"loss.tasks.{task} = {weight} must be {allowed}", "0 turns a task off")
    betas, allowed = config.train.betas, _range("train.betas")
    if len(betas) != 2 or not all(beta in allowed for beta in betas):
        yield Fault(("train.betas",), f"train.betas = {betas} must be two numbers, each {allowed}", "try [0.9, 0.999]")


def _range(path: str) -> Range:
    allowed = keys()[path].range
    assert allowed is not None
    return allowed


def _single(config: Config) -> Iterator[Fault]:
    data = config.data
    if not config.run.dir:
        yield Fault(("run.dir",), "run.dir is empty", "set it to a directory or URL, such as runs/first")
    workers = config.run.num_workers
    several = [1, *workers] if isinstance(workers, list) else []
    if isinstance(workers, list) and (several != sorted(several) or len(workers) != 2):
        yield Fault(
            ("run.num_workers",),
            f"run.num_workers = {workers} must be a number, or two of at least 1 with the smaller first",
            "write it like 4, or like [2, 8]",
        )
    if not config.run.resume:
        yield Fault(("run.resume",), "run.resume is empty", "set it to auto, never or a checkpoint's path")
    if not data.train and not data.corpora:
        yield Fault(("data.train",), "data.train is empty", "set it to a packed split, such as data/mosi/train")
    if not data.modalities:
        yield Fault(("data.modalities",), "data.modalities is empty", "name at least one of text, audio, vision")
    for path in ("data.modalities", "data.standardize", "svr.modalities", "svr.codes"):
        names = value_of(config, path)
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            yield Fault((path,), f"{path} names {twice[0]} twice", "name each once")
    if data.pipe and "{}" not in data.pipe:
        yield Fault(("data.pipe",), "data.pipe has no placeholder for the shard", "write {} where its URL goes")
    for key, error in extensions.faults(config):
        yield Fault((key,), error.what, error.remedy)
    if "://" in data.disk_cache:
        yield Fault(("data.disk_cache",), f"data.disk_cache = {data.disk_cache} is a URL", "name a local directory")


def _data(config: Config) -> Iterator[Fault]:
    data = config.data
    if data.pipe and data.reader != "webdataset":
        yield Fault(("data.pipe", "data.reader"), "data.pipe needs data.reader = webdataset", "set both, or neither")
    try:
        lanes = default_lanes(config.train.global_batch) if data.lanes is None else data.lanes
        check_layout(lanes, config.train.global_batch, data.shuffle_delay or 0)
    except ConfigError as error:
        key = "data.lanes" if "data.lanes" in error.what else "data.shuffle_delay"
        yield Fault((key, "train.global_batch"), error.what, error.remedy)


def _batch(config: Config) -> Iterator[Fault]:
    batch, group = config.train.global_batch, config.group
    chosen = config.loss.consistency.group is not None
    both = ("train.global_batch", "loss.consistency.group")
    if batch < group:
        yield Fault(
            both,
            f"train.global_batch = {batch} is smaller than loss.consistency.group = {group}",
            f"leave it unset, or set loss.consistency.group={batch} or train.global_batch to a multiple of {group}",
        )
    elif batch % group:
        divisor = _divisor(batch, group)
        below, above = batch // group * group, -(-batch // group) * group
        yield Fault(
            both,
            f"loss.consistency.group = {group} does not divide train.global_batch = {batch}",
            f"set train.global_batch to {below} or {above}, or loss.consistency.group to {divisor}, or leave it unset",
        )
    elif config.train.accumulation is not None and (batch // group) % config.train.accumulation:
        allowed = [str(count) for count in range(1, batch // group + 1) if batch // group % count == 0]
        yield Fault(
            ("train.accumulation", *both),
            f"train.accumulation = {config.train.accumulation} does not divide the {batch // group} groups of a step "
            f"(train.global_batch = {batch} / loss.consistency.group = {group})",
            f"set it to one of {', '.join(allowed)}, or leave it unset",
        )
    if group < 2 and config.loss.consistency.weight > 0:
        unset = "" if chosen else f", the largest divisor of train.global_batch = {batch} up to 64,"
        remedy = "set it to 2 or more" if chosen or batch < 2 else f"set it to {batch}, or choose another batch"
        yield Fault(
            ("loss.consistency.group",) if chosen else both,
            f"loss.consistency.group = {group}{unset} has no batch statistics to compare",
            f"{remedy}, or loss.consistency.weight=0",
        )


def _lacking(config: Config) -> list[str]:
    """Modalities that the released model requires and the config leaves out."""
    return [name for name in get_args(Modality) if name not in config.data.modalities]


def _release(config: Config) -> Iterator[Fault]:
    if config.model.preset != "release":
        return
    if config.model.size != "base":
        yield Fault(
            ("model.size", "model.preset"),
            f"model.size = {config.model.size} is a size of model.preset = ivr, the released model has one depth",
            "leave model.size unset and choose its width with model.hidden, or use model.preset=ivr",
        )
    if missing := _lacking(config):
        yield Fault(
            ("data.modalities", "model.preset"),
            f"model.preset = release needs text, audio and vision, data.modalities lacks {', '.join(missing)}",
            "leave data.modalities unset, or use model.preset=ivr, which takes any modalities",
        )
    for path, fixed in RELEASE_FIXED.items():
        value = value_of(config, path)
        if value != fixed:
            yield Fault(
                (path, "model.preset"),
                f"{path} = {value} is not the released model, which has {fixed or 'none'}",
                f"leave {path} unset, or use model.preset=ivr",
            )
    for path in ("model.audio.feedforward", "model.vision.feedforward"):
        if value_of(config, path) != keys()[path].default:
            yield Fault(
                (path, "model.preset"),
                f"{path} is not read by model.preset = release, whose feed-forward layers are 2048 wide",
                f"leave {path} unset, or use model.preset=ivr",
            )


def _model(config: Config) -> Iterator[Fault]:
    model = config.model
    if model.class_:
        # The keys of the presets are not read.
        return
    if model.hidden % 2:
        yield Fault(("model.hidden",), f"model.hidden = {model.hidden} is odd", f"set it to {model.hidden + 1}")
        return
    heads = {"model.fusion.heads": model.fusion.heads}
    for name in config.data.modalities:
        encoder: EncoderConfig = getattr(model, name)
        # The release's encoders are as wide as the features.
        if encoder.kind == "transformer" and model.preset != "release":
            heads[f"model.{name}.heads"] = encoder.heads
    wrong = {path: count for path, count in heads.items() if model.hidden % count}
    if wrong:
        (path, count), *others = wrong.items()
        common = math.lcm(*wrong.values())
        fewer = [f"{key}={_divisor(model.hidden, number)}" for key, number in wrong.items()]
        also = f" and neither does {', '.join(f'{key} = {number}' for key, number in others)}" if others else ""
        yield Fault(
            (*wrong, "model.hidden"),
            f"{path} = {count} does not divide model.hidden = {model.hidden}{also}",
            f"set {' '.join(fewer)}, or model.hidden to a multiple of {common} such as "
            f"{-(-model.hidden // common) * common}",
        )


def _divisor(number: int, most: int) -> int:
    """The largest divisor up to `most`."""
    return next(size for size in range(most, 0, -1) if number % size == 0)


def _text(config: Config) -> Iterator[Fault]:
    text = config.model.text
    if text.pretrained and "text" not in config.data.modalities:
        yield Fault(
            ("model.text.pretrained", "data.modalities"),
            f"model.text.pretrained = {text.pretrained} encodes text, which data.modalities leaves out",
            "name text there, or leave model.text.pretrained unset",
        )
    if text.cache_states and (not text.pretrained or text.trained_layers is None):
        missing = "model.text.pretrained" if not text.pretrained else "model.text.trained_layers"
        yield Fault(
            ("model.text.cache_states", missing),
            f"model.text.cache_states = {text.cache_states}, but {missing} is not set",
            f"set {missing}: states are kept of a pretrained encoder's layers that are not trained",
        )
    if config.data.context and not text.pretrained:
        yield Fault(
            ("data.context", "model.text.pretrained"),
            f"data.context = {config.data.context}, but no text encoder reads the transcripts",
            "set model.text.pretrained, or data.context to 0",
        )


def _loss(config: Config) -> Iterator[Fault]:
    svr = config.loss.svr
    if svr.weight == 0:
        return
    if svr.warmup + svr.decay > 1:
        yield Fault(
            ("loss.svr.warmup", "loss.svr.decay"),
            f"loss.svr.warmup = {svr.warmup:g} and loss.svr.decay = {svr.decay:g} are more than the whole run",
            "choose shares that add up to 1 or less",
        )
    if config.svr.over == "batch" and config.model.preset != "release":
        yield Fault(
            ("svr.over", "model.preset"),
            "svr.over = batch needs all samples padded to one length, which only model.preset = release does",
            "set svr.over=sample",
        )
    if config.svr.over == "batch" and config.svr.kind != "js":
        yield Fault(
            ("svr.over", "svr.kind"),
            f"svr.over = batch averages distributions, svr.kind = {config.svr.kind} has none",
            "set svr.kind=js, or svr.over=sample",
        )
    off = "or turn the term off with loss.svr.weight=0"
    is_reported = config.model.preset == "release" and _lacking(config)
    if not set(config.svr.modalities) & set(config.data.modalities) and not is_reported:
        used = ", ".join(config.data.modalities)
        listed = f"[{', '.join(config.svr.modalities)}]"
        yield Fault(
            ("svr.modalities", "data.modalities"),
            f"svr.modalities = {listed} holds no modality in use, but loss.svr.weight = {svr.weight:g}",
            f"name at least one of {used}, {off}",
        )
    if not config.svr.codes:
        yield Fault(
            ("svr.codes",),
            f"svr.codes is empty, but loss.svr.weight = {svr.weight:g}",
            f"name private, shared or both, {off}",
        )


def _zero(config: Config) -> Iterator[Fault]:
    zero, train = config.zero, config.train
    if zero.stage == 0 and (zero.offload_optimizer != "none" or train.optimizer == "muon"):
        path = "train.optimizer" if train.optimizer == "muon" else "zero.offload_optimizer"
        yield Fault(
            (path, "zero.stage"),
            f"{path} = {value_of(config, path)} needs ZeRO, zero.stage is 0",
            "use zero.stage 1, 2 or 3",
        )
    if zero.stage != 3 and zero.offload_parameters != "none":
        yield Fault(
            ("zero.offload_parameters", "zero.stage"),
            f"zero.offload_parameters = {zero.offload_parameters} needs zero.stage = 3, it is {zero.stage}",
            "use zero.stage=3, or leave it unset",
        )
    if train.optimizer == "muon" and train.grad_clip:
        yield Fault(
            ("train.grad_clip", "train.optimizer"),
            f"train.grad_clip = {train.grad_clip:g} would shrink Muon's updates, whose norm is large by design",
            "set train.grad_clip=0 with train.optimizer=muon",
        )
    if train.recompute and config.model.preset == "release":
        yield Fault(
            ("train.recompute", "model.preset"),
            "train.recompute has no effect on model.preset = release",
            "leave it unset, or use model.preset=ivr",
        )


def _train(config: Config) -> Iterator[Fault]:
    train = config.train
    if train.compile != "none" and config.zero.stage == 3:
        yield Fault(
            ("train.compile", "zero.stage"),
            f"train.compile = {train.compile} cannot follow zero.stage = 3, which gathers parameters as layers run",
            "use zero.stage 0, 1 or 2, or train.compile=none",
        )
    if has_split(config, "valid"):
        return
    valid = "set data.valid to a packed split"
    if train.select == "best":
        yield Fault(
            ("train.select", "data.valid"),
            "train.select = best needs a validation split, but data.valid is empty",
            f"{valid}, or train.select=last",
        )
    if train.patience is not None:
        yield Fault(
            ("train.patience", "data.valid"),
            f"train.patience = {train.patience} needs a validation split, but data.valid is empty",
            f"{valid}, or leave train.patience unset",
        )
    if train.monitor:
        yield Fault(
            ("train.monitor", "data.valid"),
            f"train.monitor = {train.monitor} needs a validation split, but data.valid is empty",
            f"{valid}, or leave train.monitor unset",
        )


def _spans(config: Config) -> Iterator[Fault]:
    parsers: dict[str, Callable[[str], object]] = {
        "train.eval_every": parse_interval,
        "checkpoint.every": parse_interval,
        "checkpoint.keep_every": lambda text: text and parse_interval(text),
        "data.cache_bytes": parse_bytes,
        "data.disk_cache_bytes": parse_bytes,
    }
    for path, parse in parsers.items():
        try:
            parse(value_of(config, path))
        except ValueError as error:
            yield Fault((path,), f"{path}: {error}", f"{path}: {keys()[path].doc.rstrip('.')}")
