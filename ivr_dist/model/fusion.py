"""Fusion: cross attention from text to the other modalities, whose results pass a gate driven by the invariant codes.

Modalities need not share a time axis. The gate compares the invariant codes of text and of modality m at each text
step; those of m are brought to the text's steps by the weights of the cross attention itself, head by head. If both
have one step per word this is a soft version of comparing the same step; a single step (an utterance-level vector) is
compared with every word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ivr_dist.config import FusionConfig
from ivr_dist.model.attention import Attention
from ivr_dist.model.dropout import Dropout
from ivr_dist.model.numerics import at_least_float32, unit_norm
from ivr_dist.model.padded_steps import SequenceLayout, with_positions
from ivr_dist.model.transformer import TransformerLayer

_FACTORS = 2
_POOLED = 32


class Gate(nn.Module):
    """Factorized bilinear pooling of two invariant codes (Yu et al. 2017) to one number in [0, 1] a step.

    A fresh gate is about half open: its bias is 0 and the pooled vector has norm 1. The kind `hard` has gradient 0, as
    in the released code.
    """

    def __init__(self, width: int, dropout: float, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.other = nn.Linear(width, _FACTORS * _POOLED, bias=False)
        self.text = nn.Linear(width, _FACTORS * _POOLED, bias=False)
        self.dropout = Dropout(dropout)
        self.score = nn.Linear(_POOLED, 1)
        nn.init.zeros_(self.score.bias)

    def forward(self, other: Tensor, text: Tensor) -> Tensor:
        """Two codes [N, H] to [N]."""
        product = self.dropout(self.other(other) * self.text(text)).unflatten(-1, (_POOLED, _FACTORS)).sum(dim=-1)
        soft = torch.sigmoid(self.score(unit_norm(product))).squeeze(-1)
        if self.kind == "sigmoid":
            return soft
        hard = (soft > 0.5).to(soft.dtype)
        # Adding zeros keeps the graph, so that the same parameters have a gradient on all ranks.
        return hard + (0 * soft if self.kind == "hard" else soft - soft.detach())


class Placeholder(nn.Module):
    """The learned codes of the query step of samples without text."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(2, width) * 0.02)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Shared and private code, each repeated for the rows of [B, ...]: [B, H] in (0, 1)."""
        shared, private = torch.sigmoid(self.codes)[:, None].expand(-1, len(rows), -1)
        return shared, private


class CrossModal(nn.Module):
    """Cross attention from text to one modality, gated and added to the text."""

    def __init__(self, width: int, heads: int, gate: str, dropout: float, gate_dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.gate = None if gate == "none" else Gate(width, gate_dropout, gate)
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        query: Tensor,
        text_shared: Tensor,
        query_layout: SequenceLayout,
        content: Tensor,
        shared: Tensor,
        key_layout: SequenceLayout,
    ) -> tuple[Tensor, Tensor]:
        """Fuse one modality into the query steps.

        Args:
            query: [N_q, H] text content with positions.
            text_shared: [N_q, H] invariant codes of text.
            query_layout: Layout of these steps.
            content: [N_m, H] content of the modality with positions.
            shared: [N_m, H] its invariant codes.
            key_layout: Layout of the modality's steps.

        Returns:
            [N_q, H] the fused steps, and [N_q] the gate.
        """
        answer, aligned = self.attention(query, query_layout, content, key_layout, shared)
        opened = key_layout.present.index_select(0, query_layout.sample).to(answer.dtype)
        if self.gate is not None:
            opened = opened * self.gate(aligned, text_shared)
        return self.norm(opened[:, None] * answer + query), opened


class Fusion(nn.Module):
    """Fusion of all modalities to one vector per sample, [B, H]."""

    def __init__(self, width: int, others: Sequence[str], config: FusionConfig, rates: Mapping[str, float]) -> None:
        super().__init__()
        self.config = config
        self.placeholder = Placeholder(width)
        self.cross = nn.ModuleDict(
            {name: CrossModal(width, config.heads, config.gate, rates["cross"], rates["gate"]) for name in others}
        )
        self.norm_text = None if others else nn.LayerNorm(width)
        fused = width * max(len(others), 1)
        self.layers = nn.ModuleList(
            TransformerLayer(fused, config.heads, 4 * fused, rates["encoder"]) for _ in range(config.layers)
        )
        # Without a bias, which the softmax over the steps would cancel.
        self.pool = nn.Linear(fused, 1, bias=False) if config.pooling == "attention" else None
        self.reduce = nn.Linear(fused, width)
        self.dropout = Dropout(rates["head"])

    def forward(
        self,
        codes: Mapping[str, tuple[Tensor, Tensor]],
        layouts: Mapping[str, SequenceLayout],
        query_layout: SequenceLayout,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Fuse.

        Args:
            codes: By modality: shared and private codes [N_m, H].
            layouts: By modality: layout of its steps.
            query_layout: The steps of text followed by the placeholders.

        Returns:
            [B, H], and by modality other than text the gate [B, T_q].
        """
        shared, content = self._text(codes, query_layout)
        query = self._placed(content, query_layout)
        parts, gates = [], {}
        for name, cross in self.cross.items():
            own = self._placed(self._content(*codes[name]), layouts[name])
            part, gate = cross(query, shared, query_layout, own, codes[name][0], layouts[name])
            parts.append(part)
            gates[name] = query_layout.pad(gate * query_layout.counted)
        steps = torch.cat(parts, dim=-1) if self.norm_text is None else self.norm_text(query)
        for layer in self.layers:
            steps = layer(steps, query_layout)
        return torch.relu(self.dropout(self.reduce(self._pooled(steps, query_layout).to(steps.dtype)))), gates

    def _text(self, codes: Mapping[str, tuple[Tensor, Tensor]], query_layout: SequenceLayout) -> tuple[Tensor, Tensor]:
        """Shared codes and content of text and placeholders, [N_q, H] each."""
        shared, private = self.placeholder(query_layout.mask)
        if "text" in codes:
            shared, private = torch.cat([codes["text"][0], shared]), torch.cat([codes["text"][1], private])
        return shared, self._content(shared, private)

    def _placed(self, content: Tensor, layout: SequenceLayout) -> Tensor:
        return with_positions(content, layout) if self.config.positions else content

    def _content(self, shared: Tensor, private: Tensor) -> Tensor:
        if self.config.content == "both":
            return shared + private
        return shared if self.config.content == "shared" else private

    def _pooled(self, steps: Tensor, query_layout: SequenceLayout) -> Tensor:
        """Pool [N_q, H] to [B, H]; every sample has at least one counted step."""
        if self.config.pooling == "first":
            return query_layout.total(steps * (query_layout.position == 0)[:, None])
        if self.config.pooling == "max":
            return query_layout.pad(steps).masked_fill(~query_layout.mask[..., None], float("-inf")).amax(dim=1)
        if self.pool is None:
            return query_layout.mean(steps)
        scores = (
            query_layout.pad(at_least_float32(self.pool(steps)))
            .squeeze(-1)
            .masked_fill(~query_layout.mask, float("-inf"))
        )
        weights = query_layout.unpad(torch.softmax(scores, dim=1)[..., None])
        return query_layout.total(steps * weights)
