"""Model inputs: the modalities that a run reads, their form, and why the others are unused. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config import Config
from ivr_dist.config.corpora import is_pool
from ivr_dist.planning.pool_layout import WORDS, pool_layout
from ivr_dist.shards.manifest import Manifest


@dataclass(frozen=True)
class ModelInputs:
    """The inputs of the model."""

    used: Mapping[str, str]
    """Form by modality that is read."""
    unused: Mapping[str, str]
    """Reason by modality that the data set has or the config names, but that is not read."""

    def rows(self) -> list[tuple[str, str]]:
        """Rows of the table for display."""
        used = ", ".join(f"{name} ({how})" for name, how in self.used.items())
        return [("modalities", used or "none"), *unused_rows(self.unused)]


def unused_rows(unused: Mapping[str, str]) -> list[tuple[str, str]]:
    """A row for each modality that is not read; only the first has a label."""
    return [("" if number else "not used", f"{name}: {why}") for number, (name, why) in enumerate(unused.items())]


def model_inputs(config: Config, train: Manifest) -> ModelInputs:
    """Determine the model inputs of a config on a data set.

    Args:
        config: The run's config.
        train: Manifest of the training split.
    """
    used: dict[str, str] = {}
    unused: dict[str, str] = {}
    for name in MODALITIES:
        words = name == "text" and bool(config.model.text.pretrained)
        if name in config.data.modalities and (words or name in train.features):
            used[name] = f"transcripts, by {config.model.text.pretrained}" if words else _features(config, train, name)
            continue
        why = _why_not(config, train, name)
        if why:
            unused[name] = why
    return ModelInputs(used, unused)


def run_inputs(config: Config, manifests: Mapping[str, Manifest]) -> ModelInputs:
    """Determine the model inputs of a run, by feature set where it has several corpora.

    Args:
        config: The run's config.
        manifests: Manifests of its splits, by the text of their `SplitKey`.

    Raises:
        UserError: The corpora do not fit together.
    """
    if not is_pool(config):
        return model_inputs(config, manifests["train"])
    encoder = config.model.text.pretrained
    layout = pool_layout(config, manifests, 1 if encoder else None)
    used = {}
    for modality, sets in layout.sets.items():
        scaled = ", standardized" if modality in config.data.standardize else ""
        forms = {name: _form(kind, width, encoder, scaled) for name, (kind, width) in sets.items()}
        used[modality] = "; ".join(f"{name}: {form}" for name, form in forms.items())
    unused = {}
    for corpus in layout.corpora:
        left_out = [modality for modality in used if modality not in corpus.sets]
        if left_out:
            unused[corpus.name] = f"without {' and '.join(left_out)}"
    return ModelInputs(used, unused)


def _form(kind: str, width: int, encoder: str, scaled: str) -> str:
    if kind == WORDS:
        return f"transcripts, by {encoder}"
    return f"ids of {width:,} tokens" if kind == "tokens" else f"{width}{scaled}"


def standardized(config: Config, train: Manifest) -> list[str]:
    """Modalities that are read and standardized by the statistics of the training split."""
    used = model_inputs(config, train).used
    return [name for name in used if name in config.data.standardize and _is_vectors(config, train, name)]


def _is_vectors(config: Config, train: Manifest, name: str) -> bool:
    words = name == "text" and bool(config.model.text.pretrained)
    return not words and train.features[name].kind == "features"


def _features(config: Config, train: Manifest, name: str) -> str:
    if not _is_vectors(config, train, name):
        return f"ids of {train.vocabulary.get(name, 0):,} tokens"
    scaled = ", standardized" if name in config.data.standardize else ""
    return f"{train.features[name].dim}{scaled}"


def _why_not(config: Config, train: Manifest, name: str) -> str:
    is_packed = name in train.features
    transcripts = train.transcripts if name == "text" else 0
    if name not in config.data.modalities:
        return "data.modalities leaves it out" if is_packed or transcripts else ""
    if transcripts:
        return f"{transcripts:,} transcripts are packed, but no text features; set model.text.pretrained"
    return "the data set has none"
