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
from collections.abc import Callable, Collection, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from ivr_dist.common.library_errors import named as named_error
from ivr_dist.common.own_code import OWN_ERRORS
from ivr_dist.errors import ConfigError, UserError

CLASS = "class"
"""Key of the dotted path in a mapping; the other keys are arguments."""
DOCUMENTATION = "docs/extending.md"

_FORM = "write it as package.module:Class, such as mine.parts:Alarm"
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_HASH_DIGITS = 12
_MOST_NAMES = 8
"""Names that an error lists at most."""


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
    folder = folder or os.getcwd()
    add_folder(folder)
    module_name, _, name = class_ref.path.partition(":")
    try:
        # The standard output belongs to the command, whose result may be read by a program.
        with redirect_stdout(sys.stderr):
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise _no_module(error, module_name, class_ref.key, folder) from error
    except OWN_ERRORS as error:  # whatever the module raises is the user's own code
        raise ConfigError(
            f"{module_name} fails while it is imported: {named_error(error)}",
            where=class_ref.key,
            remedy=f"correct it; `python -c 'import {module_name}'` shows the traceback",
        ) from error
    found = getattr(module, name, None)
    if not inspect.isclass(found):
        what = f"{module_name} has no {name}" if found is None else f"{class_ref.path} is not a class"
        remedy = _shadowed(module_name, folder) or _suggestion(name, module)
        raise ConfigError(what, where=class_ref.key, remedy=remedy)
    kind: type = found
    return kind


def add_folder(folder: str) -> None:
    """Add a folder to the import path, after installed packages."""
    if folder not in sys.path:
        sys.path.append(folder)
        importlib.invalidate_caches()


def _no_module(error: ModuleNotFoundError, module_name: str, key: str, folder: str) -> ConfigError:
    missing = error.name or module_name
    above, _, last = missing.rpartition(".")
    close = difflib.get_close_matches(last, _modules_in(above), n=1)
    suggestion = f"did you mean {above + '.' if above else ''}{close[0]}?" if close and last != close[0] else ""
    if missing != module_name and not module_name.startswith(f"{missing}."):
        remedy = suggestion or "install it"
        return ConfigError(f"{module_name} needs the module {missing}", where=key, remedy=remedy)
    remedy = suggestion or "install it, or run the command in the folder that holds it"
    return ConfigError(f"no module {missing}", where=key, remedy=_shadowed(module_name, folder) or remedy)


def _modules_in(package: str) -> list[str]:
    """Names of the modules of an imported package, or of the current directory; for suggestions."""
    folders = list(getattr(sys.modules.get(package), "__path__", [])) if package else [os.getcwd()]
    paths = [path for folder in folders if os.path.isdir(folder) for path in Path(folder).iterdir()]
    return sorted({path.stem for path in paths if path.suffix == ".py" or (path.is_dir() and path.stem.isidentifier())})


def _shadowed(module_name: str, folder: str) -> str:
    """The remedy where a folder holds a module of a name that an installed one has, which is the one imported."""
    top = module_name.partition(".")[0]
    ours = [path for path in (Path(folder, top), Path(folder, f"{top}.py")) if path.exists()]
    module = sys.modules.get(top)
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    found = next((place for place in places if place), "built into Python")
    if module is None or not ours or any(Path(place).is_relative_to(folder) for place in places if place):
        return ""
    return f"rename {ours[0]}: the module {top} is {found}, which comes first"


def _suggestion(name: str, module: ModuleType) -> str:
    """The remedy where a module has no class of a name: a similar one, or those that it has."""
    classes = {key: value for key, value in vars(module).items() if inspect.isclass(value)}
    close = difflib.get_close_matches(name, classes, n=1)
    if close:
        return f"did you mean {close[0]}?"
    # Its own classes say more than those that it imports.
    own = sorted(key for key, value in classes.items() if value.__module__ == module.__name__) or sorted(classes)
    more = f" and {len(own) - _MOST_NAMES} more" if len(own) > _MOST_NAMES else ""
    return f"it has {', '.join(own[:_MOST_NAMES])}{more}" if own else "it has no classes"


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
    try:
        signature.bind_partial(*[None] * positional)
    except TypeError as error:
        what = f"{class_ref.path} cannot be made: its constructor takes fewer than {positional} positional arguments"
        raise ConfigError(what, where=class_ref.key, remedy=f"see {DOCUMENTATION}") from error
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


def check_methods(kind: type, class_ref: ClassReference, role: str, methods: Mapping[str, int]) -> None:
    """Refuse a class that lacks a method of its protocol, has inherited an abstract one, or takes other arguments.

    Args:
        kind: The class.
        class_ref: Where it is class_ref.
        role: What it is to be, with an article: `a loss term`.
        methods: The methods it must have, and with how many positional arguments each is called.

    Raises:
        ConfigError: It lacks one, or one cannot be called like that.
    """
    for name, arguments in methods.items():
        method = getattr(kind, name, None)
        if not callable(method) or getattr(method, "__isabstractmethod__", False):
            raise lacks(class_ref, role, name)
        _check_call(kind, class_ref, name, arguments)


def _check_call(kind: type, class_ref: ClassReference, name: str, arguments: int) -> None:
    """Refuse a method that cannot be called with a number of positional arguments, or is a coroutine."""
    what = ""
    member = inspect.getattr_static(kind, name)
    method = getattr(kind, name)
    if inspect.iscoroutinefunction(method):
        what = "is a coroutine, which nothing awaits"
    else:
        try:
            # A plain function is called with the instance before its arguments.
            inspect.signature(method).bind(*[None] * (arguments + inspect.isfunction(member)))
        except TypeError:
            what = f"cannot be called with {arguments} argument{'' if arguments == 1 else 's'}"
        except ValueError:
            return
    if what:
        raise ConfigError(f"{class_ref.path}: {name} {what}", where=class_ref.key, remedy=f"see {DOCUMENTATION}")


def check_names(kind: type, class_ref: ClassReference, member: str, allowed: Collection[str], of: str) -> None:
    """Refuse a class attribute that is not a tuple or list of allowed names.

    Args:
        kind: The class.
        class_ref: Where it is class_ref.
        member: The attribute, such as `needs`.
        allowed: The names it may hold.
        of: What they name, with an article, such as `a part of a model's output`.

    Raises:
        ConfigError: It has another form, or holds another name.
    """
    names = getattr(kind, member)
    if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
        what = f"{class_ref.path}: {member} = {names!r} is not a tuple of names"
        raise ConfigError(what, where=class_ref.key, remedy=f'write it as {member} = ("{next(iter(allowed))}",)')
    for name in names:
        if name not in allowed:
            close = difflib.get_close_matches(name, allowed, n=1)
            remedy = f"did you mean {close[0]}?" if close else f"use {', '.join(allowed)}"
            raise ConfigError(
                f"{class_ref.path}: {member} names {name}, which is not {of}", where=class_ref.key, remedy=remedy
            )


def check_derived(kind: type, class_ref: ClassReference, role: str, base: type) -> None:
    """Refuse a class that is not derived from the base class of its protocol.

    Raises:
        ConfigError: It is not.
    """
    if not issubclass(kind, base):
        remedy = f"derive it from {base.__module__}.{base.__qualname__}; see {DOCUMENTATION}"
        raise ConfigError(f"{class_ref.path} is not {role}", where=class_ref.key, remedy=remedy)
    for name in sorted(getattr(kind, "__abstractmethods__", ())):
        raise lacks(class_ref, role, name)


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
    except OWN_ERRORS as error:  # whatever the constructor raises is the user's own code
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
