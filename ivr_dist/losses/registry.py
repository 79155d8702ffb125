"""Registry of loss terms: built-in ones, and those of `loss.extra` by dotted path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ivr_dist.common import dotted_path
from ivr_dist.common.dotted_path import ClassReference
from ivr_dist.common.library_errors import named as named_error
from ivr_dist.config import Config, extensions
from ivr_dist.data.batches.batch import Batch
from ivr_dist.errors import ConfigError, IvrError
from ivr_dist.losses.adversary import AdversaryTerm
from ivr_dist.losses.consistency import ConsistencyTerm
from ivr_dist.losses.reconstruction import ReconstructionTerm
from ivr_dist.losses.svr import GroupSvrTerm, SvrTerm
from ivr_dist.losses.task import TaskTerm
from ivr_dist.losses.term import BuiltInTerm, MicroStep, Share, Term
from ivr_dist.model.spec import IVROutput

_SVR, _GROUP_SVR = SvrTerm(), GroupSvrTerm()
_OTHERS: tuple[BuiltInTerm, ...] = (TaskTerm(), ConsistencyTerm(), AdversaryTerm(), ReconstructionTerm())


def built_in_terms(config: Config) -> tuple[BuiltInTerm, ...]:
    """Return the built-in terms, in the order in which they are computed and added."""
    return (*_OTHERS, _GROUP_SVR if config.svr.over == "batch" else _SVR)


@dataclass(frozen=True)
class ConfiguredTerm:
    """A term of `loss.extra`; an exception in it becomes an error that names it and ends the run."""

    name: str
    term: Term
    weight: float
    class_ref: ClassReference

    def count(self, batch: Batch) -> float:
        """See `Term.count`."""
        try:
            return float(self.term.count(batch))
        except Exception as error:  # a user's term may raise anything
            raise self._failed(error) from error

    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> Tensor | Share | Mapping[str, Share]:
        """See `Term.compute`."""
        try:
            computed = self.term.compute(output, batch, step)
        except Exception as error:  # a user's term may raise anything
            raise self._failed(error) from error
        if isinstance(computed, Tensor) and computed.dim():
            raise IvrError(
                f"loss term {self.class_ref.path} returned shape {list(computed.shape)}, not a scalar",
                where=self.class_ref.key,
                remedy="return the sum over the batch",
            )
        return computed

    def _failed(self, error: Exception) -> Exception:
        if isinstance(error, IvrError):
            return error
        return IvrError(
            f"loss term {self.class_ref.path} failed: {named_error(error)}",
            where=self.class_ref.key,
            remedy="correct it; the same command continues the run",
        )


def import_term(class_ref: ClassReference) -> type[Term]:
    """Import the class of a loss term and check it.

    Raises:
        ConfigError: It cannot be imported, is not derived from `Term`, needs a part that no output has, or takes other
            arguments.
    """
    kind: type[Term] = dotted_path.import_class(class_ref)
    dotted_path.check_derived(kind, class_ref, "a loss term", Term)
    dotted_path.check_methods(kind, class_ref, "a loss term", ["compute"])
    parts = IVROutput.parts()
    for part in kind.needs:
        if part not in parts:
            what = f"{class_ref.path} needs {part}, which is no part of a model's output"
            raise ConfigError(what, where=class_ref.key, remedy=f"the parts are {', '.join(parts)}")
    dotted_path.check_arguments(kind, class_ref)
    return kind


def configured_terms(config: Config) -> tuple[ConfiguredTerm, ...]:
    """Instantiate the terms of `loss.extra`, in their order.

    Raises:
        ConfigError: One cannot be instantiated.
    """
    return tuple(
        ConfiguredTerm(
            entry.name, dotted_path.make(import_term(entry.class_ref), entry.class_ref), entry.weight, entry.class_ref
        )
        for entry in extensions.extra_terms(config)
    )
