"""Modality encoder: maps features or token ids of one modality to its encoded steps U."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ivr_dist.config import EncoderConfig
from ivr_dist.model.dropout import Dropout
from ivr_dist.model.padded_steps import SequenceLayout
from ivr_dist.model.positions import with_positions
from ivr_dist.model.transformer import TransformerLayer


class GruContext(nn.Module):
    """Bidirectional GRU over each sample's valid steps."""

    def __init__(self, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        between = dropout if layers > 1 else 0.0
        self.gru = nn.GRU(width, width // 2, layers, batch_first=True, bidirectional=True, dropout=between)

    def forward(self, steps: Tensor, layout: SequenceLayout) -> Tensor:
        """[N, H] to [N, H]."""
        # A GRU accepts neither an empty batch nor an empty sequence: add a sample of one zero step, and a zero step to
        # samples without any. Their results are not read, but give all parameters a (zero) gradient on every rank.
        padded = F.pad(layout.pad(steps), (0, 0, 0, 0, 0, 1))
        lengths = F.pad(layout.lengths.clamp(min=1), (0, 1), value=1)
        packed = pack_padded_sequence(padded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        mixed, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=padded.shape[1])
        return layout.unpad(mixed[:-1])


class TransformerContext(nn.Module):
    """Transformer encoder layers over each sample's valid steps, with sinusoidal positions."""

    def __init__(self, width: int, config: EncoderConfig, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerLayer(width, config.heads, width * config.feedforward, dropout) for _ in range(config.layers)
        )

    def forward(self, steps: Tensor, layout: SequenceLayout) -> Tensor:
        """[N, H] to [N, H]."""
        steps = with_positions(steps, layout)
        for layer in self.layers:
            steps = layer(steps, layout)
        return steps


class ModalityEncoder(nn.Module):
    """Input features to U = LayerNorm(ReLU(Linear(context(Linear(X))))); token ids take an embedding for the inner one.

    Args:
        layout: Kind and width of the input, as in `ModelSpec.features`.
        width: Width H of the encoding.
        config: The context encoder.
        dropout: Rate after the projection and in the context encoder.
        input_dropout: Share of steps whose input is set to 0 while training.
        feature_dropout: Share of single input values set to 0 while training.
    """

    def __init__(
        self,
        layout: tuple[str, int],
        width: int,
        config: EncoderConfig,
        *,
        dropout: float,
        input_dropout: float,
        feature_dropout: float,
    ) -> None:
        super().__init__()
        kind, features = layout
        self.input_dropout = input_dropout
        self.feature_dropout = Dropout(feature_dropout)
        # One more row than the training split has ids, for unknown ids.
        self.embed = nn.Embedding(features + 1, width) if kind == "tokens" else None
        self.project = None if kind == "tokens" else nn.Linear(features, width)
        self.context: nn.Module | None = None
        if config.kind == "gru":
            self.context = GruContext(width, config.layers, dropout)
        elif config.kind == "transformer":
            self.context = TransformerContext(width, config, dropout)
        self.dropout = Dropout(dropout)
        self.encode = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor, layout: SequenceLayout) -> Tensor:
        """Encode features [N, D] or token ids [N] of the valid steps: [N, H]."""
        steps = features.to(self.encode.weight.dtype) if self.embed is None else self.embed(features)
        if self.training and self.input_dropout > 0:
            steps = steps * (torch.rand(len(steps), 1, device=steps.device) >= self.input_dropout)
        steps = self.feature_dropout(steps)
        steps = self.dropout(steps if self.project is None else self.project(steps))
        if self.context is not None:
            steps = self.context(steps, layout)
        out: Tensor = self.norm(torch.relu(self.encode(steps)))
        return out
