"""The invariant-representation fusion model, preset `ivr` (docs/method.md has the equations and the reasons)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.config import LossConfig, ModelConfig
from ivr_dist.data.batches.batch import Batch, ModalityBatch, SetSteps
from ivr_dist.model.base import FusionModel
from ivr_dist.model.codes import Code, Discriminator, codes_of_all, discriminate, pooled_codes, reconstructions
from ivr_dist.model.dropout import dropout_rates
from ivr_dist.model.encoder import ModalityEncoder
from ivr_dist.model.fusion import Fusion
from ivr_dist.model.heads import TaskHeads
from ivr_dist.model.padded_steps import SequenceLayout, query_steps
from ivr_dist.model.spec import IVROutput, ModelSpec
from ivr_dist.model.text.word_encoder import WordEncoder, word_encoder
from ivr_dist.planning.pool_layout import WORDS


class IVRModel(FusionModel):
    """Encoders, codes, discriminator, reconstruction, fusion and task heads.

    Every parameter takes part in every forward pass, also for an empty batch or a modality that all samples lack: the
    samples of ranks differ, and ZeRO-3 gathers parameters by module on all ranks.

    Args:
        config: Widths, encoders, fusion, dropout.
        spec: Modalities and tasks.
        loss: Codes whose gradient the discriminator's input reverses, and whether single steps are reconstructed.

    Raises:
        ConfigError: The pretrained text encoder cannot be loaded, or has fewer layers than are to be trained.
    """

    provides = IVROutput.parts()

    def __init__(self, config: ModelConfig, spec: ModelSpec, loss: LossConfig) -> None:
        super().__init__()
        rates = dropout_rates(config)
        width = config.hidden
        self.loss = loss
        self.modality_dropout = config.modality_dropout
        self._sets = spec.sets
        self.modalities = [name for name in MODALITIES if name in spec.features]
        self.encoders = nn.ModuleDict(
            {
                name: ModalityEncoder(
                    spec.inputs(name),
                    width,
                    getattr(config, name),
                    dropout=rates["encoder"],
                    input_dropout=config.input_dropout,
                    feature_dropout=config.feature_dropout,
                )
                for name in self.modalities
            }
        )
        self.private = nn.ModuleDict({name: Code(width) for name in self.modalities})
        self.shared = Code(width)
        self.discriminator = Discriminator(width, rates["discriminator"])
        self.reconstruct = nn.ModuleDict({name: nn.Linear(width, width) for name in self.modalities})
        self.fusion = Fusion(width, [m for m in self.modalities if m != "text"], config.fusion, rates)
        self.heads = TaskHeads(width, spec.tasks)
        self.words: WordEncoder | None = None
        if spec.text is not None:
            self.words = word_encoder(spec.text, config.text)

    def forward(self, batch: Batch) -> IVROutput:
        """Encode, split, fuse and predict one batch; B and every T may be 0."""
        layouts = {name: SequenceLayout.of(batch.modalities[name]) for name in self.modalities}
        encoded = {
            name: self.encoders[name](self._inputs(batch, name), layouts[name], batch.modalities[name].order)
            for name in self.modalities
        }
        shared = codes_of_all(self.shared, encoded)
        private = {name: self.private[name](steps) for name, steps in encoded.items()}
        branch = {name: (shared[name].view_as(shared[name]), private[name].view_as(private[name])) for name in encoded}
        query_layout = query_steps(layouts)
        fused, gates = self.fusion(branch, self._hidden(layouts), query_layout)
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
            query_mask=query_layout.mask,
        )

    def _inputs(self, batch: Batch, name: str) -> list[Tensor]:
        """Return features [N_s, D_s] or token ids [N_s] of the valid steps, by feature set."""
        part = batch.modalities[name]
        if name in self._sets:
            return [
                self._words(part.sets[own]) if kind == WORDS else part.sets[own].features
                for own, (kind, _) in self._sets[name].items()
            ]
        if name == "text" and self.words is not None:
            return [self._words(part)]
        return [part.features.flatten(0, 1).index_select(0, part.flat)]

    def _words(self, part: ModalityBatch | SetSteps) -> Tensor:
        assert self.words is not None
        words: Tensor = self.words(part)
        return words

    def _hidden(self, layouts: dict[str, SequenceLayout]) -> dict[str, SequenceLayout]:
        """While training, hide modalities other than text of some samples from the fusion, as if they were missing."""
        if not self.training or self.modality_dropout == 0:
            return layouts
        visible = dict(layouts)
        for name in [name for name in layouts if name != "text"]:
            mask = layouts[name].mask
            keep = torch.rand(len(mask), 1, device=mask.device) >= self.modality_dropout
            visible[name] = replace(layouts[name], mask=mask & keep)
        return visible
