"""Interface of models: `ModelSpec`, the data that one is built for, and `IVROutput`, the result of a forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from torch import Tensor

from ivr_dist.model.text.text_encoder import TextEncoder
from ivr_dist.planning.pool_layout import Input, PoolLayout
from ivr_dist.shards.specs import TaskSpec

SETS = "sets"
"""Kind of a modality with several feature sets in `ModelSpec.features`."""


@dataclass(frozen=True)
class ModelSpec:
    """The data a model is built for."""

    features: Mapping[str, tuple[str, int]]
    """By modality, in the order of MODALITIES: kind and width: D of `features`, size of the vocabulary of `tokens`,
    width of the pretrained encoder of `words`. Kind `sets`, with their number, where there are several feature sets."""
    tasks: Mapping[str, TaskSpec]
    """By task name; in a pool by head."""
    text: TextEncoder | None = None
    """The pretrained encoder, where text, or a set of it, is of kind `words`."""
    sets: Mapping[str, Mapping[str, Input]] = field(default_factory=dict)
    """By modality and feature set, in the order of their names: kind and width; of modalities with several sets."""

    @classmethod
    def of(cls, layout: PoolLayout, text: TextEncoder | None = None) -> ModelSpec:
        """Take inputs and outputs from the layout of a run."""
        several = {modality: sets for modality, sets in layout.sets.items() if len(sets) > 1}
        features = {
            modality: (SETS, len(sets)) if modality in several else next(iter(sets.values()))
            for modality, sets in layout.sets.items()
        }
        return cls(features, layout.heads, text, several)

    def inputs(self, modality: str) -> Mapping[str, Input]:
        """Kind and width of the feature sets of a modality; the only one has an empty name."""
        return self.sets[modality] if modality in self.sets else {"": self.features[modality]}


@dataclass(frozen=True)
class IVROutput:
    """Output of a forward pass. B samples, N_m valid steps of modality m, h the hidden width, T_q query steps.

    Only predictions are required. Losses that need a part that the model does not provide are refused before training
    starts.
    """

    predictions: Mapping[str, Tensor]
    """By task: [B] for a regression, [B, C] logits for a classification."""
    encoded: Mapping[str, Tensor] = field(default_factory=dict)
    """U, by modality: [N_m, h] encoded valid steps."""
    shared: Mapping[str, Tensor] = field(default_factory=dict)
    """I, by modality: [N_m, h] modality-invariant codes in (0, 1)."""
    private: Mapping[str, Tensor] = field(default_factory=dict)
    """S, by modality: [N_m, h] modality-specific codes in (0, 1)."""
    branch: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """By modality: shared and private codes again, as identities read by the fusion only."""
    logits_shared: Mapping[str, Tensor] = field(default_factory=dict)
    """By modality: [B, 3] cosines of the discriminator for the time mean of I, behind the gradient reversal."""
    logits_private: Mapping[str, Tensor] = field(default_factory=dict)
    """By modality: [B, 3] cosines of the discriminator for the time mean of S."""
    class_penalty: Tensor | None = None
    """Scalar, squared Frobenius norm of the discriminator's class weights."""
    pooled_shared: Mapping[str, Tensor] = field(default_factory=dict)
    """By modality: [B, h] time mean of I over valid steps, in float32 at least; 0 where the modality is missing."""
    reconstructed: Mapping[str, Tensor] = field(default_factory=dict)
    """R, by modality: [N_m, h] reconstruction of U from S + I of the same step, or, where `loss.reconstruction.per` is
    `pooled`, from their time means."""
    gates: Mapping[str, Tensor] = field(default_factory=dict)
    """By modality other than text: [B, T_q] gate of each query step; 0 where the modality is missing."""
    query_mask: Tensor | None = None
    """[B, T_q] bool, the query steps: those of text; in the last column a placeholder where the sample has no text."""

    def has(self, part: str) -> bool:
        """Whether the output has a part."""
        value = getattr(self, part)
        return isinstance(value, Tensor) or bool(value)

    @classmethod
    def parts(cls) -> tuple[str, ...]:
        """Names of all parts."""
        return tuple(item.name for item in fields(cls))
