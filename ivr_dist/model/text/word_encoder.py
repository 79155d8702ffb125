"""Word vectors from a pretrained text encoder: means over the encoded pieces of each word."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ivr_dist.config import TextConfig
from ivr_dist.data.batches.batch import ModalityBatch, Pieces, SetSteps
from ivr_dist.errors import ConfigError
from ivr_dist.model.numerics import at_least_float32
from ivr_dist.model.text.encoder_layers import check_division, last_layers, layers_after, layers_of
from ivr_dist.model.text.text_encoder import TextEncoder


class WordEncoder(nn.Module):
    """A pretrained encoder and the mean over each word's pieces.

    Frozen parts run in evaluation mode, without dropout, also while training.

    Args:
        encoder: Takes `input_ids` [R, S], `attention_mask` [R, S], or [R, 1, S, S] with `position_ids` [R, S], and
            returns hidden states [R, S, D] first.
        trained_layers: Number of its last layers to train, 0 for none; None trains all of it.
        cached_layers: Number of its first layers whose states a batch may hold already, 0 for none.

    Raises:
        ConfigError: It has fewer layers, trains one whose states are cached, or cannot be divided there.
    """

    def __init__(self, encoder: nn.Module, trained_layers: int | None, cached_layers: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        self._trained = [encoder] if trained_layers is None else last_layers(encoder, trained_layers)
        self._upper: list[nn.Module] = []
        if cached_layers:
            check_division(encoder, cached_layers)
            _check_frozen(encoder, trained_layers, cached_layers)
            if cached_layers < len(layers_of(encoder)):
                # In a list, so that its parameters, which are the encoder's, are not listed twice.
                self._upper = [layers_after(encoder, cached_layers)]
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
        if pieces.states is None:
            hidden: Tensor = self.encoder(**inputs, return_dict=False)[0]
        else:
            hidden = self._from_states(pieces.states, inputs)
        return mean_over_pieces(hidden, part)

    def _from_states(self, states: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Run the layers above the cached states [R, S, D]."""
        ids = inputs.pop("input_ids")
        if 0 in states.shape:
            states = states.new_zeros(*ids.shape, states.shape[2])
        if not self._upper:
            return states
        hidden: Tensor = self._upper[0](
            inputs_embeds=states.to(next(self._upper[0].parameters()).dtype), **inputs, return_dict=False
        )[0]
        return hidden


def word_encoder(text: TextEncoder, config: TextConfig) -> WordEncoder:
    """Load a pretrained encoder as a config asks for it.

    Raises:
        ConfigError: It cannot be loaded, or used so.
    """
    return WordEncoder(text.module(config.dropout), config.trained_layers, config.cache_states)


def _check_frozen(encoder: nn.Module, trained_layers: int | None, cached_layers: int) -> None:
    depth = len(layers_of(encoder))
    if trained_layers is None or cached_layers + trained_layers > depth:
        trained = f"all of {depth}" if trained_layers is None else f"{trained_layers} of {depth}"
        raise ConfigError(
            f"model.text.cache_states = {cached_layers}, but {trained} layers of the text encoder are trained",
            where="model.text.cache_states",
            remedy=f"set model.text.trained_layers to {_at_most(depth - cached_layers)}, or cache fewer layers",
        )


def _at_most(number: int) -> str:
    return f"{number} or less" if number else "0"


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


def pretrained_parameters(model: nn.Module) -> set[nn.Parameter]:
    """Collect the parameters of pretrained encoders, which have a separate learning rate."""
    return {p for part in model.modules() if isinstance(part, WordEncoder) for p in part.parameters()}
