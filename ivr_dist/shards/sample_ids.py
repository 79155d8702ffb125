"""Who a sample is: the id in its JSON, the KEY of its tar members, and what one tells of the other.

An id is any text, or a whole number of at most 64 bits, which stands for its digits. A KEY is a name of tar members.
`pack` makes the KEY of the id, so an index of KEYs tells whether a sample has a given id; in tars made elsewhere they
may have nothing to do with each other, and the index keeps the ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import xxhash

from ivr_dist.errors import CorruptDataError
from ivr_dist.sanitize import shorten

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_MAX_KEY = 80
_SHOWN = 40


def id_of(about: Mapping[str, Any], shard: str, key: str) -> str:
    """The identity that a sample's JSON gives it in its corpus; KEY where it says nothing.

    Raises:
        CorruptDataError: It is neither a text nor a whole number.
    """
    found = about.get("id", key)
    if type(found) is str and found:
        return found
    # Larger ones are floats to some readers, and then several are one.
    if type(found) is int and -(2**63) <= found < 2**64:
        return str(found)
    raise CorruptDataError(
        f"the sample's id is {shorten(json.dumps(found), _SHOWN)}, not a text",
        where=f"{shard}, sample {key}",
        remedy="give every sample an id of its own, or none: then it is called by the name of its members",
    )


def tar_key(id_: str) -> str:
    """A sample id as the name of tar members: letters, digits, underscore and minus, at most 80.

    WebDataset cuts names at the first dot, and USTAR has room for 100 bytes. An id that is not such a name gets a
    hash of itself at its end, so that two ids do not become one.
    """
    safe = _UNSAFE.sub("_", id_)
    # Members named __...__ are meta data of a tar, which readers pass over.
    meta = id_.startswith("__") and id_.endswith("__")
    if safe == id_ and len(id_) <= _MAX_KEY and not meta:
        return id_
    return f"{safe[:60]}-{xxhash.xxh3_64_hexdigest(utf8(id_))}"


def tells(key: str, id_: str) -> bool:
    """Whether a KEY tells that its sample has this id: it is the id, or what `pack` makes of it."""
    return key == id_ or key == tar_key(id_)


def id_hash(id_: str) -> int:
    """64 bits that stand for an id where there is no room for all ids."""
    return xxhash.xxh3_64_intdigest(utf8(id_))


def utf8(id_: str) -> bytes:
    """The bytes of an id; JSON can smuggle half of a surrogate pair into one."""
    return id_.encode("utf-8", "surrogatepass")
