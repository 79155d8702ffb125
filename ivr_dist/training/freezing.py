"""Freezes parts of a model, which then keep the weights that a run starts from."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from torch import nn

from ivr_dist.errors import ConfigError

_KEY = "train.freeze"


def freeze(model: nn.Module, prefixes: Sequence[str]) -> int:
    """Freeze all parameters whose names begin with one of these prefixes, up to a dot; return how many elements.

    Args:
        model: The unpartitioned model, changed in place.
        prefixes: Such as `encoders`, `encoders.audio` or `words`.

    Raises:
        ConfigError: A prefix matches no parameter, or nothing is left to be trained.
    """
    frozen = 0
    names = dict(model.named_parameters())
    for prefix in prefixes:
        own = [name for name in names if name == prefix or name.startswith(f"{prefix}.")]
        if not own:
            parts = {name.rsplit(".", depth)[0] for name in names for depth in range(name.count(".") + 1)}
            close = difflib.get_close_matches(prefix, sorted(parts), n=1)
            tops = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
            raise ConfigError(
                f"{_KEY} names {prefix}, which no parameter begins with",
                where=_KEY,
                remedy=f"did you mean {close[0]}?" if close else f"the model has {tops}",
            )
        for name in own:
            if names[name].requires_grad:
                frozen += names[name].numel()
            names[name].requires_grad_(False)
    if prefixes and not any(parameter.requires_grad for parameter in names.values()):
        raise ConfigError(f"{_KEY} leaves nothing to be trained", where=_KEY, remedy="freeze less")
    return frozen
