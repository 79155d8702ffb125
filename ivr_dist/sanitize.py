r"""Sanitizes text for terminals: escapes control characters in names from untrusted data, and hides secrets in URLs.

Invisible characters (controls, bidirectional overrides, zero-width characters, lone surrogates) are printed as Python
escapes them, such as `\x1b` or `\u202e`, so that a name can neither send commands to a terminal nor look like another.
"""

from __future__ import annotations

import re
from typing import TextIO

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"<>]+")
_CLOSING = ".,;:?)]}'"
_PORT = re.compile(r"[^@]*:\d*|[^:]*")
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_SENTENCE_END = re.compile(r"[.!?;](?=\s)")


def plain(text: str, most: int | None = None) -> str:
    """Return a text on one line, with invisible characters escaped.

    Args:
        text: Any text.
        most: Longest result in characters, at least 4; see `shorten`. None: any length.
    """
    shown = text if text.isprintable() else "".join(map(_visible, text))
    return shown if most is None else shorten(shown, most)


def plain_lines(text: str) -> str:
    """Return a text of several lines with invisible characters escaped; colors are removed, tabs and newlines kept."""
    text = without_colors(text)
    return "".join(letter if letter in "\n\t" else plain(letter) for letter in text.replace("\r\n", "\n"))


def without_colors(text: str) -> str:
    """Return a text without ANSI color sequences."""
    return _COLOR.sub("", text)


def shorten(text: str, most: int) -> str:
    """Shorten a text to at most `most` characters: cut after a sentence, else between two words, else anywhere.

    A text that is cut within a sentence ends with `...`.
    """
    if len(text) <= most:
        return text
    ends = [match.end() for match in _SENTENCE_END.finditer(text, 0, most + 1) if match.end() <= most]
    if ends and ends[-1] >= most // 3:
        return text[: ends[-1]].rstrip(";")
    head = text[: most - 3]
    space = head.rfind(" ")
    # A last word of half the text is a path or a number: part of it is more useful than nothing.
    return f"{head[:space].rstrip(' ,;:')} ..." if space >= most // 2 else f"{head}..."


def writable(text: str, stream: TextIO) -> str:
    """Escape the characters of a text that the stream's encoding cannot represent."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text.encode("ascii", "backslashreplace").decode("ascii")


def _visible(letter: str) -> str:
    if letter.isprintable():
        return letter
    # Spaces of other widths become plain spaces.
    return " " if letter in "\xa0\u1680\u202f\u205f\u3000" or "\u2000" <= letter <= "\u200a" else _escaped(letter)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def hide_secrets(text: str) -> str:
    """Remove passwords and query strings (which sign requests) from the URLs in a text."""
    return _URL.sub(_without_secrets, text) if "://" in text else text


def _without_secrets(match: re.Match[str]) -> str:
    url = match[0].rstrip(_CLOSING)
    closing = match[0][len(url) :]
    scheme, _, rest = url.partition("://")
    if scheme.lower() in ("file", "local"):
        return match[0]
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    # A password may contain a slash that should have been written as %2F.
    if "@" in host or ("@" in rest and not _PORT.fullmatch(host)):
        rest = "***@" + (rest[len(host.rpartition("@")[0]) + 1 :] if "@" in host else rest.rpartition("@")[2])
    rest = rest.partition("?")[0]
    return f"{scheme}://{rest.partition('#')[0] if scheme.lower() in ('http', 'https') else rest}{closing}"
