"""Modality encoder: maps features or token ids of one modality to its encoded steps U."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ivr_dist.config import EncoderConfig
from ivr_dist.model.adapters import Adapters, input_layer
from ivr_dist.model.dropout import Dropout
from ivr_dist.model.padded_steps import SequenceLayout, with_positions
from ivr_dist.model.transformer import TransformerLayer
from ivr_dist.planning.pool_layout import Input


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

    A modality with several feature sets has an inner layer for each (see `adapters`); all that follows is shared.

    Args:
        sets: Kind and width of the input by feature set, as in `ModelSpec.sets`.
        width: Width H of the encoding.
        config: The context encoder.
        dropout: Rate after the projection and in the context encoder.
        input_dropout: Share of steps whose input is set to 0 while training.
        feature_dropout: Share of single input values set to 0 while training.
    """

    def __init__(
        self,
        sets: Mapping[str, Input],
        width: int,
        config: EncoderConfig,
        *,
        dropout: float,
        input_dropout: float,
        feature_dropout: float,
    ) -> None:
        super().__init__()
        self.input_dropout = input_dropout
        self.feature_dropout = Dropout(feature_dropout)
        # One set keeps the names of the parameters of checkpoints without adapters.
        self.embed: nn.Module | None = None
        self.project: nn.Module | None = None
        self.adapters: Adapters | None = None
        if len(sets) > 1:
            self.adapters = Adapters(sets, width)
        else:
            ((kind, size),) = sets.values()
            layer = input_layer((kind, size), width)
            self.embed, self.project = (layer, None) if kind == "tokens" else (None, layer)
        self.context: nn.Module | None = None
        if config.kind == "gru":
            self.context = GruContext(width, config.layers, dropout)
        elif config.kind == "transformer":
            self.context = TransformerContext(width, config, dropout)
        self.dropout = Dropout(dropout)
        self.encode = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Sequence[Tensor], layout: SequenceLayout, order: Tensor | None = None) -> Tensor:
        """Encode the valid steps: [N, H].

        Args:
            features: By feature set: features [N_s, D_s] or token ids [N_s] of its steps.
            layout: Layout of all steps of the modality.
            order: [N] index of each step in the concatenation of all sets'; None where there is one set.
        """
        prepared = [self._prepared(own) for own in features]
        if self.adapters is not None:
            assert order is not None, "the batch was collated for one feature set"
            steps = self.adapters(prepared, order)
        else:
            steps = prepared[0] if self.project is None else self.project(prepared[0])
        steps = self.dropout(steps)
        if self.context is not None:
            steps = self.context(steps, layout)
        out: Tensor = self.norm(torch.relu(self.encode(steps)))
        return out

    def _prepared(self, features: Tensor) -> Tensor:
        """Apply input dropouts; token ids of the only set are embedded first, those of several by their adapters."""
        if self.embed is not None:
            steps: Tensor = self.embed(features)
        elif features.is_floating_point():
            steps = features.to(self.encode.weight.dtype)
        else:
            return features
        if self.training and self.input_dropout > 0:
            steps = steps * (torch.rand(len(steps), 1, device=steps.device) >= self.input_dropout)
        dropped: Tensor = self.feature_dropout(steps)
        return dropped
