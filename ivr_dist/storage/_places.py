"""Names of places: paths and URLs."""

from __future__ import annotations

import os
import re

from ivr_dist.errors import StorageError

_LOCAL_SCHEMES = ("file", "local")


def join(base: str, *parts: str) -> str:
    """Join a path or URL with names below it.

    Args:
        base: A path or URL, with or without a slash at its end.
        *parts: Relative names, which may hold slashes; empty ones are left out.
    """
    prefix, mark, rest = base.partition("://") if "://" in base else ("", "", base)
    head = rest.rstrip("/") or ("/" if rest.startswith("/") else "")
    tail = "/".join(part.strip("/") for part in parts if part.strip("/"))
    separator = "/" if tail and head not in ("", "/") else ""
    return prefix + mark + head + separator + tail


def is_local(url: str) -> bool:
    """Whether `url` is a path of this machine: a plain path, or one written as `file://`."""
    return "://" not in url or scheme(url) in _LOCAL_SCHEMES


def local_path(url: str) -> str:
    """The path of a local place, with `~` replaced by the home directory.

    Raises:
        StorageError: `url` is remote.
    """
    if not is_local(url):
        raise StorageError("not a local path", where=display(url), remedy="give a directory of this machine")
    return os.path.expanduser(url.partition("://")[2] if "://" in url else url)


def absolute(url: str) -> str:
    """`url` such that it means the same in any working directory: a local place as an absolute path."""
    return os.path.abspath(local_path(url)) if is_local(url) else url


def is_deletable(real_path: str, is_mount: bool, home: str) -> bool:
    """Whether a local tree may be deleted, judged by its name alone; what lies at the root of a machine never may.

    Args:
        real_path: The tree, absolute and with links resolved.
        is_mount: Whether it is where a file system is mounted.
        home: The user's home directory, absolute and with links resolved.
    """
    parts = [part for part in real_path.split("/") if part]
    plain = real_path.startswith("/") and ".." not in parts and "." not in parts
    holds_home = [part for part in home.split("/") if part][: len(parts)] == parts
    return plain and len(parts) >= 2 and not is_mount and not holds_home


def display(url: str) -> str:
    """`url` as it may be shown: without a password and without the query that signs a request."""
    return url if is_local(url) else re.sub(r"://[^/@]*@", "://***@", url).partition("?")[0]


def scheme(url: str) -> str:
    """What stands before `://`, in lower case."""
    return url.partition("://")[0].lower()
