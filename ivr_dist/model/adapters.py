"""Adapters: one input layer for each feature set of a modality, so that corpora with different features share a model.

Every adapter runs in every forward pass, on an empty tensor where the batch has no sample of its set: the gradient of
an empty product is a zero tensor, so that all ranks have gradients of the same parameters. If only the adapters that
are needed ran, ZeRO would sum gradients of different parameters, without an error where their sizes agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ivr_dist.planning.pool_layout import Input

_PREFIX = "set_"


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

    has_empty_inputs: ClassVar[bool] = True
    """Kept out of compiled graphs, which would be compiled again for each set that is empty."""

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
