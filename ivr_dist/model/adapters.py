"""Adapters: one input layer for each feature set of a modality, so that corpora with different features share a model.

Every adapter runs in every forward pass, on an empty tensor where the batch has no sample of its set: the gradient of
an empty product is a zero tensor, so that all ranks have gradients of the same parameters. If only the adapters that
are needed ran, ZeRO would sum gradients of different parameters, without an error where their sizes agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ivr_dist.data.batches.batch import Batch, ModalityBatch, SetSteps
from ivr_dist.model.base import FusionModel
from ivr_dist.model.spec import IVROutput, ModelSpec
from ivr_dist.model.text.word_encoder import WordEncoder
from ivr_dist.planning.pool_layout import WORDS, Input

_PREFIX = "set_"
_FEWEST = 2


def module_name(set_name: str) -> str:
    """Encode the name of a feature set as the name of a submodule, which must not contain a dot."""
    return _PREFIX + set_name.replace("%", "%25").replace(".", "%2E")


def set_name(module: str) -> str:
    """Decode the name of a submodule, the inverse of `module_name`."""
    return module.removeprefix(_PREFIX).replace("%2E", ".").replace("%25", "%")


def input_layer(form: Input, width: int) -> nn.Module:
    """Make the input layer of a feature set: an embedding of token ids, else a linear layer."""
    kind, size = form
    # One more row than the training splits have ids, for unknown ids.
    return nn.Embedding(size + 1, width) if kind == "tokens" else nn.Linear(size, width)


class Adapters(nn.ModuleDict):
    """The input layers of a modality with several feature sets.

    Args:
        sets: Kind and width of each set, in the order of their names.
        width: Width H of the encoding.
    """

    def __init__(self, sets: Mapping[str, Input], width: int) -> None:
        super().__init__({module_name(name): input_layer(form, width) for name, form in sets.items()})

    def forward(self, features: Sequence[Tensor], order: Tensor) -> Tensor:
        """Project the steps of all sets and bring them into the order of the samples.

        Args:
            features: By set: [N_s, D_s] features or [N_s] token ids; N_s may be 0.
            order: [N] index of each step of the modality in the concatenation of all sets' steps.

        Returns:
            [N, H].
        """
        projected = [self._project(layer, own) for layer, own in zip(self.values(), features, strict=True)]
        return torch.cat(projected).index_select(0, order)

    def _project(self, layer: Any, features: Tensor) -> Tensor:
        result: Tensor = layer(features)
        return result


def with_two_steps(batch: Batch) -> Batch:
    """Extend each feature set of a batch to at least two steps, for a model compiled by `torch.compile`.

    The compiler takes the sizes 0 and 1 as constants, so each combination of sets that a batch lacks would be another
    graph. No sample has the further steps, so that `order` never reads them, and no result depends on them.
    """
    modalities = {name: _extended(part) for name, part in batch.modalities.items()}
    return replace(batch, modalities=modalities)


def _extended(part: ModalityBatch) -> ModalityBatch:
    lengths = torch.tensor([len(own.features) for own in part.sets.values()], dtype=torch.long)
    missing = (_FEWEST - lengths).clamp(min=0)
    if part.order is None or not missing.any():
        return part
    number = torch.searchsorted(lengths.cumsum(0), part.order, right=True)
    order = part.order + (missing.cumsum(0) - missing).index_select(0, number)
    sets = {
        name: replace(own, features=_padded(own, steps))
        for (name, own), steps in zip(part.sets.items(), missing.tolist(), strict=True)
    }
    return replace(part, sets=sets, order=order)


def _padded(own: SetSteps, steps: int) -> Tensor:
    # Words are divided by their numbers of pieces.
    rest = (0, steps) if own.features.dim() == 1 else (0, 0, 0, steps)
    return F.pad(own.features, rest, value=0 if own.pieces is None else 1)


class AdaptedModel(FusionModel):
    """A model from outside behind the input layers of a pool: it reads one feature set a modality, H wide.

    Args:
        inner: The model, built for features of width H in all modalities.
        spec: The feature sets of the pool.
        width: H.
        words: The pretrained encoder, where a set is of words.
    """

    def __init__(self, inner: FusionModel, spec: ModelSpec, width: int, words: WordEncoder | None) -> None:
        super().__init__()
        self.inputs = nn.ModuleDict({name: Adapters(spec.inputs(name), width) for name in spec.features})
        self.inner = inner
        self.words = words
        self._kinds = {name: [kind for kind, _ in spec.inputs(name).values()] for name in spec.features}

    def forward(self, batch: Batch) -> IVROutput:
        """Project the inputs of a batch, and run the model on it."""
        modalities = {name: self._projected(name, batch.modalities[name]) for name in self.inputs}
        output: IVROutput = self.inner(replace(batch, modalities=modalities))
        return output

    def compile(self, *arguments: Any, **keywords: Any) -> None:
        """Compile the inner model alone: a graph that makes its batch would be for one number of samples."""
        self.inner.compile(*arguments, **keywords)

    def _projected(self, name: str, part: ModalityBatch) -> ModalityBatch:
        if part.sets:
            steps = list(part.sets.values())
        else:
            steps = [SetSteps(part.features.flatten(0, 1).index_select(0, part.flat), part.pieces)]
        features = [
            self._words(own) if kind == WORDS else own.features
            for kind, own in zip(self._kinds[name], steps, strict=True)
        ]
        order = torch.arange(len(part.flat), device=part.flat.device) if part.order is None else part.order
        flat = self.inputs[name](features, order)
        rows, length = part.mask.shape
        padded = flat.new_zeros(rows * length, flat.shape[1]).index_copy(0, part.flat, flat)
        padded = padded.view(rows, length, flat.shape[1])
        return replace(part, features=padded, pieces=None, sets={}, order=None)

    def _words(self, steps: SetSteps) -> Tensor:
        assert self.words is not None, "a set of words needs an encoder"
        words: Tensor = self.words(steps)
        return words
