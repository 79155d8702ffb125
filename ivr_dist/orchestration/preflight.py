"""What can be checked before workers start: the data sets, their shards, and how the config fits them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ivr_dist import storage
from ivr_dist.config import Config
from ivr_dist.config.loading import Loaded
from ivr_dist.errors import ConfigError, DataError, FaultsError, UserError, raise_together
from ivr_dist.evaluation import metrics
from ivr_dist.model.text_encoder import TextEncoder, check_source, local_folder
from ivr_dist.planning.label_check import check_labels
from ivr_dist.planning.model_inputs import reading
from ivr_dist.planning.plan import Plan, make_plan
from ivr_dist.shards.manifest import Manifest


def preflight(
    config: Config, world: int, loaded: Loaded | None = None, others: Sequence[int] = ()
) -> tuple[Plan, dict[str, Manifest]]:
    """Everything that can be wrong without a worker: data sets, their shards, and how they fit the plan.

    Args:
        config: The run's config.
        world: Its number of workers.
        loaded: Where the config came from, which errors then tell.
        others: Other numbers of workers that it must fit as well.

    Returns:
        The plan at this world size, and the manifests by split.

    Raises:
        UserError: Something cannot work as given; of several faults all are told.
    """
    manifests, found = _manifests(config)
    if not config.data.train:
        found.append(ConfigError("data.train is empty", where="data.train", remedy="set it to a packed split"))
    if "train" in manifests:
        found += _faults(config, manifests, [world, *others], loaded)
    raise_together(found, loaded.place if loaded else "")
    train = manifests["train"]
    return make_plan(config, train.samples, world, train.total_bytes), manifests


def further_faults(loaded: Loaded) -> list[UserError]:
    """What the data say against a config that has faults of its own; nothing where it names none."""
    config = loaded.config
    if not config.data.train:
        return []
    if config.train.global_batch % (config.group * (config.train.accumulation or 1)):
        # Told already.
        consistency = replace(config.loss.consistency, group=None)
        config = replace(
            config,
            loss=replace(config.loss, consistency=consistency),
            train=replace(config.train, accumulation=None),
        )
    worlds = config.run.world_sizes
    found = _caught(preflight, config, worlds[-1], loaded, worlds[:-1])
    return [each for fault in found for each in (fault.faults if isinstance(fault, FaultsError) else (fault,))]


def absolute(config: Config) -> Config:
    """The config with every place written so that it means the same in a worker's working directory."""

    def place(url: str) -> str:
        return storage.absolute(url) if url else ""

    data, run, text = config.data, config.run, config.model.text
    if folder := local_folder(text.pretrained):
        text = replace(text, pretrained=str(folder.resolve()))
    resume = run.resume if run.resume in ("auto", "never") else place(run.resume)
    return replace(
        config,
        data=replace(data, train=place(data.train), valid=place(data.valid), test=place(data.test)),
        run=replace(run, dir=place(run.dir), resume=resume),
        model=replace(config.model, text=text),
    )


def count_parameters(config: Config, train: Manifest) -> int:
    """Trainable parameters of the model for a training split; no memory is taken for them.

    Raises:
        DataError: The split does not hold what the config asks for.
        ConfigError: The pretrained text encoder cannot be described.
    """
    import torch

    from ivr_dist.data.batches.collate import BatchSpec
    from ivr_dist.model.build import build_model
    from ivr_dist.model.spec import ModelSpec

    source = config.model.text.pretrained
    text = TextEncoder(source, weights=False) if source else None
    spec = BatchSpec.from_manifest(train, config.data.modalities, [], text=text)
    with torch.device("meta"):
        model = build_model(config.model, ModelSpec(spec.modalities, spec.tasks, text))
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _manifests(config: Config) -> tuple[dict[str, Manifest], list[UserError]]:
    """By split, as far as they can be read, and what is wrong with the others."""
    manifests: dict[str, Manifest] = {}
    found: list[UserError] = []
    for split, url in (("train", config.data.train), ("valid", config.data.valid), ("test", config.data.test)):
        if not url:
            continue

        def look(split: str = split, url: str = url) -> None:
            manifest = Manifest.load(url)
            # What a command gives need not be beside the manifest.
            manifest.check_shards(url, tars=not config.data.pipe)
            manifests[split] = manifest

        found += _caught(look)
    return manifests, found


def _faults(
    config: Config, manifests: Mapping[str, Manifest], worlds: Sequence[int], loaded: Loaded | None
) -> list[UserError]:
    """How a config does not fit data that can be read."""
    train = manifests["train"]
    found: list[UserError] = []
    for world in worlds:
        found += _caught(make_plan, config, train.samples, world, train.total_bytes)
        if found:
            # The others have little else to say.
            break
    for split, manifest in manifests.items():
        found += _caught(_check_like_train, config, split, manifest, train)
    if not found:
        # Of splits that have other tasks than train nothing can be said.
        found += _caught(check_labels, manifests, config.loss.tasks, config.train.select == "best")
    found += _caught(_check_monitor, config, manifests.get("valid"))
    found += _modality_faults(config, train, loaded)
    if config.model.text.pretrained:
        found += _caught(check_source, config.model.text.pretrained)
        for manifest in manifests.values():
            found += _caught(manifest.check_transcripts)
    return [_placed(fault, loaded) for fault in found]


def _caught(check: Callable[..., object], *arguments: Any) -> list[UserError]:
    """What a check raises for the user, as a list, so that the next one is made too."""
    try:
        check(*arguments)
    except UserError as error:
        return [error]
    return []


def _placed(fault: UserError, loaded: Loaded | None) -> UserError:
    """A fault with the place where the key was set that it begins with; other faults as they are."""
    origin = loaded.origins.get(fault.what.partition(" ")[0]) if loaded else None
    return type(fault)(fault.what, where=origin, remedy=fault.remedy) if origin else fault


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
    known = [f"valid/{name}" for name in metrics.names(valid.corpus, valid.tasks)]
    asked = f"valid/{config.train.monitor.removeprefix('valid/')}"
    if asked not in known:
        raise ConfigError(
            f"train.monitor = {config.train.monitor} is not a metric of the validation split",
            where=config.data.valid,
            remedy=f"use one of {', '.join(known)}",
        )


def _modality_faults(config: Config, train: Manifest, loaded: Loaded | None) -> list[UserError]:
    """Nothing to read; or something that was asked for on the command line and is not read."""
    read = reading(config, train)
    missing = {name: why for name, why in read.unused.items() if name in config.data.modalities}
    if not read.used:
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
