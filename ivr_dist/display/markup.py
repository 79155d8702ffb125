"""What is HTML on purpose, told apart from text: all that is not is escaped where it meets a page."""

from __future__ import annotations

from html import escape

from ivr_dist.sanitize import plain


class Html(str):
    """A piece of a page that was made as HTML; any other text is escaped before it becomes a part of one."""


def escaped(text: str, most: int | None = None) -> Html:
    """A text as a piece of a page, in an element or in a quoted attribute; a piece of a page stays as it is.

    Args:
        text: Any text, or a piece of a page.
        most: Longest text in characters; None for any length.
    """
    return text if isinstance(text, Html) else Html(escape(plain(text, most)))


def code(text: str, most: int | None = None) -> Html:
    """A text as it is typed."""
    return Html(f"<code>{escaped(text, most)}</code>")
