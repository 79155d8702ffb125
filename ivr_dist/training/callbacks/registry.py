"""Callbacks of the config (`run.callbacks`): imported, checked against the protocol, and guarded while they run."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ivr_dist.common import dotted_path
from ivr_dist.common.dotted_path import ClassReference
from ivr_dist.common.library_errors import named as named_error
from ivr_dist.common.own_code import OWN_ERRORS
from ivr_dist.config import Config, extensions
from ivr_dist.errors import ConfigError, IvrError
from ivr_dist.training.callbacks.base import Callback, RunInfo, StepReport

HOOKS = {
    name: len(inspect.signature(hook).parameters) - 1 for name, hook in vars(Callback).items() if name.startswith("on_")
}
"""All hooks, and with how many arguments each is called."""


def import_callback(class_ref: ClassReference) -> type[Callback]:
    """Import a callback's class and check it.

    Raises:
        ConfigError: It cannot be imported, is not derived from `Callback`, has an unknown hook, or takes
            other arguments.
    """
    kind: type[Callback] = dotted_path.import_class(class_ref)
    dotted_path.check_derived(kind, class_ref, "a callback", Callback)
    # A mixin may have methods of such names for another purpose.
    for name in [name for base in kind.__mro__ if issubclass(base, Callback) for name in vars(base)]:
        if name.startswith("on_") and name not in HOOKS:
            close = difflib.get_close_matches(name, HOOKS, n=1)
            remedy = f"did you mean {close[0]}?" if close else f"the hooks are {', '.join(HOOKS)}"
            raise ConfigError(f"{class_ref.path}: nothing calls a hook {name}", where=class_ref.key, remedy=remedy)
    dotted_path.check_methods(kind, class_ref, "a callback", HOOKS)
    dotted_path.check_arguments(kind, class_ref)
    return kind


def configured_callbacks(config: Config) -> list[GuardedCallback]:
    """Instantiate each class of `run.callbacks`, in their order.

    Raises:
        ConfigError: One cannot be instantiated.
    """
    return [
        GuardedCallback(dotted_path.make(import_callback(class_ref), class_ref), class_ref)
        for class_ref in extensions.callbacks(config)
    ]


class GuardedCallback(Callback):
    """Runs a callback of the config; an exception in it becomes an error that names it and ends the run.

    Without it Ray would restart the workers to run into the same exception again.

    Args:
        callback: The callback.
        class_ref: Its entry in the config.
    """

    def __init__(self, callback: Callback, class_ref: ClassReference) -> None:
        self._callback = callback
        self._class_ref = class_ref
        self._is_closed = False

    def _call(self, hook: str, *arguments: Any) -> Any:
        return self._guarded(getattr(self._callback, hook), hook, *arguments)

    def _guarded(self, function: Callable[..., Any], hook: str, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except IvrError:
            raise
        except OWN_ERRORS as error:  # whatever the hook raises is the user's own code
            raise self._failed(hook, named_error(error)) from error

    def _failed(self, hook: str, why: str) -> IvrError:
        return IvrError(
            f"callback {self._class_ref.path} failed in {hook}: {why}",
            where=self._class_ref.key,
            remedy=f"correct it, or remove it from {extensions.CALLBACKS}; the same command continues the run",
        )

    def on_start(self, run: RunInfo) -> None:
        """See `Callback`."""
        self._call("on_start", run)

    def on_step(self, report: StepReport) -> None:
        """See `Callback`."""
        self._call("on_step", report)

    def on_left_out(self, step: int, epoch: int, keys: Sequence[str]) -> None:
        """See `Callback`."""
        self._call("on_left_out", step, epoch, keys)

    def on_evaluation(self, split: str, step: int, metrics: Mapping[str, float | None], best: bool) -> None:
        """See `Callback`."""
        self._call("on_evaluation", split, step, metrics, best)

    def on_before_checkpoint(self) -> Callable[[], None] | None:
        """See `Callback`."""
        hook = "on_before_checkpoint"
        durable = self._call(hook)
        if durable is None:
            return None
        if not callable(durable):
            raise self._failed(hook, f"it returned {type(durable).__name__}, neither a function nor None")
        # The checkpointer's thread calls it.
        return partial(self._guarded, durable, hook)

    def on_checkpoint(self, name: str, seconds: float, stall_s: float) -> None:
        """See `Callback`."""
        self._call("on_checkpoint", name, seconds, stall_s)

    def on_close(self) -> None:
        """See `Callback`."""
        if not self._is_closed:
            self._is_closed = True
            self._call("on_close")
