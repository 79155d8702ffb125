"""Preflight checks: the data sets, their shards, and how the config fits them, before any worker starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from ivr_dist import storage
from ivr_dist.config import Config, CorpusConfig
from ivr_dist.config.corpora import is_pool, simplified, split_urls, trained, url_of, with_splits
from ivr_dist.config.loading import Loaded
from ivr_dist.data.left_out import find_left_out
from ivr_dist.errors import ConfigError, DataError, FaultsError, UserError, raise_together
from ivr_dist.evaluation import metrics
from ivr_dist.model.text.text_encoder import TextEncoder, check_source, local_folder
from ivr_dist.orchestration.extension_check import extension_faults
from ivr_dist.orchestration.pool_preflight import caught, pool_faults
from ivr_dist.planning.label_check import check_labels
from ivr_dist.planning.model_inputs import model_inputs
from ivr_dist.planning.plan import Plan, plan_run
from ivr_dist.planning.pool_layout import pool_layout
from ivr_dist.shards.manifest import MANIFEST_NAME, Manifest


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
    if not trained(config):
        errors.append(ConfigError("data.train is empty", where="data.train", remedy="set it to a packed split"))
    if is_pool(config):
        if not errors:
            errors += pool_faults(config, manifests, [world, *others])
    elif "train" in manifests:
        errors += _faults(config, manifests, [world, *others], loaded)
    errors += extension_faults(config, manifests.get("train"))
    raise_together(errors, loaded.path if loaded else "")
    return plan_run(config, manifests, world), manifests


def further_faults(loaded: Loaded) -> list[UserError]:
    """Check the data of a config that already has errors, so that all errors are reported together."""
    config = resolved(loaded.config)
    if not trained(config):
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
    errors = caught(preflight, config, worlds[-1], loaded, worlds[:-1])
    return [each for error in errors for each in (error.faults if isinstance(error, FaultsError) else (error,))]


def resolved(config: Config) -> Config:
    """Name the splits of `data.corpora` that are below `dir`, and write a pool of one corpus as `data.train`.

    Raises:
        StorageError: A directory cannot be listed.
    """
    corpora: dict[str, CorpusConfig | None] = {}
    for name, entry in config.data.corpora.items():
        if entry is None:
            continue
        corpora[name] = with_splits(entry, partial(_existing, entry))
    return simplified(replace(config, data=replace(config.data, corpora=corpora)))


def _existing(entry: CorpusConfig, split: str) -> str:
    """Path or URL of a split; empty if only `dir` names it and it is not there."""
    url = url_of(entry, split)
    given = getattr(entry, split) is not None
    return url if given or (url and storage.exists(storage.join(url, MANIFEST_NAME))) else ""


def absolute(config: Config) -> Config:
    """Make every path of a config absolute: workers have another working directory."""
    config = resolved(config)
    data, run, text = config.data, config.run, config.model.text
    if folder := local_folder(text.pretrained):
        text = replace(text, pretrained=str(folder.resolve()))
    text = replace(text, states_dir=_absolute(text.states_dir))
    resume = run.resume if run.resume in ("auto", "never") else _absolute(run.resume)
    return replace(
        config,
        data=replace(
            data,
            train=_absolute(data.train),
            valid=_absolute(data.valid),
            test=_absolute(data.test),
            exclude=_absolute(data.exclude),
            corpora={name: _absolute_splits(entry) for name, entry in data.corpora.items() if entry is not None},
        ),
        run=replace(run, dir=_absolute(run.dir), resume=resume),
        model=replace(config.model, text=text),
        train=replace(config.train, init_from=_absolute(config.train.init_from)),
    )


def _absolute(url: str) -> str:
    return storage.absolute(url) if url else ""


def _absolute_splits(entry: CorpusConfig) -> CorpusConfig:
    return with_splits(entry, lambda split: _absolute(url_of(entry, split)))


def count_parameters(config: Config, manifests: Mapping[str, Manifest]) -> int:
    """Count the trainable parameters of the model for the data of a run, without allocating them.

    Raises:
        DataError: The split does not have what the config requires.
        ConfigError: The config of the pretrained text encoder cannot be read.
    """
    import torch

    from ivr_dist.model.build import build_model
    from ivr_dist.model.spec import ModelSpec

    source = config.model.text.pretrained
    text = TextEncoder(source, weights=False) if source else None
    layout = pool_layout(config, manifests, text.width if text is not None else None)
    model_spec = ModelSpec.of(layout, text)
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
    for split, url in split_urls(config).items():

        def check(split: str = split, url: str = url) -> None:
            manifest = Manifest.load(url)
            # With data.pipe a command provides the shards, which need not be beside the manifest.
            manifest.check_shards(url, tars=not config.data.pipe)
            manifests[split] = manifest

        errors += caught(check)
    return manifests, errors


def _faults(
    config: Config, manifests: Mapping[str, Manifest], worlds: Sequence[int], loaded: Loaded | None
) -> list[UserError]:
    """Collect the errors of a config against data that can be read."""
    train = manifests["train"]
    errors: list[UserError] = []
    for world in worlds:
        errors += caught(plan_run, config, manifests, world)
        if errors:
            # Other world sizes would mostly repeat them.
            break
    for split, manifest in manifests.items():
        errors += caught(_check_like_train, config, split, manifest, train)
    if not errors:
        # Labels can be compared only between splits with the same tasks.
        errors += caught(check_labels, manifests, config.loss.tasks, config.train.select == "best")
    errors += caught(_check_monitor, config, manifests.get("valid"))
    errors += _modality_faults(config, train, loaded)
    errors += caught(find_left_out, config, manifests)
    if config.model.text.pretrained:
        errors += caught(check_source, config.model.text.pretrained)
        for manifest in manifests.values():
            errors += caught(manifest.check_transcripts)
    return [_located(error, loaded) for error in errors]


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
