"""Doctests of the public API."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import ivr_dist as ivr


def test_every_public_function_has_an_example_that_holds(workspace: Path) -> None:
    # In the order of the module: later examples use what earlier ones have made, as a reader would.
    names = sorted((name for name in ivr.__all__ if inspect.isfunction(getattr(ivr, name))), key=_line)
    namespace = {"ivr": ivr}
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(verbose=False)
    without = []
    for name in names:
        for test in finder.find(getattr(ivr, name), name, globs=namespace):
            test.globs = namespace
            without += [] if test.examples else [name]
            runner.run(test, clear_globs=False)
    assert without == []
    assert runner.summarize(verbose=False).failed == 0


def _line(name: str) -> int:
    return inspect.getsourcelines(getattr(ivr, name))[1]
