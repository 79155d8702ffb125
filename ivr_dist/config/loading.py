"""Loads configs: YAML files with dotted overrides and presets, and the plain dictionaries of checkpoints.

Every fault is a ConfigError with the file and line (or the override as typed), the key, the value and a remedy; all
faults of a config are reported together.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, get_origin

from ivr_dist.common.decoder import DecodeError
from ivr_dist.common.dotted_path import CLASS
from ivr_dist.config.declaration import ClassPath, key_name
from ivr_dist.config.presets import preset_values
from ivr_dist.config.schema import Config
from ivr_dist.config.suggestions import suggest_keys, suggest_name, value_remedy
from ivr_dist.config.types import Key, Word, convert, entry_kind, keys, section_fields, section_paths, show, value_of
from ivr_dist.config.validation import faults, with_defaults, wrong_keys
from ivr_dist.config.yaml_source import Located, parse_value, read_yaml
from ivr_dist.config.yaml_writer import yaml_value
from ivr_dist.errors import ConfigError, UserError, raise_together
from ivr_dist.sanitize import shorten

logger = logging.getLogger(__name__)

_OVERRIDE = "override "
_IN_PYTHON = "the given config"
_LONGEST = 200
"""Characters of an override in an error."""


@dataclass(frozen=True)
class Loaded:
    """A config, and the origins of its values."""

    config: Config
    origins: Mapping[str, str]
    """By dotted key: the origin of its value, such as `configs/mosi.yaml:12` or `override 'train.lr=1'`; keys with
    their default are absent."""
    path: str
    """The config file; empty if there is none."""

    def overridden(self, key: str) -> bool:
        """Whether a key was given on the command line."""
        return self.origins.get(key, "").startswith(_OVERRIDE)


FurtherChecks = Callable[[Loaded], Sequence[UserError]]


def load_config(path: str | None, overrides: Sequence[str] = ()) -> Config:
    """Load a config as `load` does, without the origins of its values."""
    return load(path, overrides).config


def load(path: str | None, overrides: Sequence[str] = (), further_checks: FurtherChecks | None = None) -> Loaded:
    """Read a config file, apply overrides in order, and check the result.

    Args:
        path: A YAML file; None starts from the defaults.
        overrides: `section.key=value`. A value that begins with a bracket, a brace or a quote is YAML, any other is
            taken literally. A mapping given for a section is merged into it; entries of `loss.tasks` and `deepspeed`
            can be set one by one (`deepspeed.zero_optimization.reduce_bucket_size=1000000`).
        further_checks: Called if the config has faults, to find further ones, so that all are reported together. Its
            argument has the defaults for keys with faults.

    Raises:
        ConfigError: The file cannot be read, a key is unknown or given twice, a value has the wrong type or range, or
            keys contradict each other; names all faults.
    """
    values = _Values()
    unread: list[ConfigError] = []
    if path is not None:
        try:
            values.merge(read_yaml(path), "", path)
        except ConfigError as error:
            # Without the content of the file, checks of missing or contradictory keys would be wrong.
            unread.append(error)
    for override in overrides:
        values.override(override)
    return _checked(values, path or "", further_checks, unread)


def with_overrides(
    config: Config, overrides: Sequence[str] = (), further_checks: FurtherChecks | None = None
) -> Loaded:
    """Apply overrides to a config built in Python, and check the result as `load` does.

    Args:
        config: The config.
        overrides: As for `load`.
        further_checks: As for `load`.

    Raises:
        ConfigError: As for `load`.
    """
    values = _Values()
    # Only what is not the default, so that a preset given by an override still fills in the rest.
    for path, key in keys().items():
        if (value := value_of(config, path)) != key.default:
            values.take(key, value)
    for override in overrides:
        values.override(override)
    return _checked(values, "", further_checks)


def _checked(
    values: _Values, path: str, further_checks: FurtherChecks | None, unread: Sequence[ConfigError] = ()
) -> Loaded:
    """Build the config of these values.

    Raises:
        ConfigError: It is wrong, or a part of it could not be read.
    """
    loaded = Loaded(values.build(), values.origins, path)
    problems: list[UserError] = [*unread, *values.faults]
    if not unread:
        found = faults(loaded.config, loaded.origins, values.suspects)
        # A default is not reported where a value was given that could not be used.
        unset = values.suspects - values.origins.keys()
        problems += [fault for fault in found if fault.what.partition(" ")[0] not in unset]
        if problems and further_checks is not None:
            wrong = wrong_keys(loaded.config, values.suspects)
            more = further_checks(replace(loaded, config=with_defaults(loaded.config, wrong)))
            # The text of a fault begins with its key; faults of the substituted defaults are dropped.
            problems += [fault for fault in more if fault.what.partition(" ")[0] not in wrong]
    raise_together(problems, loaded.path)
    logger.debug("config %s: %d keys set", path or "without a file", len(values.origins))
    return loaded


def override(key: str, value: Any) -> str:
    """The override that sets a key to any value; texts are quoted where needed.

    Raises:
        ConfigError: It is no value of a config.
    """
    try:
        return f"{key}={yaml_value(_plain(value))}"
    except (TypeError, ValueError):
        raise ConfigError(
            f"{key} has a value of type {type(value).__name__}",
            where="overrides",
            remedy="give a text, a number, a bool, None, a list or a mapping",
        ) from None


def _plain(value: Any) -> Any:
    """Convert what a notebook may hold: paths, tuples, scalars of numpy."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {key_name(item.name): _plain(getattr(value, item.name)) for item in fields(value)}
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 else value


def to_dict(config: Config) -> dict[str, Any]:
    """Convert a config to nested plain dictionaries, fit for JSON."""
    return asdict(config, dict_factory=lambda entries: {key_name(name): value for name, value in entries})


def from_dict(values: Mapping[str, Any], where: str = "config") -> Config:
    """Rebuild a config from `to_dict`'s dictionary, as a checkpoint holds it.

    Types are checked as strictly as in files. Missing keys take their defaults, so that a config written before a key
    existed can still be read. Contradictions between keys are not checked again.

    Args:
        values: Nested dictionaries.
        where: Their source, for errors.

    Raises:
        ConfigError: An unknown key or a value of the wrong type.
    """
    merged = _Values()
    merged.merge(values, "", where)
    raise_together(merged.faults, where)
    return merged.build()


class _Values:
    """Values by dotted key from a file and overrides, with their origins; faults are collected."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._written: dict[str, Any] = {}
        """The values before conversion, into which later entries of mappings are merged."""
        self.origins: dict[str, str] = {}
        self.faults: list[ConfigError] = []
        self.suspects: set[str] = set()
        """Keys whose intended value was not understood."""

    def merge(self, section: Mapping[str, Any], prefix: str, where: str) -> None:
        """Merge the entries of a section."""
        for name, value in section.items():
            path = f"{prefix}{name}"
            origin = section.origins[name] if isinstance(section, Located) else where
            if path in section_paths():
                self._merge_section(path, value, origin)
            elif path in keys():
                # One file can write `train.lr` and `lr` in the section `train`.
                if isinstance(section, Located) and path in self.origins and not origin.startswith(_OVERRIDE):
                    what = f"{path} is given twice, first at {self.origins[path]}"
                    self._fault(what, origin, "keep one of them")
                self._set(keys()[path], value, origin)
            else:
                self._unknown(path, origin)

    def override(self, text: str) -> None:
        """Apply one `key=value`."""
        path, separator, written = text.partition("=")
        path, origin = path.strip(), f"{_OVERRIDE}{shorten(text, _LONGEST)!r}"
        if not separator:
            self._fault("an override needs a value", origin, "write key=value, such as train.lr=3e-4")
            return
        key, inner = _split_entry(path)
        if key is None and path not in section_paths():
            self._unknown(path, origin)
            return
        try:
            value = parse_value(written, origin)
        except ConfigError as error:
            self.faults.append(error)
            self.suspects |= _below(path) if key is None else {key.path}
            return
        if key is None:
            self._merge_section(path, value, origin)
            return
        self._set(key, value, origin, inner)

    def take(self, key: Key, value: Any) -> None:
        """Set a key to a value of Python, whose type may be wrong."""
        self._set(key, _plain(value), _IN_PYTHON)
        self.origins.pop(key.path, None)

    def build(self) -> Config:
        """Build the config: these values, else those of the preset, else the defaults."""
        config: Config = _section(Config, "", {**preset_values(self.values), **self.values})
        return config

    def _merge_section(self, path: str, value: Any, origin: str) -> None:
        if isinstance(value, Mapping):
            self.merge(value, f"{path}.", origin)
        elif value != "" or not isinstance(value, Word):
            example = next(key for key in keys() if key.startswith(f"{path}."))
            self._fault(f"{path} is a section, not {show(value)}", origin, f"set its keys, such as {example}")
            self.suspects |= _below(path)

    def _set(self, key: Key, value: Any, origin: str, entry: Sequence[str] = ()) -> None:
        """Set a key, or an entry of a mapping, given as the names that lead to it."""
        written = value
        for name in reversed(entry):
            written = {name: written}
        if entry:
            # Only the entry is new: what is wrong in another one has been reported.
            before = self._written.get(key.path, _plain(key.default))
            merged = _merge_entries(before, written)
        else:
            merged = written
        try:
            if entry:
                convert(written, key.annotation)
            converted = convert(merged, key.annotation)
        except DecodeError as error:
            place = _origin_within(written, error.keys, origin)
            remedy = suggest_name(error) if error.reason == "unknown" else value_remedy(key, value)
            self._fault(str(error.below(key.path)), place, remedy)
            self.suspects.add(key.path)
            return
        self._written[key.path] = merged
        self.values[key.path] = converted
        if not entry:
            self.origins = {path: at for path, at in self.origins.items() if not path.startswith(f"{key.path}.")}
        if not entry or key.path not in self.origins:
            self.origins[key.path] = origin
        if entry_kind(key.annotation) is not None:
            self.origins |= _entry_origins(key.path, written, origin)

    def _unknown(self, path: str, origin: str) -> None:
        similar, remedy = suggest_keys(path)
        self._fault(f"unknown key {shorten(path, _LONGEST) or repr(path)}", origin, remedy)
        self.suspects |= {key for known in similar for key in _below(known)}

    def _fault(self, what: str, origin: str, remedy: str) -> None:
        self.faults.append(ConfigError(what, where=origin, remedy=remedy))


def _below(path: str) -> set[str]:
    """A key, or all keys of a section."""
    return {key for key in keys() if key == path or key.startswith(f"{path}.")}


def _section(kind: type, prefix: str, values: Mapping[str, Any]) -> Any:
    arguments: dict[str, Any] = {}
    for name, (annotation, _) in section_fields(kind).items():
        path = f"{prefix}{key_name(name)}"
        if is_dataclass(annotation):
            arguments[name] = _section(annotation, f"{path}.", values)  # type: ignore[arg-type]
        elif path in values:
            # A copy, since a preset's list is shared.
            arguments[name] = copy.deepcopy(values[path])
    return kind(**arguments)


def _origin_within(value: Any, names: Sequence[str | int], origin: str) -> str:
    """The origin of a value inside a mapping that was read from a file, else that of the whole."""
    for name in names:
        if isinstance(value, Located):
            origin = value.origins.get(str(name), origin)
        value = value.get(name) if isinstance(value, Mapping) else None
    return origin


def _entry_origins(path: str, value: Any, origin: str) -> dict[str, str]:
    """Origins of the entries of a mapping of sections, and of their keys, by dotted path."""
    origins: dict[str, str] = {}
    for name, entry in value.items() if isinstance(value, Mapping) else ():
        own = value.origins[name] if isinstance(value, Located) else origin
        origins[f"{path}.{name}"] = own
        for inner in entry if isinstance(entry, Mapping) else ():
            origins[f"{path}.{name}.{inner}"] = entry.origins[inner] if isinstance(entry, Located) else own
    return origins


def _split_entry(path: str) -> tuple[Key | None, list[str]]:
    """Split a dotted path into a key and the entry in its mapping: `loss.tasks.happy` is `happy` of `loss.tasks`.

    A class outside the package has its arguments as entries: `model.class.width`.
    """
    names = path.split(".")
    for count in range(len(names), 0, -1):
        key = keys().get(".".join(names[:count]))
        if key is not None and (count == len(names) or _has_entries(key.annotation)):
            return key, names[count:]
    return None, []


def _has_entries(annotation: Any) -> bool:
    return get_origin(annotation) is dict or annotation == ClassPath


def _merge_entries(base: Any, new: Any) -> Any:
    if isinstance(base, str) and base and isinstance(new, dict) and CLASS not in new:
        # Only a class can be written as a string and as a mapping.
        base = {CLASS: base}
    if not isinstance(base, dict) or not isinstance(new, dict):
        return new
    merged = copy.deepcopy(base)
    for name, value in new.items():
        merged[name] = _merge_entries(merged.get(name), value)
    return merged
