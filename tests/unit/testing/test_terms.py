"""Built-in loss terms, and one from outside the package, fulfill the contract."""

from __future__ import annotations

from collections.abc import Sequence

from ivr_dist.config import Config
from ivr_dist.config.loading import from_dict
from ivr_dist.data.batches.batch import Batch
from ivr_dist.losses.adversary import AdversaryTerm
from ivr_dist.losses.consistency import ConsistencyTerm
from ivr_dist.losses.reconstruction import ReconstructionTerm
from ivr_dist.losses.svr import GroupSvrTerm, SvrTerm
from ivr_dist.losses.task import TaskTerm
from ivr_dist.losses.term import Term
from ivr_dist.testing.batches import example_batch
from ivr_dist.testing.terms import TermContract
from tests.extension_parts import Contrast


class TestTask(TermContract):
    def make(self) -> Term:
        return TaskTerm()


class TestConsistency(TermContract):
    def make(self) -> Term:
        return ConsistencyTerm()


class TestAdversary(TermContract):
    def make(self) -> Term:
        return AdversaryTerm()


class TestReconstruction(TermContract):
    def make(self) -> Term:
        return ReconstructionTerm()


class TestSvr(TermContract):
    def make(self) -> Term:
        return SvrTerm()


class TestSvrOfGroups(TermContract):
    def make(self) -> Term:
        return GroupSvrTerm()

    def config(self) -> Config:
        return from_dict({"svr": {"over": "batch", "kind": "js"}})

    def batch(self, samples: Sequence[int]) -> Batch:
        # All samples of a step have one length, on a rank without any too.
        return example_batch(samples, missing=False, equal_lengths=True, padding=0 if samples else 4)


class TestFromOutside(TermContract):
    def make(self) -> Term:
        return Contrast(temperature=0.5)
