"""Transformer encoder layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ivr_dist.model.attention import Attention
from ivr_dist.model.dropout import Dropout
from ivr_dist.model.feedforward import FeedForward
from ivr_dist.model.padded_steps import SequenceLayout


class TransformerLayer(nn.Module):
    """Post-norm encoder layer (Vaswani et al. 2017) over each sample's counted steps."""

    recompute = False
    """Activation checkpointing: whether to recompute the layer in the backward pass instead of storing activations."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.norm_attention = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, feedforward, dropout)
        self.norm_feedforward = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, steps: Tensor, layout: SequenceLayout) -> Tensor:
        """[N, H] to [N, H]."""
        if self.recompute and self.training and torch.is_grad_enabled():
            result: Tensor = checkpoint(self._layer, steps, layout, use_reentrant=False)
            return result
        return self._layer(steps, layout)

    def _layer(self, steps: Tensor, layout: SequenceLayout) -> Tensor:
        attended, _ = self.attention(steps, layout, steps, layout)
        steps = self.norm_attention(steps + attended)
        out: Tensor = self.norm_feedforward(steps + self.dropout(self.feedforward(steps)))
        return out
