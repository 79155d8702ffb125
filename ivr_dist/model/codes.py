"""Codes and what is asked of them: their modality, and their content."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ivr_dist.data.batch import MODALITIES
from ivr_dist.model.layers import unit_norm, wide


class Code(nn.Module):
    """sigmoid(Linear(U)): one code of each step, in (0, 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, encoded: Tensor) -> Tensor:
        """[N, H] to [N, H]."""
        return torch.sigmoid(self.linear(encoded))


class Discriminator(nn.Module):
    """Tells the modality of a code by its cosine to three class weights (additive-margin softmax, Wang et al. 2018)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.classes = nn.Parameter(torch.empty(len(MODALITIES), width))
        nn.init.xavier_uniform_(self.classes)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """[R, H] to [R, 3] cosines, and the squared norm of the class weights; float32 or wider, also in autocast."""
        features = self.dropout(torch.relu(self.hidden(pooled.to(self.hidden.weight.dtype))))
        with torch.autocast(features.device.type, enabled=False):
            # The softmax multiplies the cosines by 30: half precision would leave them one good digit.
            classes = wide(self.classes)
            return unit_norm(wide(features)) @ unit_norm(classes).T, classes.square().sum()
