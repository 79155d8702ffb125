"""Jinja2 templates of this package: autoescape is on, and control characters in data are made visible.

Every string that a template inserts passes `plain`, then HTML escaping. A chart is the only value that is inserted as
markup, and it is the output of a template itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from ivr_dist.sanitize import plain


def render(name: str, values: Mapping[str, Any]) -> Markup:
    """Render a template of this package.

    Args:
        name: File name of the template.
        values: Its variables; a name that is missing raises `jinja2.UndefinedError`.
    """
    return Markup(_environment().get_template(name).render(values))


def style_sheet(name: str) -> Markup:
    """Return a style sheet of this package, to be inserted into a `<style>` element as it is."""
    return Markup(_source(name))


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["px"] = lambda value: f"{value:.1f}"
    return environment


def _source(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def _visible(value: Any) -> Any:
    """Make the control characters of a text visible; Jinja2 calls this before it escapes the value."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value
