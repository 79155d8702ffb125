"""The authors' released model, preset `release` (docs/method.md), for parity and comparison.

Nothing is masked: batches come with all modalities padded to one length, and every step counts. Parameters of the
released code that are never read, and so never get a gradient, are left out; those of its gate are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config import LossConfig, ModelConfig
from ivr_dist.data.batches.batch import Batch
from ivr_dist.errors import ConfigError
from ivr_dist.model.attention import Attention
from ivr_dist.model.base import FusionModel
from ivr_dist.model.codes import Code, Discriminator, codes_of_all, discriminate, pooled_codes, reconstructions
from ivr_dist.model.dropout import Dropout, dropout_rates
from ivr_dist.model.feedforward import FeedForward
from ivr_dist.model.heads import TaskHeads
from ivr_dist.model.numerics import at_least_float32
from ivr_dist.model.padded_steps import SequenceLayout, with_positions
from ivr_dist.model.spec import IVROutput, ModelSpec

_OTHERS = ("audio", "vision")
_FEEDFORWARD = 2048
_FACTORS = 2
_POOLED = 32


class EncoderLayer(nn.Module):
    """Post-norm Transformer encoder layer as PyTorch has it by default; no positions, no mask.

    Args:
        width: D.
        heads: Attention heads; 1 if they do not divide the width.
        dropout: One rate for attention weights, both residual branches and the feed-forward layer.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads if width % heads == 0 else 1
        self.project = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.norm_attention = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, _FEEDFORWARD, dropout)
        self.norm_feedforward = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        nn.init.zeros_(self.output.bias)

    def forward(self, steps: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        steps = self.norm_attention(steps + self.dropout(self.output(self._attend(steps))))
        out: Tensor = self.norm_feedforward(steps + self.dropout(self.feedforward(steps)))
        return out

    def _attend(self, steps: Tensor) -> Tensor:
        batch, length, width = steps.shape
        part = width // self.heads
        projected = self.project(steps).view(batch, length, 3, self.heads, part)
        query, key, value = projected.permute(2, 0, 3, 1, 4).flatten(1, 2).unbind()
        weights = torch.softmax(torch.bmm(query * part**-0.5, key.transpose(1, 2)), dim=-1)
        mixed = torch.bmm(self.dropout(weights).to(value.dtype), value)
        return mixed.view(batch, self.heads, length, part).transpose(1, 2).reshape(batch, length, width)


class ReleaseEncoder(nn.Module):
    """One modality's features to U = LayerNorm(ReLU(Linear(context(X)))); text has no context encoder."""

    def __init__(self, features: int, width: int, context: EncoderLayer | None) -> None:
        super().__init__()
        self.context = context
        self.encode = nn.Linear(features, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        """[B, T, D] to the encoding of all steps [B * T, H]."""
        steps = features.to(self.encode.weight.dtype)
        if self.context is not None:
            steps = self.context(steps)
        out: Tensor = self.norm(torch.relu(self.encode(steps.flatten(0, 1))))
        return out


class Bilinear(nn.Module):
    """Factorized bilinear pooling of two codes (Yu et al. 2017) to a vector of norm 1."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.other = nn.Linear(width, _FACTORS * _POOLED, bias=False)
        self.text = nn.Linear(width, _FACTORS * _POOLED, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, other: Tensor, text: Tensor) -> Tensor:
        """Two codes [N, H] to [N, 32]; 0 stays 0."""
        product = at_least_float32(self.dropout(self.other(other) * self.text(text)))
        pooled = product.view(-1, _POOLED, _FACTORS).sum(dim=-1)
        # Detached: the gate has gradient 0, but 0 times the infinite gradient of a vanishing norm would be nan.
        norm = torch.linalg.vector_norm(pooled.detach(), dim=-1, keepdim=True)
        return pooled / torch.where(norm > 0, norm, 1.0)


class ReleaseFusion(nn.Module):
    """Fusion to one vector per sample, [B, H]: cross attention from text to the others, and a 0-1 gate."""

    def __init__(self, width: int, heads: int, rates: dict[str, float]) -> None:
        super().__init__()
        self.cross = nn.ModuleDict({name: Attention(width, heads, rates["cross"]) for name in _OTHERS})
        self.bilinear = nn.ModuleDict({name: Bilinear(width, rates["gate"]) for name in _OTHERS})
        self.score = nn.Linear(_POOLED, 1)
        self.norm = nn.ModuleDict({name: nn.LayerNorm(width) for name in _OTHERS})
        self.layer = EncoderLayer(2 * width, 1, rates["encoder"])
        self.reduce = nn.Linear(2 * width, width)
        self.dropout = Dropout(rates["head"])

    def forward(
        self, codes: dict[str, tuple[Tensor, Tensor]], layout: SequenceLayout
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Fuse.

        Args:
            codes: By modality: shared and private codes [B * T, H].
            layout: Layout of the steps, the same for all modalities.

        Returns:
            [B, H], and by modality other than text the gate [B, T].
        """
        placed = {name: with_positions(private, layout) for name, (_, private) in codes.items()}
        query, parts, gates = placed["text"], [], {}
        for name in _OTHERS:
            answer, _ = self.cross[name](query, layout, placed[name], layout)
            gate = self._gate(self.bilinear[name](codes[name][0], codes["text"][0]))
            parts.append(self.norm[name](gate.to(answer.dtype) * answer + query))
            gates[name] = layout.pad(gate.squeeze(-1))
        fused = self.layer(layout.pad(torch.cat(parts, dim=-1))).mean(dim=1)
        return torch.relu(self.dropout(self.reduce(fused))), gates

    def _gate(self, pooled: Tensor) -> Tensor:
        """[N, 32] to [N, 1]: 1 where tanh(w z + b) > 0, else 0; its derivative is 0, as released."""
        soft = torch.tanh(self.score(pooled.to(self.score.weight.dtype)))
        # Adding zeros keeps the graph, so that the same parameters have a gradient on all ranks.
        return (soft > 0).to(soft.dtype) + 0 * soft


class ReleaseModel(FusionModel):
    """Encoders, codes, discriminator, reconstruction, fusion and task heads of the released code.

    Args:
        config: Width, heads, dropout; the rest is fixed by the preset.
        spec: Text, audio and vision as features, and tasks.
        loss: Codes whose gradient the discriminator's input reverses, and whether single steps are reconstructed.

    Raises:
        ConfigError: A modality is absent or given as tokens.
    """

    provides = IVROutput.parts()
    needs = MODALITIES

    def __init__(self, config: ModelConfig, spec: ModelSpec, loss: LossConfig) -> None:
        super().__init__()
        _check_features(spec)
        rates = dropout_rates(config)
        width, dims = config.hidden, {name: spec.features[name][1] for name in MODALITIES}
        contexts = {name: EncoderLayer(dims[name], getattr(config, name).heads, rates["encoder"]) for name in _OTHERS}
        self.loss = loss
        self.encoders = nn.ModuleDict(
            {name: ReleaseEncoder(dims[name], width, contexts.get(name)) for name in MODALITIES}
        )
        self.private = nn.ModuleDict({name: Code(width) for name in MODALITIES})
        self.shared = Code(width)
        self.discriminator = Discriminator(width, rates["discriminator"])
        self.reconstruct = nn.ModuleDict({name: nn.Linear(width, width) for name in MODALITIES})
        self.fusion = ReleaseFusion(width, config.fusion.heads, rates)
        self.heads = TaskHeads(width, spec.tasks)

    def forward(self, batch: Batch) -> IVROutput:
        """Encode, split, fuse and predict one batch of T steps in every modality, padding included; B may be 0."""
        layout = SequenceLayout.of(batch.modalities["text"])
        assert all(part.features.shape[:2] == layout.mask.shape for part in batch.modalities.values())
        encoded = {name: self.encoders[name](batch.modalities[name].features) for name in MODALITIES}
        shared = codes_of_all(self.shared, encoded)
        private = {name: self.private[name](steps) for name, steps in encoded.items()}
        branch = {name: (shared[name].view_as(shared[name]), private[name].view_as(private[name])) for name in encoded}
        fused, gates = self.fusion(branch, layout)
        layouts = dict.fromkeys(shared, layout)
        pooled = pooled_codes(shared, private, layouts)
        logits_shared, logits_private, penalty = discriminate(self.discriminator, *pooled, self.loss.adversary.reverse)
        if self.loss.reconstruction.per == "pooled":
            reconstructed = reconstructions(self.reconstruct, *pooled, layouts)
        else:
            reconstructed = reconstructions(self.reconstruct, shared, private)
        return IVROutput(
            predictions=self.heads(fused),
            encoded=encoded,
            shared=shared,
            private=private,
            branch=branch,
            logits_shared=logits_shared,
            logits_private=logits_private,
            class_penalty=penalty,
            pooled_shared=pooled[0],
            reconstructed=reconstructed,
            gates=gates,
            query_mask=layout.mask,
        )


def _check_features(spec: ModelSpec) -> None:
    for name in MODALITIES:
        kind = spec.features[name][0] if name in spec.features else "none"
        if kind != "features":
            raise ConfigError(
                f"preset release takes {name} as feature vectors, the data set has {kind}",
                where="model.preset",
                remedy=f"pack the corpus with {name} features, or use model.preset=ivr",
            )
