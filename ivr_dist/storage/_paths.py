"""Paths and URLs: joining, checking and displaying them, and names of files below them."""

from __future__ import annotations

import os
import re

from ivr_dist.errors import StorageError
from ivr_dist.sanitize import hide_secrets, shorten

_LOCAL_SCHEMES = ("file", "local")
_OBJECT_STORES = frozenset(("s3", "s3a", "s3n", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss"))
_NEED_HOST = _OBJECT_STORES | {"http", "https", "ftp", "sftp", "ssh"}
# Schemes that are hardly names of folders: `runs:2` is a folder, `s3:bucket` is a URL that lost its slashes.
_SCHEMES = _NEED_HOST | {"file", "local", "memory", "hdfs", "webhdfs", "wasb", "wasbs", "hf", "r2", "dbfs"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_VARIABLE = re.compile(r"(?:^|/)(\$(?:[A-Za-z_]\w*|\{[A-Za-z_]\w*\}))(?=/|$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LONGEST_NAME = 255


class InvalidUrlError(StorageError):
    """A path or URL that is invalid, or would be understood as another one than the user meant."""

    exit_code = 2


class UnsafeNameError(StorageError):
    """A name from an untrusted source that leads out of its folder."""


def join(base: str, *parts: str) -> str:
    """Join a path or URL with names below it.

    Args:
        base: A path or URL, with or without a slash at its end.
        *parts: Relative names, which may hold slashes; empty ones are left out.

    Raises:
        UnsafeNameError: A part leads out of `base`, or is itself a URL.
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
    """Make the error for a name that leads out of `base`."""
    return UnsafeNameError(
        f"{shorten(name, 80)!r} is not the name of a file in this folder",
        where=display(base),
        remedy="names must be plain and stay below the folder; do not use data from a source with such names",
    )


# decision 013
def is_plain(name: object) -> bool:
    """Whether a name from an untrusted source is a file name directly below a folder, on every system.

    It has no slash or backslash, no control characters, no drive, is neither `.` nor `..`, and is at most 255 bytes.
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
    """Convert a local URL to a path, with `~` replaced by the home directory.

    Raises:
        StorageError: `url` is remote.
        InvalidUrlError: It is a URL that lost its slashes, or a path of another system.
    """
    if not is_local(url):
        raise StorageError("not a local path", where=display(url), remedy="name a directory of this machine")
    match = _SCHEME.match(url)
    path = url
    if match:
        path = _path_of_url(url, match[1].lower(), match[2])
    elif url.startswith("\\\\"):
        raise _not_meant(url, "is a path of Windows", url.replace("\\", "/"))
    if "\0" in path or not _encodable(path):
        raise InvalidUrlError("the path has invalid characters", where=shorten(repr(url), 80), remedy="correct it")
    if path.startswith("~"):
        expanded = os.path.expanduser(path)
        if expanded == path:
            raise _not_meant(url, "begins with the home directory of a user who does not exist here", "./" + path)
        return expanded
    return path


def _path_of_url(url: str, name: str, rest: str) -> str:
    """Convert a `file://` URL, in any of its spellings, or the name of a folder with a colon to a path."""
    if name in _LOCAL_SCHEMES:
        if not rest.startswith("/"):
            raise _not_meant(url, "is not a URL of a file", f"{name}:///{rest}")
        if not rest.startswith("//"):
            return rest
        host, _, path = rest[2:].partition("/")
        if host in ("", "localhost"):
            # More than three slashes mean the same as three.
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
    """Make `url` independent of the working directory: a local URL becomes an absolute path.

    Every URL from a user is passed through here, which also checks it.

    Raises:
        InvalidUrlError: It has blanks at an end, an environment variable that was not replaced, or is invalid.
    """
    if url != url.strip():
        raise _not_meant(url, "begins or ends with a blank", url.strip())
    variable = _VARIABLE.search(url)
    if variable:
        raise InvalidUrlError(
            f"{variable[1]} in a path or URL is not replaced here",
            where=display(url),
            remedy="write its value; a shell replaces it outside of single quotes",
        )
    if is_local(url):
        return os.path.abspath(local_path(url))
    check_remote(url)
    return url


def check_remote(url: str) -> None:
    """Refuse a URL without a host or bucket.

    Raises:
        InvalidUrlError: It has none, or has control characters.
    """
    name, _, rest = url.partition("://")
    if name.lower() in _NEED_HOST and rest[:1] in ("/", ""):
        what = "bucket" if name.lower() in _OBJECT_STORES else "host"
        below = rest.lstrip("/") or what.upper()
        raise _not_meant(url, f"names no {what}", f"{name}://{below}")
    if _CONTROL.search(url):
        raise InvalidUrlError(
            "the URL has control characters", where=shorten(repr(display(url)), 80), remedy="correct it"
        )


def _not_meant(url: str, what: str, instead: str, more: str = "") -> InvalidUrlError:
    return InvalidUrlError(f"{display(url)!r} {what}", remedy=f"did you mean {display(instead)}?{more}")


def is_deletable(real_path: str, is_mount: bool, home: str) -> bool:
    """Whether a local tree may be deleted, judged by its name only; directories at the root of a machine may not.

    Args:
        real_path: The tree, absolute and with links resolved.
        is_mount: Whether it is a mount point.
        home: The user's home directory, absolute and with links resolved.
    """
    parts = [part for part in real_path.split("/") if part]
    plain = real_path.startswith("/") and ".." not in parts and "." not in parts
    holds_home = [part for part in home.split("/") if part][: len(parts)] == parts
    return plain and len(parts) >= 2 and not is_mount and not holds_home


def display(url: str) -> str:
    """Remove secrets from `url` for display: a password, and the query of a presigned URL."""
    return url if "://" not in url or scheme(url) in _LOCAL_SCHEMES else hide_secrets(url)


def scheme(url: str) -> str:
    """Return the scheme of a URL, the part before `://`, in lower case."""
    return url.partition("://")[0].lower()


def short_display(url: str) -> str:
    """Shorten a local path below the working directory to a relative one, for display."""
    here = os.getcwd() + os.sep
    return url.removeprefix(here) if is_local(url) else display(url)
