"""Suggestions: remedies for unknown keys and for values that do not fit."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from ivr_dist.common.decoder import DecodeError
from ivr_dist.config.synonyms import Synonym, find_synonym
from ivr_dist.config.types import Key, Word, keys, section_paths

_SUGGESTIONS = 4
_NOTHING = ("none", "nil", "undefined", "unset")


def suggest_keys(path: str) -> tuple[list[str], str]:
    """Find the keys and sections that an unknown name may mean, best first, and a remedy that names them.

    Args:
        path: The unknown name, dotted where it has a section.
    """
    synonym = find_synonym(path)
    if synonym is not None:
        return [synonym.key], _synonym_remedy(synonym)
    similar = _similar_keys(path)
    return similar, _unknown_remedy(path, similar)


def suggest_name(error: DecodeError) -> str:
    """Return a remedy for an unknown key inside the entry of a mapping: a similar one, or all there are."""
    choices = [str(choice) for choice in error.choices]
    close = difflib.get_close_matches(str(error.keys[-1]), choices, n=1)
    return f"did you mean {close[0]}?" if close else f"use one of {', '.join(choices)}"


def _synonym_remedy(synonym: Synonym) -> str:
    if synonym.value:
        return f"did you mean {synonym.key}={synonym.value}? ({synonym.note})"
    doc = keys()[synonym.key].doc.rstrip(".") if synonym.key in keys() else "a section"
    return f"did you mean {synonym.key}? ({synonym.note or doc})"


def _unknown_remedy(path: str, suggestions: Sequence[str]) -> str:
    if len(suggestions) == 1:
        doc = f" ({keys()[suggestions[0]].doc.rstrip('.')})" if suggestions[0] in keys() else ""
        return f"did you mean {suggestions[0]}?{doc}"
    if suggestions:
        return f"did you mean {', '.join(suggestions[:-1])} or {suggestions[-1]}?"
    section = path.rpartition(".")[0]
    section = section if section in section_paths() else ""
    return f"use one of {', '.join(path for path in _known_paths() if path.rpartition('.')[0] == section)}"


def _known_paths() -> list[str]:
    return sorted(section_paths()) + list(keys())


def _similar_keys(path: str) -> list[str]:
    """Known keys and sections like an unknown one, best first: its name in another section, or a misspelling of it."""
    section, _, leaf = path.lower().rpartition(".")

    def likeness(candidate: str) -> float:
        candidate_section, _, candidate_leaf = candidate.rpartition(".")
        leaves = difflib.SequenceMatcher(None, leaf, candidate_leaf).ratio()
        sections = difflib.SequenceMatcher(None, section, candidate_section).ratio()
        return leaves + 0.25 * sections

    likely = {candidate: likeness(candidate) for candidate in _known_paths()}
    leaf_of = {candidate: candidate.rpartition(".")[2] for candidate in likely}
    same = [candidate for candidate in likely if leaf_of[candidate] == leaf]
    close = difflib.get_close_matches(leaf, set(leaf_of.values()), n=_SUGGESTIONS, cutoff=0.75)
    similar = same or [candidate for candidate in likely if leaf_of[candidate] in close]
    siblings = [candidate for candidate in similar if candidate.rpartition(".")[0] == section]
    return sorted(siblings or similar, key=lambda candidate: -likely[candidate])[:_SUGGESTIONS]


def value_remedy(key: Key, value: Any) -> str:
    """Return a remedy for a value of the wrong type, with the doc line of its key."""
    about = f"{key.path}: {key.doc.rstrip('.')}"
    if isinstance(value, Word) and value.written:
        return f'write "{value.written.strip()}" in quotes if all of it is meant, else leave out the rest ({about})'
    if isinstance(value, Word) and value.lower() in _NOTHING and type(None) in get_args(key.annotation):
        return f"write null to leave it unset ({about})"
    if isinstance(value, Word) and value.lower() in (*_NOTHING, "null", "~") and key.annotation is str:
        return f'write "" to leave it empty ({about})'
    options = [str(choice) for choice in _choices(key.annotation)]
    wrong = value if isinstance(value, list) else [value]
    typed = [str(item) for item in wrong if isinstance(item, str) and str(item) not in options]
    close = difflib.get_close_matches(typed[0], options, n=1) if typed and options else []
    if close:
        return f"did you mean {close[0]}? ({about})"
    if get_origin(key.annotation) is list and isinstance(value, str):
        return f"write [{value}] ({about})"
    if key.annotation is str and key.default[:1].isdigit():
        return f"write it like {key.default} ({about})"
    if key.annotation is str and isinstance(value, Word):
        return f'write "{value}" in quotes if it is meant as text ({about})'
    return about


def _choices(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(choice for inner in get_args(annotation) for choice in _choices(inner))
