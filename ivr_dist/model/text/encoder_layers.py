"""The layers of a pretrained encoder: the last ones, and its division into two encoders that share its weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ivr_dist.errors import ConfigError

_TOLERANCE = 1e-4


def layers_of(encoder: nn.Module) -> nn.ModuleList:
    """Return the layers of an encoder, the first one first; an empty list if they are not found."""
    path = _layers_path(encoder)
    found = encoder.get_submodule(path) if path else nn.ModuleList()
    assert isinstance(found, nn.ModuleList)
    return found


def last_layers(encoder: nn.Module, count: int) -> list[nn.Module]:
    """Return the last layers of an encoder.

    Raises:
        ConfigError: It has fewer, in the words of `model.text.trained_layers`.
    """
    if count == 0:
        return []
    layers = layers_of(encoder)
    if count > len(layers):
        raise ConfigError(
            f"model.text.trained_layers = {count}, but the text encoder has {len(layers)} layers",
            where="model.text.trained_layers",
            remedy=f"set it to 0..{len(layers)}, or leave it unset to train all of it",
        )
    return list(layers)[-count:]


def first_layers(encoder: nn.Module, count: int) -> nn.Module:
    """Make an encoder of the embeddings and the first layers, which shares its weights with the whole one."""
    return _with_layers(encoder, list(layers_of(encoder))[:count])


def layers_after(encoder: nn.Module, count: int) -> nn.Module:
    """Make an encoder of the layers after the first ones, which shares its weights with the whole one.

    It takes the states after these layers as `inputs_embeds` [R, S, D].
    """
    upper = _with_layers(encoder, list(layers_of(encoder))[count:])
    whole: Any = encoder
    embedding = whole.get_input_embeddings()
    name = next(name for name, part in encoder.named_children() if any(own is embedding for own in part.modules()))
    upper._modules[name] = _Given()
    return upper


def check_division(encoder: nn.Module, count: int) -> None:
    """Check that an encoder gives the same states if its first layers and the others run one after another.

    Raises:
        ConfigError: It has fewer layers, or does more than to run its layers one after another.
    """
    depth = len(layers_of(encoder))
    if count > depth:
        raise ConfigError(
            f"model.text.cache_states = {count}, but the text encoder has {depth} layers",
            where="model.text.cache_states",
            remedy=f"set it to 1..{depth}" if depth else "set it to 0",
        )
    device = next(encoder.parameters()).device
    if device.type == "meta":
        # A model without values, whose parameters are counted.
        return
    mask = torch.ones(1, 3, dtype=torch.long, device=device)
    training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            whole = encoder(input_ids=mask, attention_mask=mask, return_dict=False)[0]
            states = first_layers(encoder, count)(input_ids=mask, attention_mask=mask, return_dict=False)[0]
            again = states
            if count < depth:
                again = layers_after(encoder, count)(inputs_embeds=states, attention_mask=mask, return_dict=False)[0]
        same = torch.allclose(whole, again, rtol=_TOLERANCE, atol=_TOLERANCE)
    except (TypeError, ValueError, AttributeError, StopIteration, RuntimeError):
        same = False
    finally:
        encoder.train(training)
    if not same:
        kind = getattr(getattr(encoder, "config", None), "model_type", type(encoder).__name__)
        raise ConfigError(
            f"states within a text encoder of type {kind} cannot be kept",
            where="model.text.cache_states",
            remedy="set it to 0, or to the number of its layers if none is trained",
        )


class _Given(nn.Module):
    """Takes the place of the embeddings: passes on the states that are given."""

    def forward(self, *arguments: Any, **keywords: Any) -> Tensor:
        # Some types pass them by position; the other arguments are ids.
        values = (*arguments, *keywords.values())
        return next(value for value in values if isinstance(value, Tensor) and value.is_floating_point())


def _layers_path(encoder: nn.Module) -> str:
    depth = getattr(getattr(encoder, "config", None), "num_hidden_layers", 0)
    lists = ((name, part) for name, part in encoder.named_modules() if isinstance(part, nn.ModuleList))
    return next((name for name, part in lists if len(part) == depth), "")


def _with_layers(encoder: nn.Module, layers: list[nn.Module]) -> nn.Module:
    """Copy an encoder with other layers, and no other part of it: all parameters are shared."""
    copied = _shallow(encoder)
    *above, name = _layers_path(encoder).split(".")
    parent = copied
    for step in above:
        child = parent._modules[step]
        assert child is not None
        parent._modules[step] = _shallow(child)
        parent = parent._modules[step]  # type: ignore[assignment]
    parent._modules[name] = nn.ModuleList(layers)
    return copied


def _shallow(module: nn.Module) -> nn.Module:
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    for name, value in vars(module).items():
        # A hook of ZeRO is for the module itself, which it has prepared.
        if "_hooks" in name and isinstance(value, dict):
            setattr(copied, name, type(value)(value))
    return copied
