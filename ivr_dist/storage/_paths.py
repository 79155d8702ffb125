"""Names of places: paths and URLs, and of what is directly below them."""

from __future__ import annotations

import os
import re

from ivr_dist.errors import StorageError
from ivr_dist.sanitize import hide_secrets, shorten

_LOCAL_SCHEMES = ("file", "local")
_OBJECT_STORES = frozenset(("s3", "s3a", "s3n", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss"))
_NEED_HOST = _OBJECT_STORES | {"http", "https", "ftp", "sftp", "ssh"}
# What nobody calls a folder by accident: `runs:2` is one, `s3:bucket` is a URL with its slashes lost.
_SCHEMES = _NEED_HOST | {"file", "local", "memory", "hdfs", "webhdfs", "wasb", "wasbs", "hf", "r2", "dbfs"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_VARIABLE = re.compile(r"(?:^|/)(\$(?:[A-Za-z_]\w*|\{[A-Za-z_]\w*\}))(?=/|$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LONGEST_NAME = 255


class PlaceError(StorageError):
    """What stands for a place is none, or would be taken for another one than was meant."""

    exit_code = 2


class UnsafeNameError(StorageError):
    """A name that comes from elsewhere leads out of the folder it is said to be in."""


def join(base: str, *parts: str) -> str:
    """Join a path or URL with names below it.

    Args:
        base: A path or URL, with or without a slash at its end.
        *parts: Relative names, which may hold slashes; empty ones are left out.

    Raises:
        UnsafeNameError: A part leads out of `base`, or is a URL of its own.
    """
    prefix, mark, rest = base.partition("://") if "://" in base else ("", "", base)
    head = rest.rstrip("/") or ("/" if rest.startswith("/") else "")
    tail = "/".join(part.strip("/") for part in parts if part.strip("/"))
    if ".." in tail or "://" in tail or "\0" in tail:
        _refuse_leading_out(tail, base)
    separator = "/" if tail and head not in ("", "/") else ""
    return prefix + mark + head + separator + tail


def _refuse_leading_out(tail: str, base: str) -> None:
    if ".." in re.split(r"[/\\]", tail) or "://" in tail or "\0" in tail:
        raise unsafe(tail, base)


def unsafe(name: str, base: str) -> UnsafeNameError:
    """The error for a name that is not one of something below `base`."""
    return UnsafeNameError(
        f"{shorten(name, 80)!r} is not the name of something in this folder",
        where=display(base),
        remedy="names must be plain and stay below the folder; do not use files from someone who sends others",
    )


def is_plain(name: object) -> bool:
    """Whether a name that comes from elsewhere names something directly below a folder, and nothing else anywhere.

    It has no slash of either kind, no control characters, no drive, is neither `.` nor `..`, and fits a file system.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name:
        return False
    if _CONTROL.search(name) or re.match(r"[A-Za-z]:", name):
        return False
    return _encodable(name) and len(os.fsencode(name)) <= _LONGEST_NAME


def _encodable(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def is_local(url: str) -> bool:
    """Whether `url` is a path of this machine: a plain path, or one written as `file://`."""
    return "://" not in url or scheme(url) in _LOCAL_SCHEMES


def local_path(url: str) -> str:
    """The path of a local place, with `~` replaced by the home directory.

    Raises:
        StorageError: `url` is remote.
        PlaceError: It is a URL that lost its slashes, or a path of another system.
    """
    if not is_local(url):
        raise StorageError("not a local path", where=display(url), remedy="give a directory of this machine")
    match = _SCHEME.match(url)
    path = url
    if match:
        path = _path_of_url(url, match[1].lower(), match[2])
    elif url.startswith("\\\\"):
        raise _not_meant(url, "is a path of Windows", url.replace("\\", "/"))
    if "\0" in path or not _encodable(path):
        raise PlaceError("a path has no such characters", where=shorten(repr(url), 80), remedy="correct it")
    if path.startswith("~"):
        found = os.path.expanduser(path)
        if found == path:
            raise _not_meant(url, "begins with the home directory of a user who is not known here", "./" + path)
        return found
    return path


def _path_of_url(url: str, name: str, rest: str) -> str:
    """The path of a place that begins like a URL: of `file://`, in any of its spellings, or a folder with a colon."""
    if name in _LOCAL_SCHEMES:
        if not rest.startswith("/"):
            raise _not_meant(url, "is no URL of a file", f"{name}:///{rest}")
        if not rest.startswith("//"):
            return rest
        host, _, path = rest[2:].partition("/")
        if host in ("", "localhost"):
            # More slashes than three mean no more than one.
            return "/" + path.lstrip("/")
        if host.startswith("~") or host == ".":
            return rest[2:]
        raise _not_meant(url, f"is on a machine {host}, not on this one", f"{name}:///{rest[2:]}")
    if len(name) == 1 and rest[:1] in ("/", "\\"):
        raise _not_meant(url, "is a path of Windows", rest.replace("\\", "/"))
    if name in _SCHEMES or rest.startswith(("/", "\\")):
        below = rest.replace("\\", "/").lstrip("/")
        raise _not_meant(url, "is neither a URL nor a path", f"{name}://{below}", f"; for a folder write ./{url}")
    return url


def absolute(url: str) -> str:
    """`url` such that it means the same in any working directory: a local place as an absolute path.

    What a user gives goes through here: it is also checked that it means what it says.

    Raises:
        PlaceError: It has blanks at an end, an environment variable that nobody replaced, or is otherwise not a place.
    """
    if url != url.strip():
        raise _not_meant(url, "begins or ends with a blank", url.strip())
    variable = _VARIABLE.search(url)
    if variable:
        raise PlaceError(
            f"{variable[1]} in a place is not replaced here",
            where=display(url),
            remedy="give its value; a shell replaces it outside of single quotes",
        )
    if is_local(url):
        return os.path.abspath(local_path(url))
    check_remote(url)
    return url


def check_remote(url: str) -> None:
    """Refuse a URL that names no host or bucket.

    Raises:
        PlaceError: It does not.
    """
    name, _, rest = url.partition("://")
    if name.lower() in _NEED_HOST and rest[:1] in ("/", ""):
        what = "bucket" if name.lower() in _OBJECT_STORES else "host"
        below = rest.lstrip("/") or what.upper()
        raise _not_meant(url, f"names no {what}", f"{name}://{below}")
    if _CONTROL.search(url):
        raise PlaceError("a URL has no control characters", where=shorten(repr(display(url)), 80), remedy="correct it")


def _not_meant(url: str, what: str, instead: str, more: str = "") -> PlaceError:
    return PlaceError(f"{display(url)!r} {what}", remedy=f"did you mean {display(instead)}?{more}")


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
    return url if "://" not in url or scheme(url) in _LOCAL_SCHEMES else hide_secrets(url)


def scheme(url: str) -> str:
    """What stands before `://`, in lower case."""
    return url.partition("://")[0].lower()


def shown(url: str) -> str:
    """A local place below the working directory as the user would type it."""
    here = os.getcwd() + os.sep
    return url.removeprefix(here) if is_local(url) else display(url)
