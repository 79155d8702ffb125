"""Sample ids: the id in a sample's JSON, the KEY of its tar members, and the mapping from id to KEY.

An id is any text, or a whole number of at most 64 bits, which equals the text of its digits. A KEY is a name of tar
members. `pack` derives the KEY from the id, so a sample is found by its id in an index of KEYs; in tars made elsewhere
the two may be unrelated, and the index keeps the ids.
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


def id_of(metadata: Mapping[str, Any], shard: str, key: str) -> str:
    """Read the id in a sample's JSON; KEY if it has none.

    Raises:
        CorruptDataError: It is neither a text nor a whole number.
    """
    id_ = metadata.get("id", key)
    if type(id_) is str and id_:
        return id_
    # Some readers convert larger numbers to floats, so that different ids become equal.
    if type(id_) is int and -(2**63) <= id_ < 2**64:
        return str(id_)
    raise CorruptDataError(
        f"the sample's id is {shorten(json.dumps(id_), _SHOWN)}, not a text",
        where=f"{shard}, sample {key}",
        remedy="give every sample a unique id, or none: the default is the name of its members",
    )


def tar_key(id_: str) -> str:
    """Derive the name of tar members from a sample id: letters, digits, underscore and minus, at most 80.

    WebDataset cuts names at the first dot, and USTAR has room for 100 bytes. An id that is not such a name gets a
    hash appended, so that different ids have different keys.
    """
    safe = _UNSAFE.sub("_", id_)
    # Members named __...__ are metadata of a tar, which readers skip.
    meta = id_.startswith("__") and id_.endswith("__")
    if safe == id_ and len(id_) <= _MAX_KEY and not meta:
        return id_
    return f"{safe[:60]}-{xxhash.xxh3_64_hexdigest(utf8(id_))}"


def is_key_of(key: str, id_: str) -> bool:
    """Whether a KEY is the one of this id: the id itself, or what `pack` derives from it."""
    return key == id_ or key == tar_key(id_)


def id_hash(id_: str) -> int:
    """Hash an id to 64 bits, where there is no memory for all ids."""
    return xxhash.xxh3_64_intdigest(utf8(id_))


def utf8(id_: str) -> bytes:
    """Encode an id; JSON can contain half of a surrogate pair."""
    return id_.encode("utf-8", "surrogatepass")
