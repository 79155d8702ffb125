"""docs/api.md is current and complete."""

from __future__ import annotations

import ivr_dist as ivr
from tests import api_reference


def test_the_reference_is_current() -> None:
    assert api_reference.PAGE.read_text() == api_reference.page(), "run: python -m tests.api_reference"


def test_the_reference_names_all_that_is_public_and_nothing_else() -> None:
    text = api_reference.PAGE.read_text()
    headings = {line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")}
    errors = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `") and line.count("|") == 4}
    errors = {name for name in errors if name.endswith("Error")}
    assert headings | errors | {"__version__"} == set(ivr.__all__)
