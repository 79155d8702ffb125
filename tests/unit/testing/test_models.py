"""Built-in models, and two from outside the package, fulfill the contract."""

from __future__ import annotations

from ivr_dist.config import LossConfig, ModelConfig
from ivr_dist.data.batches.batch import Batch
from ivr_dist.model.base import FusionModel
from ivr_dist.model.ivr import IVRModel
from ivr_dist.model.release import ReleaseModel
from ivr_dist.model.spec import ModelSpec
from ivr_dist.testing.batches import example_batch
from ivr_dist.testing.models import ModelContract
from tests.extension_parts import Averages, Whole

SMALL = ModelConfig(hidden=8, dropout=0.0)


class TestIVR(ModelContract):
    def make(self, spec: ModelSpec) -> FusionModel:
        return IVRModel(SMALL, spec, LossConfig())


class TestRelease(ModelContract):
    reads_padding = True

    def make(self, spec: ModelSpec) -> FusionModel:
        return ReleaseModel(SMALL, spec, LossConfig())

    def batch(self, samples: int = 8, padding: int = 0) -> Batch:
        padding += 0 if samples else 4
        return example_batch(range(samples), padding=padding, missing=False, equal_lengths=True)


class TestAverages(ModelContract):
    def make(self, spec: ModelSpec) -> FusionModel:
        return Averages(spec)


class TestWhole(ModelContract):
    def make(self, spec: ModelSpec) -> FusionModel:
        return Whole(spec)
