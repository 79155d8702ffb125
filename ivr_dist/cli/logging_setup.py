"""Logging of a command: plain text on stderr, and one JSON object per line in a file.

Modules of the library log through `logging.getLogger(__name__)` and configure nothing. This module attaches handlers to
the logger `ivr_dist` while a command runs:

* stderr receives records from `--log-level` on (WARNING by default), as plain text;
* the file of `--log-json` receives records from INFO on, or from `--log-level` on if that is lower. Lines are appended
  with one write each, so that several processes can share a file.

Both settings are also read from the environment and passed on in it, to the processes that a command starts.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from ivr_dist.display.plain_output import say_lines
from ivr_dist.runtime.environment import LOG_LEVEL
from ivr_dist.runtime.log_level import FORMAT, SafeFormatter
from ivr_dist.sanitize import hide_secrets

FILE_VARIABLE = "IVR_DIST_LOG_JSON"


ALREADY_PRINTED = {"is_printed": True}
"""Value of `extra` for a record whose text the command prints itself: it goes to the file only."""


class Level(StrEnum):
    """Values of `--log-level`."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class StderrHandler(logging.Handler):
    """Writes records to the current `sys.stderr`, with secrets removed and control characters escaped."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        if getattr(record, "is_printed", False):
            return
        try:
            say_lines(self.format(record), sys.stderr)
        except Exception:
            self.handleError(record)


class JsonFileHandler(logging.Handler):
    """Appends records to a file, one JSON object per line.

    A file that cannot be opened or written is reported once, as a warning on stderr; logging to it then stops.

    Args:
        path: The file; it is created if it does not exist.
    """

    def __init__(self, path: str) -> None:
        super().__init__(logging.INFO)
        self._path = path
        self._descriptor: int | None = None
        self._has_failed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Append one record."""
        if self._has_failed:
            return
        try:
            self._append(json_line(record).encode("ascii"))
        except OSError as error:
            self._fail(error.strerror or str(error))
        except Exception as error:
            self._fail(f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        super().close()

    def _append(self, line: bytes) -> None:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if os.write(self._descriptor, line) != len(line):
            raise OSError(0, "only a part of a line was written")

    def _fail(self, reason: str) -> None:
        self._has_failed = True
        say_lines(
            f"warning: the log file cannot be written: {reason} ({self._path}); the command continues", sys.stderr
        )


def json_line(record: logging.LogRecord) -> str:
    """Format a record as one line of JSON, in ASCII.

    The keys are `time` (UTC, ISO 8601), `level`, `logger` and `message`; `event`, the fields of the dataclass or
    mapping in `record.event`, if there is one; and `traceback`, if an exception was logged.
    """
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    fields: dict[str, Any] = {
        "time": f"{seconds}.{int(record.created % 1 * 1e6):06d}Z",
        "level": record.levelname,
        "logger": record.name,
        "message": record.getMessage(),
    }
    event = getattr(record, "event", None)
    if event is not None:
        fields["event"] = event
    if record.exc_info and record.exc_info[0] is not None:
        fields["traceback"] = logging.Formatter().formatException(record.exc_info)
    return json.dumps(_to_json(fields)) + "\n"


def configure(level: Level | None, json_file: str | None) -> None:
    """Attach the handlers of a command.

    Args:
        level: Lowest level on stderr; None: WARNING.
        json_file: Path of the JSON file; None: there is none.
    """
    reset()
    to_stderr = StderrHandler()
    to_stderr.setFormatter(SafeFormatter(FORMAT))
    _logger.addHandler(to_stderr)
    if json_file is not None:
        # Processes that are started in another directory must find the same file.
        path = os.path.abspath(json_file)
        _logger.addHandler(JsonFileHandler(path))
        os.environ[FILE_VARIABLE] = path
    _logger.propagate = False
    _set_levels(level or Level.WARNING)
    if level is not None:
        os.environ[LOG_LEVEL] = level


def set_level(level: str) -> None:
    """Change the level of stderr, and of the processes that the command will start."""
    _set_levels(level)
    os.environ[LOG_LEVEL] = level


@contextmanager
def handlers() -> Iterator[None]:
    """Attach handlers with the default settings, until the context ends; `configure` replaces them."""
    configure(None, None)
    try:
        yield
    finally:
        reset()


def reset() -> None:
    """Detach the handlers of a command."""
    for handler in [one for one in _logger.handlers if isinstance(one, (StderrHandler, JsonFileHandler))]:
        _logger.removeHandler(handler)
        handler.close()
    _logger.propagate = True
    _logger.setLevel(logging.NOTSET)


_logger = logging.getLogger("ivr_dist")


def _set_levels(level: str) -> None:
    number = logging.getLevelNamesMapping()[level]
    lowest = number
    for handler in _logger.handlers:
        if isinstance(handler, StderrHandler):
            handler.setLevel(number)
        elif isinstance(handler, JsonFileHandler):
            handler.setLevel(min(number, logging.INFO))
            lowest = min(lowest, handler.level)
    _logger.setLevel(lowest)


def _to_json(value: Any) -> Any:
    """Convert a value to JSON types: dataclasses to objects, non-finite numbers to null, anything else to text."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return hide_secrets(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        kind = getattr(value, "kind", None)
        return _to_json({"kind": kind, **fields} if isinstance(kind, str) else {"kind": type(value).__name__, **fields})
    if isinstance(value, dict):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_to_json(item) for item in value]
    return hide_secrets(str(value))
