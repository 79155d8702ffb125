"""Contract of models (`model.class`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from ivr_dist.data.batches.batch import Batch
from ivr_dist.model.base import FusionModel
from ivr_dist.model.spec import IVROutput, ModelSpec
from ivr_dist.testing.batches import example_batch, example_spec


class ModelContract(ABC):
    """Tests of a model: derive a class `TestMine` from it and implement `make`."""

    reads_padding = False
    """Whether the model's predictions may depend on how far a sample is padded."""

    @abstractmethod
    def make(self, spec: ModelSpec) -> FusionModel:
        """Build the model as a config would, without dropout."""

    def spec(self) -> ModelSpec:
        """The data the model is made for."""
        return example_spec()

    def batch(self, samples: int = 8, padding: int = 0) -> Batch:
        """A batch of them; some samples lack a modality."""
        return example_batch(range(samples), padding=padding)

    def test_it_derives_from_the_protocol(self) -> None:
        """It derives from `FusionModel` and provides parts that outputs have, the predictions among them."""
        model = self.make(self.spec())
        assert isinstance(model, FusionModel)
        assert set(model.provides) <= set(IVROutput.parts()) and "predictions" in model.provides

    def test_the_same_seed_makes_the_same_weights(self) -> None:
        """Ranks build the model each on its own."""
        first, second = (self._seeded().state_dict() for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_predictions_have_the_shapes_of_the_tasks(self) -> None:
        """[B] for a regression, [B, C] logits for a classification, finite; also of a batch without samples."""
        spec, model = self.spec(), self._seeded()
        for samples in (8, 1, 0):
            predictions = model(self.batch(samples)).predictions
            shapes = {
                name: (samples,) if task.type == "regression" else (samples, task.classes)
                for name, task in spec.tasks.items()
            }
            assert {name: tuple(value.shape) for name, value in predictions.items()} == shapes
            assert all(bool(torch.isfinite(value).all()) for value in predictions.values())

    def test_it_returns_what_it_provides(self) -> None:
        """Losses are admitted by `provides`."""
        model = self._seeded()
        output = model(self.batch())
        assert isinstance(output, IVROutput)
        assert [part for part in model.provides if not output.has(part)] == []

    def test_every_parameter_has_a_gradient(self) -> None:
        """Also on a rank whose batch is empty: the ranks' gradients are summed parameter by parameter."""
        for samples in (8, 0):
            model = self._seeded()
            total = sum(value.float().sum() for value in _tensors(model(self.batch(samples))) if value.requires_grad)
            assert isinstance(total, Tensor)
            total.backward()  # type: ignore[no-untyped-call]
            assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []

    def test_parameters_belong_to_submodules(self) -> None:
        """ZeRO 3 gathers a module's parameters around its forward pass, by the tensors that it takes and returns."""
        assert [name for name, _ in self._seeded().named_parameters(recurse=False)] == []

    def test_a_sample_is_predicted_alike_in_any_batch(self) -> None:
        """Evaluation gives the same result on any number of workers."""
        if self.reads_padding:
            return
        model = self._seeded().eval()
        with torch.no_grad():
            alone, among = model(self.batch(1)).predictions, model(self.batch(8)).predictions
        for name, value in alone.items():
            torch.testing.assert_close(value, among[name][:1], rtol=1e-4, atol=1e-5)

    def test_padding_is_not_read(self) -> None:
        """Samples are padded to the longest of their batch."""
        if self.reads_padding:
            return
        model = self._seeded().eval()
        with torch.no_grad():
            short, long = model(self.batch()).predictions, model(self.batch(padding=3)).predictions
        for name, value in short.items():
            torch.testing.assert_close(value, long[name], rtol=1e-4, atol=1e-5)

    def _seeded(self) -> FusionModel:
        torch.manual_seed(0)
        return self.make(self.spec())


def _tensors(output: IVROutput) -> Iterator[Tensor]:
    """Every tensor of an output."""
    for part in IVROutput.parts():
        value = getattr(output, part)
        for entry in value.values() if isinstance(value, dict) else [value]:
            yield from (item for item in (entry if isinstance(entry, tuple) else (entry,)) if item is not None)
