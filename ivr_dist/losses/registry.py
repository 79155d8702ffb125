"""Registry of loss terms: built-in ones, and those of `loss.extra` by dotted path."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ivr_dist.common import dotted_path
from ivr_dist.common.dotted_path import ClassReference
from ivr_dist.common.library_errors import named as named_error
from ivr_dist.common.own_code import OWN_ERRORS, is_own_error
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

_REMEDY = "return the sum over the batch as a scalar tensor, or a Share, or Shares by name"
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
            count = float(self.term.count(batch))
        except OWN_ERRORS as error:  # whatever the term raises is the user's own code
            raise self._failed(error) from error
        if not 0 <= count < math.inf:
            raise self._wrong(f"count returned {count:g}", "return a number, at least 0 and finite")
        return count

    def compute(self, output: IVROutput, batch: Batch, step: MicroStep) -> Tensor | Share | Mapping[str, Share]:
        """See `Term.compute`."""
        try:
            computed = self.term.compute(output, batch, step)
        except OWN_ERRORS as error:  # whatever the term raises is the user's own code
            raise self._failed(error) from error
        if isinstance(computed, Mapping):
            if not computed:
                raise self._wrong("compute returned no value", "return at least one share by name")
            for name, share in computed.items():
                if not isinstance(share, Share):
                    raise self._wrong(f"compute returned {_shown(share)} as {name}, not a Share", _REMEDY)
                self._check_share(share, f" as {name}")
        elif isinstance(computed, Share):
            self._check_share(computed, "")
        else:
            self._check_scalar(computed, "")
        return computed

    def _check_share(self, share: Share, place: str) -> None:
        for part in (share.total, share.count, *(() if share.constant is None else (share.constant,))):
            self._check_scalar(part, place)

    def _check_scalar(self, value: object, place: str) -> None:
        if not isinstance(value, Tensor) or value.dim():
            raise self._wrong(f"compute returned {_shown(value)}{place}, not a scalar tensor", _REMEDY)

    def _wrong(self, what: str, remedy: str) -> IvrError:
        return IvrError(f"loss term {self.class_ref.path}: {what}", where=self.class_ref.key, remedy=remedy)

    def _failed(self, error: BaseException) -> BaseException:
        if not is_own_error(error):
            return error
        return IvrError(
            f"loss term {self.class_ref.path} failed: {named_error(error)}",
            where=self.class_ref.key,
            remedy="correct it; the same command continues the run",
        )


def _shown(value: object) -> str:
    return f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def import_term(class_ref: ClassReference) -> type[Term]:
    """Import the class of a loss term and check it.

    Raises:
        ConfigError: It cannot be imported, is not derived from `Term`, needs a part that no output has, or takes other
            arguments.
    """
    kind: type[Term] = dotted_path.import_class(class_ref)
    dotted_path.check_derived(kind, class_ref, "a loss term", Term)
    dotted_path.check_methods(kind, class_ref, "a loss term", {"count": 1, "compute": 3})
    dotted_path.check_names(kind, class_ref, "needs", IVROutput.parts(), "a part of a model's output")
    dotted_path.check_arguments(kind, class_ref)
    return kind


def configured_terms(config: Config) -> tuple[ConfiguredTerm, ...]:
    """Instantiate the terms of `loss.extra`, in their order.

    Raises:
        ConfigError: One cannot be instantiated.
    """
    return tuple(
        ConfiguredTerm(entry.name, _make_term(entry.class_ref), entry.weight, entry.class_ref)
        for entry in extensions.extra_terms(config)
    )


def _make_term(class_ref: ClassReference) -> Term:
    """Make a term, and refuse one with parameters: they would be neither trained nor saved."""
    term: Term = dotted_path.make(import_term(class_ref), class_ref)
    for name, value in [("", term), *vars(term).items()]:
        if isinstance(value, nn.Parameter) or (isinstance(value, nn.Module) and any(True for _ in value.parameters())):
            what = f"{class_ref.path} has parameters{f' in {name}' if name else ''}, which nothing would train"
            raise ConfigError(what, where=class_ref.key, remedy="put them in the model, or make them arguments")
    return term
