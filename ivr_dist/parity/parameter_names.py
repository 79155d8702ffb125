"""Parameter names of the released code, mapped to the names in preset `release`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_LETTERS = {"text": "t", "audio": "a", "vision": "v"}
_PRIVATE = {"text": "private_t_1", "audio": "private_a_3", "vision": "private_v_1"}
_LAYER = {
    "project.weight": "self_attn.in_proj_weight",
    "project.bias": "self_attn.in_proj_bias",
    "output": "self_attn.out_proj",
    "feedforward.widen_weight": "linear1.weight",
    "feedforward.widen_bias": "linear1.bias",
    "feedforward.narrow_weight": "linear2.weight",
    "feedforward.narrow_bias": "linear2.bias",
    "norm_attention": "norm1",
    "norm_feedforward": "norm2",
}

SHARED_CODE = "shared.shared_1.weight"
"""A name that no other model has, which identifies a state dict of the release; [h, h]."""
OUTPUT = "fusion.fusion_layer_3.weight"
"""[outputs, h], the head."""


def _modules(task: str) -> dict[str, str]:
    """Map modules and parameters of the preset to those of the release."""
    names = {
        "shared.linear": "shared.shared_1",
        "discriminator.hidden": "discriminator.discriminator_layer_1",
        "discriminator.classes": "W.discriminator_layer_2.weight",
        "fusion.score": "fc_gate_at",
        "fusion.reduce": "fusion.fusion_layer_1",
        f"heads.task_{task}": OUTPUT.removesuffix(".weight"),
    }
    layers = {"fusion.layer": "transformer_encoder"}
    for name, letter in _LETTERS.items():
        names[f"encoders.{name}.encode"] = f"project_{letter}.project_{letter}"
        names[f"encoders.{name}.norm"] = f"project_{letter}.project_{letter}_layer_norm"
        names[f"private.{name}.linear"] = f"private_{letter}.{_PRIVATE[name]}"
        names[f"reconstruct.{name}"] = f"recon_{letter}.recon_{letter}_1"
    for number, name in enumerate(("audio", "vision"), start=1):
        letter = _LETTERS[name]
        layers[f"encoders.{name}.context"] = f"transformer_encoder_{letter}"
        names[f"fusion.cross.{name}.output"] = f"cross_attn_{letter}t.out_proj"
        for own, theirs in {"query_weight": "wq", "key_weight": "wk", "value_weight": "wv"}.items():
            names[f"fusion.cross.{name}.{own}"] = f"cross_attn_{letter}t.{theirs}.weight"
        names[f"fusion.norm.{name}"] = f"norm_atten{number}"
        names[f"fusion.bilinear.{name}.other"] = f"fbp_{letter}t.fusion_1_matrix"
        names[f"fusion.bilinear.{name}.text"] = f"fbp_{letter}t.fusion_2_matrix"
    for own, theirs in layers.items():
        names |= {f"{own}.{part}": f"{theirs}.layers.0.{name}" for part, name in _LAYER.items()}
    return names


def release_names(parameters: Mapping[str, Tensor], task: str) -> dict[str, str]:
    """Map parameter names of the preset to those of the released code.

    Args:
        parameters: The model's parameters by name.
        task: The model's only task.
    """
    modules = _modules(task)
    names = {}
    for name in parameters:
        module, _, leaf = name.rpartition(".")
        names[name] = modules[name] if name in modules else f"{modules[module]}.{leaf}"
    return names


def release_sizes(weights: Mapping[str, Tensor]) -> tuple[int, int, dict[str, int]]:
    """Infer hidden width, outputs and feature widths from the shapes of the released code's parameters.

    Raises:
        KeyError: A parameter that determines one of them is absent.
        ValueError: It is not a matrix.
    """

    def shape(name: str) -> tuple[int, int]:
        if weights[name].dim() != 2:
            raise ValueError(f"{name} is {list(weights[name].shape)}, not a matrix")
        rows, columns = weights[name].shape
        return rows, columns

    features = {name: shape(f"project_{letter}.project_{letter}.weight")[1] for name, letter in _LETTERS.items()}
    return shape(SHARED_CODE)[0], shape(OUTPUT)[0], features
