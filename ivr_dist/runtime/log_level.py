"""Log level of worker processes, which inherit it from the command in an environment variable."""

from __future__ import annotations

import logging
import os

from ivr_dist.runtime.environment import LOG_LEVEL
from ivr_dist.sanitize import hide_secrets

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class SafeFormatter(logging.Formatter):
    """Formats records without passwords and signatures of URLs, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        return hide_secrets(super().format(record))


def log_to_stderr() -> None:
    """Log to stderr from the level of the environment on; WARNING if there is none, or no such level.

    For worker processes. Ray keeps their stderr in its session's log files, and prints it with `--debug`.
    """
    level = logging.getLevelNamesMapping().get(os.environ.get(LOG_LEVEL, "").upper(), logging.WARNING)
    logger = logging.getLogger("ivr_dist")
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(SafeFormatter(FORMAT))
        logger.addHandler(handler)
        logger.propagate = False
