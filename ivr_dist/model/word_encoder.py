"""Word vectors from a pretrained text encoder: means over the encoded pieces of each word."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ivr_dist.data.batches.batch import ModalityBatch, Pieces, SetSteps
from ivr_dist.errors import ConfigError
from ivr_dist.model.numerics import at_least_float32


class WordEncoder(nn.Module):
    """A pretrained encoder and the mean over each word's pieces.

    Frozen parts run in evaluation mode, without dropout, also while training.

    Args:
        encoder: Takes `input_ids` [R, S], `attention_mask` [R, S], or [R, 1, S, S] with `position_ids` [R, S], and
            returns hidden states [R, S, D] first.
        trained_layers: Number of its last layers to train, 0 for none; None trains all of it.

    Raises:
        ConfigError: It has fewer layers.
    """

    def __init__(self, encoder: nn.Module, trained_layers: int | None) -> None:
        super().__init__()
        self.encoder = encoder
        self._trained = [encoder] if trained_layers is None else _last_layers(encoder, trained_layers)
        encoder.requires_grad_(False)
        for part in self._trained:
            part.requires_grad_(True)
        self.train()

    def train(self, mode: bool = True) -> WordEncoder:
        """Set the training mode of the trained parts; the others stay in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        for part in self._trained:
            part.train(mode)
        return self

    def recompute(self) -> None:
        """Enable activation checkpointing, if the encoder supports it."""
        encoder: Any = self.encoder
        if getattr(encoder, "supports_gradient_checkpointing", False):
            encoder.gradient_checkpointing_enable({"use_reentrant": False})

    def forward(self, part: ModalityBatch | SetSteps) -> Tensor:
        """Encode the words of a batch, or of those of its samples that are read as words: [N, D]."""
        pieces = part.pieces
        assert pieces is not None, "text was not collated as words"
        inputs = {"input_ids": pieces.ids, **attention(pieces)}
        if 0 in pieces.ids.shape:
            # An encoder accepts no empty batch: run one piece without reading the result, so that all gradients are 0.
            inputs = {"input_ids": pieces.ids.new_zeros(1, 1), "attention_mask": pieces.ids.new_ones(1, 1)}
        hidden: Tensor = self.encoder(**inputs, return_dict=False)[0]
        return mean_over_pieces(hidden, part)


def attention(pieces: Pieces) -> dict[str, Tensor]:
    """Which pieces see each other: those of one text, as if each text had its own row.

    Returns:
        `attention_mask` [R, S] int64; or [R, 1, S, S] bool and `position_ids` [R, S], if rows can hold several texts.
    """
    if pieces.places is None:
        return {"attention_mask": (pieces.text >= 0).long()}
    # The padding sees itself, because attention over nothing is undefined.
    same = pieces.text[:, None, :, None] == pieces.text[:, None, None, :]
    return {"attention_mask": same, "position_ids": pieces.places}


def mean_over_pieces(hidden: Tensor, part: ModalityBatch | SetSteps) -> Tensor:
    """Average the pieces of each word, in float32 at least: [R, S, D] to [N, D]."""
    assert part.pieces is not None
    own = at_least_float32(hidden.flatten(0, 1).index_select(0, part.pieces.position))
    count = part.features if isinstance(part, SetSteps) else part.features.flatten().index_select(0, part.flat)
    total = own.new_zeros(len(count), own.shape[1]).index_add_(0, part.pieces.step, own)
    return total / count[:, None]


def _last_layers(encoder: nn.Module, count: int) -> list[nn.Module]:
    if count == 0:
        return []
    stacks = [part for part in encoder.modules() if isinstance(part, nn.ModuleList)]
    depth = getattr(getattr(encoder, "config", None), "num_hidden_layers", 0)
    layers = next((stack for stack in stacks if len(stack) == depth), nn.ModuleList())
    if count > len(layers):
        raise ConfigError(
            f"model.text.trained_layers = {count}, but the text encoder has {len(layers)} layers",
            where="model.text.trained_layers",
            remedy=f"set it to 0..{len(layers)}, or leave it unset to train all of it",
        )
    return list(layers)[-count:]


def pretrained_parameters(model: nn.Module) -> set[nn.Parameter]:
    """Collect the parameters of pretrained encoders, which have a separate learning rate."""
    return {p for part in model.modules() if isinstance(part, WordEncoder) for p in part.parameters()}
