"""Errors of the system and of libraries, as one line that a user can act on.

They come as numbers of the system, as pages of stack frames and state dumps, as an exception within an exception within
an exception, or as nothing but a class. Libraries need not be installed, so their classes are known here by name.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ivr_dist.errors import IvrError, StorageError, WorkerError
from ivr_dist.sanitize import hide_secrets, plain, shorten, without_colours

LONGEST = 300
"""Characters of what an error says, but for the name of a file, which is told whole."""

_TRACEBACK = "Traceback (most recent call last)"
_FRAME = re.compile(r"(frame )?#\d+[: ]|File \"|at 0x|C\+\+ CapturedTraceback|Exception raised from |-{2,} |[~^]+$")
_ORIGIN = re.compile(r"(^|: )\[[^\]]*\.(?:cpp|cc|cu|h|hpp|py):\d+\] (?:err == 0\. )?")
_CLASS = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Warning|Exit|Interrupt)(?=:|$)")
_QUERY = re.compile(r"(?<=[\w/])\?[^\s'\"]*=[^\s'\")\]]*")
"""The query that signs a request, where a client shows it without the URL's beginning."""
_UNFINISHED = (":", ",")
_BARE = frozenset(
    ("Exception", "RuntimeError", "OSError", "ValueError", "JSONDecodeError", "UnicodeDecodeError", "BadZipFile")
)
"""Classes whose names tell nothing that their message does not."""

_ERRNO_REMEDIES: Mapping[int, str] = {
    errno.ENOSPC: "free some space there, or choose another place",
    errno.EDQUOT: "free some space there, or choose another place",
    errno.EFBIG: "raise the limit of a file's size, or choose another place",
    errno.EACCES: "check its owner and mode",
    errno.EPERM: "check its owner and mode",
    errno.EROFS: "choose a place that can be written",
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
    """What an error says, as one line without a full stop: no stack, no state dump, nothing cut within a word.

    Args:
        error: Any exception; of one that only wraps another, such as Ray's, the other is described. None: unknown.
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
    said = first_sentence(_text(error), most)
    kind = type(error).__name__
    if not said:
        return kind
    telling = kind in _BARE or _is_ray(error) or _CLASS.match(said)
    return said if telling else shorten(f"{kind}: {said}", most)


def named(error: BaseException) -> str:
    """What an error says, as by `describe`, behind the name of its class: for faults of a program."""
    kind, said = type(error).__name__, describe(error)
    return said if said == kind or said.startswith(f"{kind}:") else f"{kind}: {said}"


def first_sentence(text: str, most: int = LONGEST) -> str:
    """What a message that may be pages long says first, on one line without a full stop.

    Args:
        text: An exception's text, or what a program wrote before it failed; of a traceback, the last line counts.
        most: Longest result in characters.
    """
    lines = " ".join(_first_lines(without_colours(text)))
    said = shorten(plain(_QUERY.sub("", hide_secrets(lines))), most)
    return said[:-1] if said.endswith(".") and not said.endswith("...") else said


def last_words(text: str, most: int = LONGEST) -> str:
    """What a program that failed wrote last, for programs that end with their error."""
    if _TRACEBACK in text:
        return first_sentence(text, most)
    lines = [line for line in without_colours(text).splitlines() if line.strip()]
    return first_sentence(lines[-1], most) if lines else ""


def root_cause(error: BaseException | None) -> BaseException | None:
    """The exception that others only carry: through Ray's wrapping and groups of exceptions."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        carried = next(_carried(error), None)
        if carried is None:
            break
        error = carried
    return error


def remedy_for(error: BaseException | None) -> str:
    """What a user can do about an error, as an imperative without its full stop; empty if nobody knows."""
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
    """The error as one of ours, where it is the environment's and not a fault of the program; else None."""
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
        found = [failure for failure in failures.values() if isinstance(failure, BaseException)]
        # An explained error tells more than that of a worker that waited for the one that had it.
        yield from sorted(found, key=lambda failure: not isinstance(root_cause(failure), IvrError))
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
        # YAML's texts are pictures of the place.
        return problem
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str) and " " in error.args[0]:
        # A sentence, which Python would print as a key.
        return error.args[0]
    return str(error)


def _reason(error: OSError) -> str:
    """The system's words, and the files that it was about."""
    files = _files(error)
    return f"{error.strerror} ({files})" if files else str(error.strerror)


def _files(error: OSError) -> str:
    names = [name for name in (error.filename, error.filename2) if name not in (None, "")]
    return " to ".join(os.fsdecode(name) if isinstance(name, bytes) else str(name) for name in names)


def _first_lines(text: str) -> Iterator[str]:
    """The line that says what is wrong, and those without which it would be half a sentence."""
    lines = text.splitlines()
    marks = [number for number, line in enumerate(lines) if _TRACEBACK in line]
    if marks:
        # Frames are indented; what is not indented after the last of them is the error.
        after = [line for line in lines[marks[-1] + 1 :] if line[:1] not in (" ", "\t")]
        lines = after or lines[: marks[0]]
    for line in map(str.strip, lines):
        line = _ORIGIN.sub(r"\1", line)
        if not line or _FRAME.match(line):
            continue
        yield line
        if not line.endswith(_UNFINISHED):
            return
