"""Invariant and private codes of each step, the modality discriminator, and the reconstruction from the codes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.model.dropout import Dropout
from ivr_dist.model.numerics import at_least_float32, reverse_gradient, unit_norm
from ivr_dist.model.padded_steps import SequenceLayout


class Code(nn.Module):
    """sigmoid(Linear(U)): one code of each step, in (0, 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, encoded: Tensor) -> Tensor:
        """[N, H] to [N, H]."""
        return torch.sigmoid(self.linear(encoded))


def codes_of_all(code: Code, encoded: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Apply one code layer to all modalities in one product: by modality [N, H] to [N, H]."""
    joined = code(torch.cat(list(encoded.values())))
    parts = torch.split(joined, [len(steps) for steps in encoded.values()])
    return dict(zip(encoded, parts, strict=True))


def pooled_codes(
    shared: Mapping[str, Tensor], private: Mapping[str, Tensor], layouts: Mapping[str, SequenceLayout]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Average both codes over time, by modality: [N, H] to [B, H]."""
    both = {name: layouts[name].mean(torch.cat([shared[name], private[name]], dim=1)) for name in shared}
    halves = {name: means.chunk(2, dim=1) for name, means in both.items()}
    return {name: half[0] for name, half in halves.items()}, {name: half[1] for name, half in halves.items()}


def reconstructions(
    layers: nn.ModuleDict,
    shared: Mapping[str, Tensor],
    private: Mapping[str, Tensor],
    means_of: Mapping[str, SequenceLayout] | None = None,
) -> dict[str, Tensor]:
    """Reconstruct the encoded steps: each modality's linear layer on the sum of both codes.

    Args:
        layers: By modality.
        shared: By modality: [N, H] of each step, or [B, H] time means.
        private: The same.
        means_of: Layouts of the steps if the codes are time means: each step gets the result of its sample's mean.

    Returns:
        By modality: [N, H] for each step.
    """
    sums = {name: shared[name] + private[name] for name in layers}
    results = {name: layer(sums[name].to(layer.get_parameter("weight").dtype)) for name, layer in layers.items()}
    if means_of is None:
        return results
    return {name: rows.index_select(0, means_of[name].sample) for name, rows in results.items()}


class Discriminator(nn.Module):
    """Classifies the modality of a code by cosine to class weights (additive-margin softmax, Wang et al. 2018)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.dropout = Dropout(dropout)
        self.classes = nn.Parameter(torch.empty(len(MODALITIES), width))
        nn.init.xavier_uniform_(self.classes)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """[R, H] to [R, 3] cosines, and the squared norm of the class weights; float32 or wider, also in autocast."""
        features = self.dropout(torch.relu(self.hidden(pooled.to(self.hidden.weight.dtype))))
        with torch.autocast(features.device.type, enabled=False):
            # The softmax multiplies the cosines by 30: half precision would leave one significant digit.
            classes = at_least_float32(self.classes)
            return unit_norm(at_least_float32(features)) @ unit_norm(classes).T, classes.square().sum()


def discriminate(
    discriminator: Discriminator, shared: Mapping[str, Tensor], private: Mapping[str, Tensor], reverse: str
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Run the discriminator once over the time means of all codes.

    Args:
        discriminator: The discriminator.
        shared: By modality: [B, H] of the invariant codes; their gradient is reversed.
        private: By modality: [B, H] of the private codes.
        reverse: `both` reverses the private codes' gradient too, `shared` does not.

    Returns:
        By modality [B, 3] cosines for the invariant and for the private codes, and the class weights' squared norm.
    """
    turned = [reverse_gradient(code) if reverse == "both" else code for code in private.values()]
    pooled = [reverse_gradient(code) for code in shared.values()] + turned
    cosines, penalty = discriminator(torch.cat(pooled))
    rows = cosines.split([len(code) for code in pooled])
    half = len(shared)
    return dict(zip(shared, rows[:half], strict=True)), dict(zip(private, rows[half:], strict=True)), penalty
