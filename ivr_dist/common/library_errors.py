"""Translates errors of the operating system and of libraries into one line with a remedy.

They come as error numbers, as pages of stack frames and state dumps, as nested exceptions, or as a bare class. Classes
are matched by name, since the libraries need not be installed.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ivr_dist.errors import IvrError, StorageError, WorkerError
from ivr_dist.sanitize import hide_secrets, plain, shorten, without_colors

LONGEST = 300
"""Longest text of an error in characters, without the names of files, which are not shortened."""

_TRACEBACK = "Traceback (most recent call last)"
_FRAME = re.compile(r"(frame )?#\d+[: ]|File \"|at 0x|C\+\+ CapturedTraceback|Exception raised from |-{2,} |[~^]+$")
_ORIGIN = re.compile(r"(^|: )\[[^\]]*\.(?:cpp|cc|cu|h|hpp|py):\d+\] (?:err == 0\. )?")
_CLASS = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Warning|Exit|Interrupt)(?=:|$)")
_QUERY = re.compile(r"(?<=[\w/])\?[^\s'\"]*=[^\s'\")\]]*")
"""The query that signs a request, where a client shows it without the start of the URL."""
_UNFINISHED = (":", ",")
_BARE = frozenset(
    ("Exception", "RuntimeError", "OSError", "ValueError", "JSONDecodeError", "UnicodeDecodeError", "BadZipFile")
)
"""Classes whose names add nothing to their messages."""

_ERRNO_REMEDIES: Mapping[int, str] = {
    errno.ENOSPC: "free some space there, or choose another location",
    errno.EDQUOT: "free some space there, or choose another location",
    errno.EFBIG: "raise the limit of a file's size, or choose another location",
    errno.EACCES: "check its owner and mode",
    errno.EPERM: "check its owner and mode",
    errno.EROFS: "choose a writable location",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "check the path",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "check the path",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
    errno.ENFILE: "raise the system's limit of open files",
    errno.EAGAIN: "raise the limit of processes: ulimit -u",
    errno.ENOMEM: "free some memory, or start fewer processes",
    errno.EIO: "check the disk",
    errno.ESTALE: "mount the file system again",
    errno.EADDRINUSE: "end what uses the port, or choose another one",
}
_NETWORK = frozenset(
    (
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.ETIMEDOUT,
    )
)
_MEMORY_REMEDY = "free some memory, start fewer processes, or lower train.max_micro_batch"
_DEVICE_REMEDY = "lower train.max_micro_batch, or set train.recompute=true"


def describe(error: BaseException | None, most: int = LONGEST) -> str:
    """Describe an error in one line without a full stop: no stack, no state dump, no word cut off.

    Args:
        error: Any exception; if it only wraps another one, as Ray's do, that one is described. None: unknown.
        most: Longest result in characters.
    """
    error = root_cause(error)
    if error is None:
        return "unknown"
    if isinstance(error, IvrError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return shorten(plain(_reason(error)), most)
    if isinstance(error, (MemoryError, TimeoutError)) and not str(error):
        return "out of memory" if isinstance(error, MemoryError) else "timed out"
    message = first_sentence(_text(error), most)
    kind = type(error).__name__
    if not message:
        return kind
    is_complete = kind in _BARE or _is_ray(error) or _CLASS.match(message)
    return message if is_complete else shorten(f"{kind}: {message}", most)


def named(error: BaseException) -> str:
    """Describe an error as `describe` does, after the name of its class: for bugs."""
    kind, message = type(error).__name__, describe(error)
    return message if message == kind or message.startswith(f"{kind}:") else f"{kind}: {message}"


def first_sentence(text: str, most: int = LONGEST) -> str:
    """Return the first sentence of a message that may be pages long, on one line without a full stop.

    Args:
        text: An exception's text, or the output of a program that failed; of a traceback, the last line is used.
        most: Longest result in characters.
    """
    lines = " ".join(_first_lines(without_colors(text)))
    message = shorten(plain(_QUERY.sub("", hide_secrets(lines))), most)
    return message[:-1] if message.endswith(".") and not message.endswith("...") else message


def last_words(text: str, most: int = LONGEST) -> str:
    """Return the last line of a failed program's output, for programs whose last line is the error."""
    if _TRACEBACK in text:
        return first_sentence(text, most)
    lines = [line for line in without_colors(text).splitlines() if line.strip()]
    return first_sentence(lines[-1], most) if lines else ""


def root_cause(error: BaseException | None) -> BaseException | None:
    """Unwrap an exception: Ray's errors and exception groups."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        carried = next(_carried(error), None)
        if carried is None:
            break
        error = carried
    return error


def remedy_for(error: BaseException | None) -> str:
    """Return a remedy for an error, as an imperative without a full stop; empty if none is known."""
    error = root_cause(error)
    if isinstance(error, IvrError):
        return error.remedy
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number in _ERRNO_REMEDIES:
        return _ERRNO_REMEDIES[number]
    if number in _NETWORK or isinstance(error, (ConnectionError, TimeoutError)):
        return "check the address and the network"
    text = str(error)
    if _is_threads(text):
        return "raise the limit of processes: ulimit -u"
    if error is not None and _is_memory(error):
        return _DEVICE_REMEDY if "CUDA" in text else _MEMORY_REMEDY
    if error is not None and _is_ray(error):
        return "look at the cluster with `ivr-dist doctor`; the same command continues a run from its last checkpoint"
    return ""


def explained(error: BaseException) -> IvrError | None:
    """Convert an error caused by the environment to an `IvrError`; None for a bug."""
    cause = root_cause(error)
    if cause is None or isinstance(cause, IvrError):
        return cause
    if isinstance(cause, OSError) and cause.strerror and cause.errno is not None:
        words = cause.strerror[0].lower() + cause.strerror[1:]
        return StorageError(words, where=_files(cause), remedy=remedy_for(cause))
    if _is_memory(cause) or _is_ray(cause) or _is_threads(str(cause)):
        return WorkerError(describe(cause), remedy=remedy_for(cause))
    return None


def _carried(error: BaseException) -> Iterator[BaseException]:
    failures = getattr(error, "worker_failures", None)
    if isinstance(failures, Mapping):
        errors = [failure for failure in failures.values() if isinstance(failure, BaseException)]
        # An `IvrError` is more specific than the error of a worker that waited for the failed one.
        yield from sorted(errors, key=lambda failure: not isinstance(root_cause(failure), IvrError))
    for name in ("controller_failure", "cause"):
        inner: Any = getattr(error, name, None)
        if isinstance(inner, BaseException):
            yield inner
    if isinstance(error, BaseExceptionGroup):
        yield from error.exceptions


def _is_ray(error: BaseException) -> bool:
    return any(kind.__module__.split(".")[0] == "ray" for kind in type(error).__mro__)


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return not _is_ray(error) and ("out of memory" in text or "can't allocate memory" in text)


def _is_threads(text: str) -> bool:
    return "can't start new thread" in text


def _text(error: BaseException) -> str:
    problem = getattr(error, "problem", None)
    if isinstance(problem, str):
        # `str` of a YAML error draws the position in several lines.
        return problem
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str) and " " in error.args[0]:
        # A sentence, which `str` would print in quotes.
        return error.args[0]
    return str(error)


def _reason(error: OSError) -> str:
    """Return the message of the operating system, with the names of the files."""
    files = _files(error)
    return f"{error.strerror} ({files})" if files else str(error.strerror)


def _files(error: OSError) -> str:
    names = [name for name in (error.filename, error.filename2) if name not in (None, "")]
    return " to ".join(os.fsdecode(name) if isinstance(name, bytes) else str(name) for name in names)


def _first_lines(text: str) -> Iterator[str]:
    """Yield the line that names the error, and the lines that complete its sentence."""
    lines = text.splitlines()
    marks = [number for number, line in enumerate(lines) if _TRACEBACK in line]
    if marks:
        # Frames are indented; the first line after them without indentation is the error.
        after = [line for line in lines[marks[-1] + 1 :] if line[:1] not in (" ", "\t")]
        lines = after or lines[: marks[0]]
    for line in map(str.strip, lines):
        line = _ORIGIN.sub(r"\1", line)
        if not line or _FRAME.match(line):
            continue
        yield line
        if not line.endswith(_UNFINISHED):
            return
