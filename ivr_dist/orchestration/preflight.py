"""Preflight checks: the data sets, their shards, and how the config fits them, before any worker starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ivr_dist import storage
from ivr_dist.config import Config
from ivr_dist.config.corpora import SplitKey
from ivr_dist.config.loading import Loaded
from ivr_dist.data.left_out import find_left_out
from ivr_dist.errors import ConfigError, DataError, FaultsError, UserError, raise_together
from ivr_dist.evaluation import metrics
from ivr_dist.model.text_encoder import TextEncoder, check_source, local_folder
from ivr_dist.orchestration.extension_check import extension_faults
from ivr_dist.planning.label_check import check_labels
from ivr_dist.planning.model_inputs import model_inputs
from ivr_dist.planning.plan import Plan, make_plan
from ivr_dist.shards.manifest import Manifest


def preflight(
    config: Config, world: int, loaded: Loaded | None = None, others: Sequence[int] = ()
) -> tuple[Plan, dict[str, Manifest]]:
    """Check all that can be checked without a worker: the data sets, their shards, and how they fit the plan.

    Args:
        config: The run's config.
        world: Its number of workers.
        loaded: The config with the origins of its values, for errors.
        others: Further numbers of workers that it must fit.

    Returns:
        The plan at this world size, and the manifests by split.

    Raises:
        UserError: Something cannot work as given; several errors are raised together.
    """
    manifests, errors = _manifests(config)
    if not config.data.train:
        errors.append(ConfigError("data.train is empty", where="data.train", remedy="set it to a packed split"))
    if "train" in manifests:
        errors += _faults(config, manifests, [world, *others], loaded)
    errors += extension_faults(config, manifests.get("train"))
    raise_together(errors, loaded.path if loaded else "")
    train = manifests["train"]
    return make_plan(config, train.samples, world, train.total_bytes), manifests


def further_faults(loaded: Loaded) -> list[UserError]:
    """Check the data of a config that already has errors, so that all errors are reported together."""
    config = loaded.config
    if not config.data.train:
        return []
    if config.train.global_batch % (config.group * (config.train.accumulation or 1)):
        # Reported already.
        consistency = replace(config.loss.consistency, group=None)
        config = replace(
            config,
            loss=replace(config.loss, consistency=consistency),
            train=replace(config.train, accumulation=None),
        )
    worlds = config.run.world_sizes
    errors = _caught(preflight, config, worlds[-1], loaded, worlds[:-1])
    return [each for error in errors for each in (error.faults if isinstance(error, FaultsError) else (error,))]


def absolute(config: Config) -> Config:
    """Make every path of a config absolute: workers have another working directory."""

    def to_absolute(url: str) -> str:
        return storage.absolute(url) if url else ""

    data, run, text = config.data, config.run, config.model.text
    if folder := local_folder(text.pretrained):
        text = replace(text, pretrained=str(folder.resolve()))
    resume = run.resume if run.resume in ("auto", "never") else to_absolute(run.resume)
    return replace(
        config,
        data=replace(
            data,
            train=to_absolute(data.train),
            valid=to_absolute(data.valid),
            test=to_absolute(data.test),
            exclude=to_absolute(data.exclude),
        ),
        run=replace(run, dir=to_absolute(run.dir), resume=resume),
        model=replace(config.model, text=text),
    )


def count_parameters(config: Config, train: Manifest) -> int:
    """Count the trainable parameters of the model for a training split, without allocating them.

    Raises:
        DataError: The split does not have what the config requires.
        ConfigError: The config of the pretrained text encoder cannot be read.
    """
    import torch

    from ivr_dist.data.batches.collate import BatchSpec
    from ivr_dist.model.build import build_model
    from ivr_dist.model.spec import ModelSpec

    source = config.model.text.pretrained
    text = TextEncoder(source, weights=False) if source else None
    spec = BatchSpec.from_manifest(train, config.data.modalities, [], text=text)
    model_spec = ModelSpec(spec.modalities, spec.tasks, text)
    try:
        with torch.device("meta"):
            model = build_model(config.model, model_spec)
    except ConfigError:
        if not config.model.class_:
            raise
        # The constructor of a model from outside may read values of tensors, which have none there.
        model = build_model(config.model, model_spec)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _manifests(config: Config) -> tuple[dict[str, Manifest], list[UserError]]:
    """Load the manifests by split, as far as they can be read; and the errors of the others."""
    manifests: dict[str, Manifest] = {}
    errors: list[UserError] = []
    for split, url in (("train", config.data.train), ("valid", config.data.valid), ("test", config.data.test)):
        if not url:
            continue

        def check(split: str = split, url: str = url) -> None:
            manifest = Manifest.load(url)
            # With data.pipe a command provides the shards, which need not be beside the manifest.
            manifest.check_shards(url, tars=not config.data.pipe)
            manifests[split] = manifest

        errors += _caught(check)
    return manifests, errors


def _faults(
    config: Config, manifests: Mapping[str, Manifest], worlds: Sequence[int], loaded: Loaded | None
) -> list[UserError]:
    """Collect the errors of a config against data that can be read."""
    train = manifests["train"]
    errors: list[UserError] = []
    for world in worlds:
        errors += _caught(make_plan, config, train.samples, world, train.total_bytes)
        if errors:
            # Other world sizes would mostly repeat them.
            break
    for split, manifest in manifests.items():
        errors += _caught(_check_like_train, config, split, manifest, train)
    if not errors:
        # Labels can be compared only between splits with the same tasks.
        errors += _caught(check_labels, manifests, config.loss.tasks, config.train.select == "best")
    errors += _caught(_check_monitor, config, manifests.get("valid"))
    errors += _modality_faults(config, train, loaded)
    errors += _leakage(config, manifests)
    if config.model.text.pretrained:
        errors += _caught(check_source, config.model.text.pretrained)
        for manifest in manifests.values():
            errors += _caught(manifest.check_transcripts)
    return [_located(error, loaded) for error in errors]


def _leakage(config: Config, manifests: Mapping[str, Manifest]) -> list[UserError]:
    """Check the list of `data.exclude`, and that no corpus of a pool is scored by what another one trains on."""
    by_key = {SplitKey("", split): manifest for split, manifest in manifests.items()}
    try:
        return list(find_left_out(config, by_key).leaks)
    except UserError as error:
        return [error]


def _caught(check: Callable[..., object], *arguments: Any) -> list[UserError]:
    """Run a check, and return the `UserError` that it raises as a list, so that further checks can run."""
    try:
        check(*arguments)
    except UserError as error:
        return [error]
    return []


def _located(error: UserError, loaded: Loaded | None) -> UserError:
    """Add the origin of the key to an error that begins with a config key; return any other unchanged."""
    origin = loaded.origins.get(error.what.partition(" ")[0]) if loaded else None
    return type(error)(error.what, where=origin, remedy=error.remedy) if origin else error


def _check_like_train(config: Config, split: str, manifest: Manifest, train: Manifest) -> None:
    differing = [m for m in config.data.modalities if manifest.features.get(m) != train.features.get(m)]
    if differing or manifest.tasks != train.tasks:
        raise DataError(
            f"the {split} split has other {differing[0] + ' features' if differing else 'tasks'} than train",
            where=getattr(config.data, split),
            remedy="pack all splits of a corpus in one run of `ivr-dist pack`",
        )


def _check_monitor(config: Config, valid: Manifest | None) -> None:
    if valid is None or not config.train.monitor:
        return
    monitored = [f"valid/{name}" for name in metrics.names(valid.corpus, valid.tasks)]
    monitored += [
        f"valid/{metrics.prefix(valid.corpus, task, valid.tasks)}/{name}"
        for task in valid.tasks
        for name in config.eval.metrics
    ]
    monitor = f"valid/{config.train.monitor.removeprefix('valid/')}"
    if monitor not in monitored:
        raise ConfigError(
            f"train.monitor = {config.train.monitor} is not a metric of the validation split",
            where=config.data.valid,
            remedy=f"use one of {', '.join(monitored)}",
        )


def _modality_faults(config: Config, train: Manifest, loaded: Loaded | None) -> list[UserError]:
    """Return errors if no modality can be read, or one that was given on the command line is not read."""
    inputs = model_inputs(config, train)
    missing = {name: why for name, why in inputs.unused.items() if name in config.data.modalities}
    if not inputs.used:
        why = ", ".join(f"{name}: {why}" for name, why in missing.items())
        return [
            DataError(
                f"data.modalities names nothing that can be read ({why})",
                where=config.data.train,
                remedy="name at least one modality that the data set has",
            )
        ]
    if loaded is None or not loaded.overridden("data.modalities"):
        return []
    return [
        ConfigError(
            f"data.modalities names {name}, which is not read: {why}",
            where=loaded.origins["data.modalities"],
            remedy=f"leave {name} out of it",
        )
        for name, why in missing.items()
    ]
