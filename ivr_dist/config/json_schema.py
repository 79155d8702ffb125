"""JSON schema of the config (draft 2020-12), for editors that complete and check YAML."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from ivr_dist.config.declaration import Range, key_name
from ivr_dist.config.schema import Config
from ivr_dist.config.types import keys, section_fields

_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}


def json_schema() -> dict[str, Any]:
    """The schema: every section and key with its type, range, choices, default and doc line.

    Contradictions between keys are not in it; `ivr_dist.config.validation` finds them.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Config of ivr-dist",
        **_section(Config, ""),
    }


def _section(kind: type, prefix: str) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for field_name, (annotation, doc) in section_fields(kind).items():
        name = key_name(field_name)
        path = f"{prefix}{name}"
        if is_dataclass(annotation):
            # A section without keys is null to YAML.
            inner = {**_section(annotation, f"{path}."), "type": ["object", "null"]}  # type: ignore[arg-type]
            properties[name] = {"description": doc, **inner}
        else:
            key = keys()[path]
            properties[name] = {"description": doc, **_value(annotation, key.range), "default": key.default}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _entry(kind: Any) -> dict[str, Any]:
    """The schema of an entry of a mapping of sections, such as a corpus."""
    properties = {
        key_name(item.name): {
            "description": item.metadata["doc"],
            **_value(section_fields(kind)[item.name][0], item.metadata["range"]),
        }
        for item in fields(kind)
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _value(annotation: Any, allowed: Range | None) -> dict[str, Any]:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _value(args[0], allowed)
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, types.UnionType):
        options = [_value(arg, allowed) for arg in args if arg is not type(None)]
        if type(None) not in args:
            return {"anyOf": options}
        if len(options) == 1 and "type" in options[0]:
            return {**options[0], "type": [options[0]["type"], "null"]}
        return {"anyOf": [*options, {"type": "null"}]}
    if origin is list:
        return {"type": "array", "items": _value(args[0], allowed)}
    if origin is dict:
        values = {} if args[1] is Any else {"additionalProperties": _value(args[1], allowed)}
        return {"type": "object", **values}
    if is_dataclass(annotation):
        return _entry(annotation)
    bounds = allowed.json_schema() if allowed is not None and annotation in (int, float) else {}
    return {"type": _TYPES[annotation], **bounds}
