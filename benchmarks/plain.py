"""The released method written the plain way, as the yardstick of `step.py`: stock PyTorch layers over padded batches.

It is what one would write from the paper: `nn.TransformerEncoderLayer`, `nn.Linear`, `nn.Dropout`, no masks, every
step of every sample computed. Nothing of `ivr_dist` is used, so nothing that makes `ivr_dist` fast or slow is in it.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = {"text": 768, "audio": 74, "vision": 35}
_HEADS = {"audio": 2, "vision": 1}


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return -gradients[0]


class CrossAttention(nn.Module):
    """Four heads, projections without bias but the output's."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.2)

    def forward(self, query: Tensor, source: Tensor) -> Tensor:
        """[B, T, h] and [B, T, h] to [B, T, h]."""
        parts = [
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, query), (self.key, source), (self.value, source))
        ]
        weights = torch.softmax(parts[0] @ parts[1].transpose(-1, -2) / math.sqrt(parts[0].shape[-1]), dim=-1)
        out: Tensor = self.dropout(self.output((weights @ parts[2]).transpose(1, 2).flatten(2)))
        return out


class PlainRelease(nn.Module):
    """The released model with all its losses; the text comes encoded.

    Args:
        hidden: Width h of the codes.
        widths: Feature width by modality.
    """

    def __init__(self, hidden: int = 128, widths: dict[str, int] | None = None) -> None:
        super().__init__()
        widths = widths or WIDTHS
        self.context = nn.ModuleDict(
            {m: nn.TransformerEncoderLayer(widths[m], heads, batch_first=True) for m, heads in _HEADS.items()}
        )
        self.encode = nn.ModuleDict({m: nn.Linear(widths[m], hidden) for m in widths})
        self.norm = nn.ModuleDict({m: nn.LayerNorm(hidden) for m in widths})
        self.private = nn.ModuleDict({m: nn.Linear(hidden, hidden) for m in widths})
        self.shared = nn.Linear(hidden, hidden)
        self.discriminator = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.6))
        self.classes = nn.Parameter(torch.randn(3, hidden))
        self.reconstruct = nn.ModuleDict({m: nn.Linear(hidden, hidden) for m in widths})
        self.cross = nn.ModuleDict({m: CrossAttention(hidden) for m in _HEADS})
        self.other = nn.ModuleDict({m: nn.Linear(hidden, 64, bias=False) for m in _HEADS})
        self.text = nn.ModuleDict({m: nn.Linear(hidden, 64, bias=False) for m in _HEADS})
        self.gate = nn.Linear(32, 1)
        self.fused = nn.ModuleDict({m: nn.LayerNorm(hidden) for m in _HEADS})
        self.fusion = nn.TransformerEncoderLayer(2 * hidden, 1, batch_first=True)
        self.head = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.Dropout(0.6), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, features: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """[B, T, D] by modality and [B] to the loss by term."""
        encoded, private, shared = {}, {}, {}
        for name, x in features.items():
            steps = self.context[name](x) if name in self.context else x
            encoded[name] = self.norm[name](torch.relu(self.encode[name](steps)))
            private[name] = torch.sigmoid(self.private[name](encoded[name]))
            shared[name] = torch.sigmoid(self.shared(encoded[name]))
        return {
            "task": F.mse_loss(self._fuse(private, shared), labels),
            "adversary": self._adversary(shared) + self._adversary(private),
            "consistency": _discrepancy({m: code.mean(dim=1) for m, code in shared.items()}),
            "reconstruction": self._reconstruction(encoded, private, shared),
            "svr": _variation(private["vision"], shared["vision"]),
        }

    def _fuse(self, private: dict[str, Tensor], shared: dict[str, Tensor]) -> Tensor:
        placed = {m: code + _positions(code) for m, code in private.items()}
        parts = []
        for name in _HEADS:
            product = F.dropout(self.other[name](shared[name]) * self.text[name](shared["text"]), 0.4, self.training)
            pooled = F.normalize(product.unflatten(-1, (32, 2)).sum(dim=-1), dim=-1)
            gate = (torch.tanh(self.gate(pooled)) > 0).to(pooled.dtype)
            answer = self.cross[name](placed["text"], placed[name])
            parts.append(self.fused[name](gate * answer + placed["text"]))
        out: Tensor = self.head(self.fusion(torch.cat(parts, dim=-1)).mean(dim=1)).squeeze(-1)
        return out

    def _adversary(self, codes: dict[str, Tensor]) -> Tensor:
        terms = []
        for label, code in enumerate(codes.values()):
            features = F.normalize(self.discriminator(_Reverse.apply(code.mean(dim=1))), dim=-1)
            cosines = features @ F.normalize(self.classes, dim=-1).T
            logits = 30.0 * (cosines - 0.5 * F.one_hot(torch.tensor(label), 3))
            target = torch.full((len(logits),), label)
            terms.append(F.cross_entropy(logits, target) + 0.01 * self.classes.square().sum())
        return torch.stack(terms).mean()

    def _reconstruction(
        self, encoded: dict[str, Tensor], private: dict[str, Tensor], shared: dict[str, Tensor]
    ) -> Tensor:
        errors = [
            F.mse_loss(self.reconstruct[m]((private[m] + shared[m]).mean(dim=1))[:, None].expand_as(x), x)
            for m, x in encoded.items()
        ]
        return torch.stack(errors).mean()


def _positions(x: Tensor) -> Tensor:
    """[T, h] sinusoidal positions (Vaswani et al. 2017)."""
    steps, width = x.shape[1], x.shape[2]
    angle = torch.arange(steps)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    return torch.stack([torch.sin(angle), torch.cos(angle)], dim=-1).flatten(1)


def _discrepancy(pooled: dict[str, Tensor]) -> Tensor:
    """Central moment discrepancy (Zellinger et al. 2017) up to order 5, mean over pairs."""
    terms = []
    for x, y in combinations(pooled.values(), 2):
        total = (x.mean(dim=0) - y.mean(dim=0)).norm()
        for order in range(2, 6):
            moments = [((z - z.mean(dim=0)) ** order).mean(dim=0) for z in (x, y)]
            total = total + (moments[0] - moments[1]).norm()
        terms.append(total)
    return torch.stack(terms).mean()


def _variation(private: Tensor, shared: Tensor) -> Tensor:
    """Jensen-Shannon divergence of neighboring steps' mean distributions."""
    mean = torch.softmax(torch.cat([private, shared], dim=-1), dim=-1).mean(dim=0) + 1e-10
    p, q = mean[:-1], mean[1:]
    middle = ((p + q) / 2).log()
    return 0.5 * ((p * (p.log() - middle)).sum(dim=-1) + (q * (q.log() - middle)).sum(dim=-1)).mean()
