"""Dotted paths: classes that a config, a checkpoint or a card names as `package.module:Class`, imported and checked.

Nothing is imported before `import_class` is called. Importing runs the code of the module, so a path that a file from
elsewhere names is imported only where the user trusts it (`check_trusted`).
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ivr_dist.common.library_errors import named as named_error
from ivr_dist.errors import ConfigError, UserError

CLASS = "class"
"""Key of the dotted path in a mapping; the other keys are arguments."""
DOCUMENTATION = "docs/extending.md"

_FORM = "write it as package.module:Class, such as mine.parts:Alarm"
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_HASH_DIGITS = 12


@dataclass(frozen=True)
class ClassReference:
    """A class outside the package, its constructor's arguments, and the key that names it."""

    path: str
    """`package.module:Class`."""
    key: str
    """The key that names it, such as `loss.extra.contrast`; for errors."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of its constructor."""

    def __str__(self) -> str:
        """The path and the arguments, for tables."""
        return ", ".join([self.path, *(f"{name} {value}" for name, value in self.arguments.items())])


def reference(value: str | Mapping[str, Any], key: str, ours: Collection[str] = ()) -> ClassReference:
    """Parse a value of the config: a dotted path, or a mapping of `class` and the constructor's arguments.

    Args:
        value: The value.
        key: Its key, for errors.
        ours: Keys of the mapping that are not arguments, such as `weight`.

    Raises:
        ConfigError: The value has another form.
    """
    entries = {CLASS: value} if isinstance(value, str) else dict(value)
    path = entries.pop(CLASS, None)
    if path is None:
        raise ConfigError("a mapping without class", where=key, remedy=f"name the class there: {_FORM}")
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise ConfigError(f"{path!r} is not the path of a class", where=key, remedy=_FORM)
    return ClassReference(path, key, {name: entry for name, entry in entries.items() if name not in ours})


def import_class(class_ref: ClassReference, folder: str | None = None) -> type:
    """Import a class.

    Args:
        class_ref: The class.
        folder: Searched for modules after the installed packages; None: the current directory, as in the command.

    Raises:
        ConfigError: The module is missing or fails while it is imported, or has no such class; a similar name is
            suggested.
    """
    add_folder(folder or os.getcwd())
    module_name, _, name = class_ref.path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise _no_module(error, module_name, class_ref.key) from error
    except Exception as error:  # a user's module may raise anything
        raise ConfigError(
            f"{module_name} fails while it is imported: {named_error(error)}",
            where=class_ref.key,
            remedy=f"correct it; `python -c 'import {module_name}'` shows the traceback",
        ) from error
    member = getattr(module, name, None)
    if not inspect.isclass(member):
        classes = sorted(key for key, value in vars(module).items() if inspect.isclass(value))
        what = f"{module_name} has no {name}" if member is None else f"{class_ref.path} is not a class"
        raise ConfigError(what, where=class_ref.key, remedy=_suggestion(name, classes))
    kind: type = member
    return kind


def add_folder(folder: str) -> None:
    """Add a folder to the import path, after installed packages."""
    if folder not in sys.path:
        sys.path.append(folder)
        importlib.invalidate_caches()


def _no_module(error: ModuleNotFoundError, module_name: str, key: str) -> ConfigError:
    missing = error.name or module_name
    if missing != module_name and not module_name.startswith(f"{missing}."):
        return ConfigError(f"{module_name} needs the module {missing}", where=key, remedy="install it")
    above, _, last = missing.rpartition(".")
    siblings = _modules_in(above)
    close = difflib.get_close_matches(last, siblings, n=1)
    suggestion = f"did you mean {above + '.' if above else ''}{close[0]}?" if close else ""
    remedy = suggestion or "install it, or run the command in the folder that holds it"
    return ConfigError(f"no module {missing}", where=key, remedy=remedy)


def _modules_in(package: str) -> list[str]:
    """Names of the modules of an imported package, or of the current directory; for suggestions."""
    folders = list(getattr(sys.modules.get(package), "__path__", [])) if package else [os.getcwd()]
    paths = [path for folder in folders for path in Path(folder).iterdir()]
    return sorted({path.stem for path in paths if path.suffix == ".py" or (path.is_dir() and path.stem.isidentifier())})


def _suggestion(name: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"it has {', '.join(names)}" if names else "it has no classes"


def check_arguments(kind: Callable[..., Any], class_ref: ClassReference, positional: int = 0) -> None:
    """Refuse arguments that the constructor of a class does not take.

    Args:
        kind: The class.
        class_ref: Its entry in the config, with the arguments.
        positional: Arguments that the package itself passes first.

    Raises:
        ConfigError: An argument is unknown, or one without a default is missing.
    """
    try:
        signature = inspect.signature(kind)
    except (TypeError, ValueError):
        return
    parameters = list(signature.parameters.values())[positional:]
    names = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for argument in class_ref.arguments:
        if argument not in names and not any(p.kind == p.VAR_KEYWORD for p in parameters):
            close = difflib.get_close_matches(argument, names, n=1)
            takes = f"it takes {', '.join(names)}" if names else "it takes none"
            remedy = f"did you mean {close[0]}?" if close else takes
            raise ConfigError(f"{class_ref.path} takes no argument {argument}", where=class_ref.key, remedy=remedy)
    try:
        signature.bind(*[None] * positional, **class_ref.arguments)
    except TypeError as error:
        raise ConfigError(
            f"{class_ref.path} cannot be made: {error}", where=class_ref.key, remedy="give the argument beside class"
        ) from error


def check_methods(kind: type, class_ref: ClassReference, role: str, methods: Collection[str]) -> None:
    """Refuse a class that lacks a method of its protocol, or has inherited an abstract one.

    Args:
        kind: The class.
        class_ref: Its entry in the config.
        role: Its role, with an article: `a loss term`.
        methods: Names of the methods it must have.

    Raises:
        ConfigError: It lacks one.
    """
    for name in methods:
        method = getattr(kind, name, None)
        if not callable(method) or getattr(method, "__isabstractmethod__", False):
            raise lacks(class_ref, role, name)


def check_derived(kind: type, class_ref: ClassReference, role: str, base: type) -> None:
    """Refuse a class that is not derived from the base class of its protocol.

    Raises:
        ConfigError: It is not.
    """
    if not issubclass(kind, base):
        remedy = f"derive it from {base.__module__}.{base.__qualname__}; see {DOCUMENTATION}"
        raise ConfigError(f"{class_ref.path} is not {role}", where=class_ref.key, remedy=remedy)


def lacks(class_ref: ClassReference, role: str, member: str) -> ConfigError:
    """Build the error for a class that lacks a member of its protocol."""
    what, remedy = f"{class_ref.path} is not {role}: it has no {member}", f"see {DOCUMENTATION}"
    return ConfigError(what, where=class_ref.key, remedy=remedy)


def make(kind: type, class_ref: ClassReference, *positional: Any) -> Any:
    """Instantiate a class with the arguments of its entry.

    Raises:
        ConfigError: The constructor fails.
    """
    try:
        return kind(*positional, **class_ref.arguments)
    except UserError:
        raise
    except Exception as error:  # a user's constructor may raise anything
        raise ConfigError(
            f"{class_ref.path} cannot be made: {named_error(error)}",
            where=class_ref.key,
            remedy="correct the class or its arguments",
        ) from error


def check_trusted(class_ref: ClassReference, trust_code: bool, file: str) -> None:
    """Refuse to import what a file from elsewhere names, unless the user trusts it.

    Args:
        class_ref: The class.
        trust_code: Whether the user trusts it (`--trust-code`).
        file: The checkpoint or card that names it.

    Raises:
        UserError: The user does not.
    """
    if not trust_code:
        raise UserError(
            f"{class_ref.key} is {class_ref.path}, code that importing would run",
            where=file,
            remedy="give --trust-code (trust_code=True in Python) if you trust that code",
        )


def import_recorded(class_ref: ClassReference, file: str, version: str = "") -> type:
    """Import a class that a checkpoint or card names.

    Args:
        class_ref: The class.
        file: What names it, for errors.
        version: Its version when the file was written; empty if unknown.

    Raises:
        UserError: It cannot be imported here.
    """
    try:
        return import_class(class_ref)
    except ConfigError as error:
        of = f" (version {version} when it was written)" if version else ""
        raise UserError(
            f"it needs {class_ref.path}{of}, which cannot be imported here: {error.what}",
            where=file,
            remedy="install that code, or run the command in the folder that holds it",
        ) from error


def recorded(class_ref: ClassReference, kind: type) -> dict[str, str]:
    """Return the record of a class in a checkpoint: its path and version."""
    return {CLASS: class_ref.path, "version": version_of(kind)}


def version_of(kind: type) -> str:
    """Return the version of a class's installed distribution; without one, a hash of the file that defines it."""
    installed = _distribution_of(kind.__module__.partition(".")[0])
    if installed:
        return installed
    file = source_file(kind)
    return "unknown" if file is None else f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()[:_HASH_DIGITS]}"


def source_file(kind: type) -> Path | None:
    """Return the file that defines a class; None if it is installed, or was not read from a file."""
    if _distribution_of(kind.__module__.partition(".")[0]):
        return None
    try:
        return Path(inspect.getfile(kind)).resolve()
    except (OSError, TypeError):
        return None


@cache
def _distribution_of(package: str) -> str:
    """Return name and version of the distribution of a top-level package; empty if there is none."""
    names = metadata.packages_distributions().get(package, [])
    return f"{names[0]} {metadata.version(names[0])}" if names else ""


def references_in(values: Mapping[str, str | Mapping[str, Any]], prefix: str) -> Iterator[ClassReference]:
    """Parse a mapping of names to classes; the references have the keys `PREFIX.NAME`."""
    for name, value in values.items():
        yield reference(value, f"{prefix}.{name}")
