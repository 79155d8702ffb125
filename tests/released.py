"""Reference implementation of the released code, section by section: padded [T, B, .] tensors, loops, no masks.

Shares nothing with the package but the names of the released code's parameters.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

MODALITIES = {"text": "t", "audio": "a", "vision": "v"}


@dataclass(frozen=True)
class Sizes:
    """Of a model and a batch."""

    samples: int = 5
    steps: int = 7
    text: int = 9
    audio: int = 6
    vision: int = 5
    hidden: int = 8
    outputs: int = 1


def shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Of every parameter."""
    h = sizes.hidden
    found: dict[str, tuple[int, ...]] = {}

    def linear(name: str, rows: int, columns: int, bias: bool = True) -> None:
        found[f"{name}.weight"] = (rows, columns)
        if bias:
            found[f"{name}.bias"] = (rows,)

    def norm(name: str, width: int) -> None:
        found[f"{name}.weight"] = found[f"{name}.bias"] = (width,)

    def layer(name: str, width: int) -> None:
        for part, value in nn.TransformerEncoderLayer(width, 1).state_dict().items():
            found[f"{name}.layers.0.{part}"] = tuple(value.shape)

    for name, x in MODALITIES.items():
        linear(f"project_{x}.project_{x}", h, getattr(sizes, name))
        norm(f"project_{x}.project_{x}_layer_norm", h)
        linear(f"private_{x}.private_{x}_{3 if x == 'a' else 1}", h, h)
        linear(f"recon_{x}.recon_{x}_1", h, h)
    linear("shared.shared_1", h, h)
    linear("discriminator.discriminator_layer_1", h, h)
    found["W.discriminator_layer_2.weight"] = (3, h)
    linear("fusion.fusion_layer_1", h, 2 * h)
    linear("fusion.fusion_layer_3", sizes.outputs, h)
    layer("transformer_encoder", 2 * h)
    layer("transformer_encoder_v", sizes.vision)
    layer("transformer_encoder_a", sizes.audio)
    for number, x in ((1, "a"), (2, "v")):
        for part in ("wq", "wk", "wv"):
            linear(f"cross_attn_{x}t.{part}", h, h, bias=False)
        linear(f"cross_attn_{x}t.out_proj", h, h)
        norm(f"norm_atten{number}", h)
        linear(f"fbp_{x}t.fusion_1_matrix", 64, h, bias=False)
        linear(f"fbp_{x}t.fusion_2_matrix", 64, h, bias=False)
    linear("fc_gate_at", 1, 32)
    return found


def draw(sizes: Sizes, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs and parameters, float64 with values that float32 can hold."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).float().double()

    inputs = {"text": normal(sizes.samples, sizes.steps, sizes.text)}
    for name in ("audio", "vision"):
        inputs[name] = normal(sizes.steps, sizes.samples, getattr(sizes, name))
    if sizes.outputs > 1:
        inputs["label"] = torch.randint(0, sizes.outputs, (sizes.samples, 1), generator=generator).double()
    else:
        inputs["label"] = normal(sizes.samples, 1)
    parameters = {}
    for name, shape in shapes(sizes).items():
        value = normal(*shape) / math.sqrt(shape[1]) if len(shape) == 2 else 0.1 * normal(*shape)
        # The discriminator's features are divided by their norm, which must not vanish.
        raised = ("norm" in name and name.endswith("weight")) or name == "discriminator.discriminator_layer_1.bias"
        parameters[name] = (value + 1 if raised else value).float().double()
    return inputs, parameters


def _layer(x: Tensor, parameters: Mapping[str, Tensor], name: str, heads: int) -> Tensor:
    layer = nn.TransformerEncoderLayer(x.shape[-1], heads, dropout=0.0).double()
    own = {part: parameters[f"{name}.layers.0.{part}"] for part in layer.state_dict()}
    found: Tensor = functional_call(layer, own, (x,))
    return found


def _linear(x: Tensor, parameters: Mapping[str, Tensor], name: str) -> Tensor:
    return F.linear(x, parameters[f"{name}.weight"], parameters.get(f"{name}.bias"))


def _norm(x: Tensor, parameters: Mapping[str, Tensor], name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], parameters[f"{name}.weight"], parameters[f"{name}.bias"])


def _attend(query: Tensor, source: Tensor, parameters: Mapping[str, Tensor], name: str) -> Tensor:
    """Cross attention with 4 heads, sample by sample."""
    part = query.shape[-1] // 4
    rows = []
    for b in range(query.shape[1]):
        q, k, v = (
            _linear(x[:, b], parameters, f"{name}.{w}") for x, w in ((query, "wq"), (source, "wk"), (source, "wv"))
        )
        heads = [
            torch.softmax(q[:, i : i + part] @ k[:, i : i + part].T * part**-0.5, dim=-1) @ v[:, i : i + part]
            for i in range(0, q.shape[1], part)
        ]
        rows.append(_linear(torch.cat(heads, dim=-1), parameters, f"{name}.out_proj"))
    return torch.stack(rows, dim=1)


def _positions(steps: int, width: int) -> Tensor:
    found = torch.zeros(steps, width, dtype=torch.float64)
    for t, i in itertools.product(range(steps), range(0, width, 2)):
        angle = t / 10_000 ** (i / width)
        found[t, i], found[t, i + 1] = math.sin(angle), math.cos(angle)
    return found


@dataclass(frozen=True)
class Released:
    """What the released code gives."""

    prediction: Tensor
    codes: dict[str, Tensor]
    """By `shared.MODALITY` and `private.MODALITY`: [T, B, h]."""
    losses: dict[str, Tensor]
    margin: float
    """Smallest distance of a gate from its threshold."""
    norm: float
    """Smallest norm of the discriminator's features, by which they are divided."""


def released(inputs: Mapping[str, Tensor], p: Mapping[str, Tensor]) -> Released:
    """Forward pass and losses."""
    x = {"t": inputs["text"].transpose(0, 1)}
    for name, heads in (("audio", 2), ("vision", 1)):
        letter, heads = MODALITIES[name], heads if inputs[name].shape[-1] % heads == 0 else 1
        x[letter] = _layer(inputs[name], p, f"transformer_encoder_{letter}", heads)
    u, s, i = {}, {}, {}
    for m in x:
        u[m] = _norm(torch.relu(_linear(x[m], p, f"project_{m}.project_{m}")), p, f"project_{m}.project_{m}_layer_norm")
        s[m] = torch.sigmoid(_linear(u[m], p, f"private_{m}.private_{m}_{3 if m == 'a' else 1}"))
        i[m] = torch.sigmoid(_linear(u[m], p, "shared.shared_1"))

    placed = {m: s[m] + _positions(*s[m].shape[::2])[:, None] for m in s}
    fused, margins = [], []
    for number, m in ((1, "a"), (2, "v")):
        product = _linear(i[m], p, f"fbp_{m}t.fusion_1_matrix") * _linear(i["t"], p, f"fbp_{m}t.fusion_2_matrix")
        z = product[..., 0::2] + product[..., 1::2]
        score = torch.tanh(_linear(z / z.norm(dim=-1, keepdim=True), p, "fc_gate_at"))
        margins.append(float(score.detach().abs().min()))
        answer = _attend(placed["t"], placed[m], p, f"cross_attn_{m}t")
        fused.append(_norm((score > 0).double() * answer + placed["t"], p, f"norm_atten{number}"))
    h = _layer(torch.cat(fused, dim=-1), p, "transformer_encoder", 1).mean(dim=0)
    y = _linear(torch.relu(_linear(h, p, "fusion.fusion_layer_1")), p, "fusion.fusion_layer_3")
    names = {letter: name for name, letter in MODALITIES.items()}
    codes = {f"{kind}.{names[m]}": c[m] for kind, c in (("shared", i), ("private", s)) for m in c}
    losses, norm = _losses(inputs["label"], y, u, s, i, p)
    return Released(y, codes, losses, min(margins), norm)


def _reversed(code: Tensor) -> Tensor:
    """The same value with the gradient times -1."""
    return 2 * code.detach() - code


def _losses(
    label: Tensor, y: Tensor, u: dict[str, Tensor], s: dict[str, Tensor], i: dict[str, Tensor], p: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], float]:
    """The terms, and the smallest norm of the discriminator's features."""
    task = F.cross_entropy(y, label.flatten().long()) if y.shape[1] > 1 else (y - label).square().mean()

    classes = p["W.discriminator_layer_2.weight"]
    domain = torch.zeros((), dtype=torch.float64)
    norms = []
    for codes in (i, s):
        for number, m in enumerate("tav"):
            for pooled in _reversed(codes[m]).mean(dim=0):
                f = torch.relu(_linear(pooled, p, "discriminator.discriminator_layer_1"))
                norms.append(float(f.detach().norm()))
                cosines = (f / f.norm()) @ (classes / classes.norm(dim=1, keepdim=True)).T
                margin = torch.zeros(3, dtype=torch.float64)
                margin[number] = 0.5
                logits = 30 * (cosines - margin)
                domain = domain + (torch.logsumexp(logits, dim=0) - logits[number]) / (3 * y.shape[0])
        domain = domain + 0.01 * classes.norm() ** 2

    cmd = torch.zeros((), dtype=torch.float64)
    for a, b in itertools.combinations("tav", 2):
        first, second = i[a].mean(dim=0), i[b].mean(dim=0)
        cmd = cmd + (first.mean(dim=0) - second.mean(dim=0)).norm() / 3
        for k in range(2, 6):
            moments = [((c - c.mean(dim=0)) ** k).mean(dim=0) for c in (first, second)]
            cmd = cmd + (moments[0] - moments[1]).norm() / 3

    recon = torch.zeros((), dtype=torch.float64)
    for m in "tav":
        made = _linear((s[m] + i[m]).mean(dim=0), p, f"recon_{m}.recon_{m}_1")
        recon = recon + (made[None] - u[m]).square().mean() / 3

    means = torch.softmax(torch.cat([s["v"], i["v"]], dim=-1), dim=-1).mean(dim=1)
    jsd = torch.zeros((), dtype=torch.float64)
    for first, second in itertools.pairwise(means):
        middle = (first + second) / 2
        for part in (first, second):
            kl = ((part + 1e-10) * ((part + 1e-10) / (middle + 1e-10)).log()).sum()
            jsd = jsd + kl / 2 / (len(means) - 1)
    total = task + 0.4 * domain + cmd + recon + jsd
    losses = {"task": task, "domain": domain, "cmd": cmd, "recon": recon, "jsd": jsd, "total": total}
    return losses, min(norms)


def golden(sizes: Sizes, seed: int) -> tuple[dict[str, Tensor], Released]:
    """The arrays of a golden file in float64, and what they were made of."""
    inputs, parameters = draw(sizes, seed)
    leaves = {name: value.requires_grad_() for name, value in parameters.items()}
    found = released(inputs, leaves)
    gradients = torch.autograd.grad(found.losses["total"], list(leaves.values()), allow_unused=True)
    arrays = {f"in.{name}": value for name, value in inputs.items()} | {"out.prediction": found.prediction}
    arrays |= {f"loss.{name}": value for name, value in found.losses.items()}
    arrays |= {f"code.{name}": value for name, value in found.codes.items()}
    for (name, value), gradient in zip(leaves.items(), gradients, strict=True):
        arrays[f"param.{name}"] = value
        arrays[f"grad.{name}"] = torch.zeros_like(value) if gradient is None else gradient
    return {name: value.detach() for name, value in arrays.items()}, found
