"""Shard index: offset and length of each sample, and a checksum of each segment, for random access to a tar.

It is a `.npz` of plain arrays beside the tar, so an existing tar becomes usable without being rewritten.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from ivr_dist import storage
from ivr_dist.common.file_signatures import HEAD, other_kind
from ivr_dist.common.modalities import MODALITIES
from ivr_dist.errors import CorruptDataError
from ivr_dist.shards import npy, tar
from ivr_dist.shards.sample_ids import is_key_of, utf8

SEGMENT_BYTES = 1024 * 1024
_COLUMNS = {"keys": "S", "offset": "<i8", "size": "<i8", "lengths": "<i4", "segment": "<i8", "xxh3": "<u8"}
_IDS = {"ids": "|u1", "id_ends": "<i8"}
"""Only in an index whose ids do not follow from its keys."""
_ENCRYPTED = 1


@dataclass(frozen=True)
class ShardIndex:
    """One shard of n samples in k segments."""

    keys: list[str]
    """Names of the samples' members, in tar order."""
    offset: npt.NDArray[np.int64]
    """[n] offset of each sample's first header in bytes."""
    size: npt.NDArray[np.int64]
    """[n] bytes of each sample with headers and padding."""
    lengths: npt.NDArray[np.int32]
    """[n, 3] time steps of text, audio and vision; -1 where the modality is absent."""
    segment: npt.NDArray[np.int64]
    """[k + 1] first sample of each segment, and n."""
    xxh3: npt.NDArray[np.uint64]
    """[k] xxh3-64 of each segment's bytes, from its first sample's offset to its last sample's end."""
    ids: list[str] | None = None
    """[n] id of each sample, where one does not follow from its key (see `sample_ids.is_key_of`); None: all do, or the
    index is of an earlier version, which did not keep ids."""

    @property
    def names(self) -> list[str]:
        """Name of each sample: its id, or the key derived from it."""
        return self.keys if self.ids is None else self.ids

    def to_bytes(self) -> bytes:
        """Encode as a file; equal indexes result in equal bytes."""
        out = io.BytesIO()
        # Not compressed: the bytes would depend on the version of zlib, and decompression could need any memory.
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for name, kind in _COLUMNS.items():
                column = [tar.encoded(key) for key in self.keys] if name == "keys" else getattr(self, name)
                _write(archive, name, np.asarray(column, kind))
            if self.ids is not None:
                # Concatenated: an id may be long, and may end in bytes that a column of texts would lose.
                ids = list(map(utf8, self.ids))
                _write(archive, "ids", np.frombuffer(b"".join(ids), "|u1"))
                _write(archive, "id_ends", np.cumsum(list(map(len, ids)), dtype="<i8"))
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> ShardIndex:
        """Decode the file.

        Raises:
            CorruptDataError: It is not a valid index.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                columns = _COLUMNS | (_IDS if "ids.npy" in archive.namelist() else {})
                arrays = {name: _column(archive, name, kind, where) for name, kind in columns.items()}
        except (zipfile.BadZipFile, KeyError, OSError, EOFError, ValueError, RuntimeError) as error:
            other = other_kind(data[:HEAD], "an index", "a zip archive")
            raise _refused(f"the index cannot be read: {error}" if other is None else other[0], where) from error
        if arrays["keys"].ndim != 1:
            raise _refused("the index's keys are not a list", where)
        keys = [key.decode("utf-8", "surrogateescape") for key in arrays.pop("keys").tolist()]
        ids = _ids(arrays.pop("ids"), arrays.pop("id_ends"), len(keys), where) if "ids" in arrays else None
        index = cls(keys=keys, ids=ids, **arrays)
        _check(index, where)
        return index


def load(url: str) -> ShardIndex:
    """Read an index file."""
    return ShardIndex.from_bytes(storage.read_bytes(url), storage.display(url))


class IndexBuilder:
    """Builds the index of a tar, sample by sample; bytes before the current segment are released.

    Args:
        content: The tar.
        where: Its name, for errors.
    """

    def __init__(self, content: tar.Readable, where: str) -> None:
        self._content = content
        self._where = where
        self._keys: dict[str, str] = {}
        """Id by key."""
        self._ids_follow = True
        self._offset: list[int] = []
        self._size: list[int] = []
        self._lengths: list[Sequence[int]] = []
        self._segment: list[int] = []
        self._xxh3: list[int] = []

    def add(self, key: str, id_: str, start: int, end: int, lengths: Sequence[int]) -> None:
        """Add the next sample.

        Args:
            key: Name of its members.
            id_: Its id.
            start: Offset of its first byte.
            end: Offset after its last byte.
            lengths: Its time steps of text, audio and vision, -1 where missing.

        Raises:
            CorruptDataError: The tar has another sample with this key.
        """
        self.check_new(key)
        # By offsets, not sizes: members that belong to no sample may stand between samples.
        if not self._segment or end - self._offset[self._segment[-1]] > SEGMENT_BYTES:
            self._close_segment()
            self._segment.append(len(self._keys))
            self._content.release(start)
        self._keys[key] = id_
        self._ids_follow &= is_key_of(key, id_)
        self._offset.append(start)
        self._size.append(end - start)
        self._lengths.append(lengths)

    def check_new(self, key: str) -> None:
        """Refuse a key that was added before; called first, because other errors of such a sample follow from that.

        Raises:
            CorruptDataError: The key was added before.
        """
        if key in self._keys:
            raise CorruptDataError(
                f"sample {key} is in the tar twice, or its members are not one after the other",
                where=self._where,
                remedy="make the tar again with its members sorted by name (tar --sort=name), each sample once",
            )

    def finish(self) -> ShardIndex:
        """Return the index of all samples that were added."""
        self._close_segment()
        return ShardIndex(
            keys=list(self._keys),
            offset=np.array(self._offset, np.int64),
            size=np.array(self._size, np.int64),
            lengths=np.array(self._lengths, np.int32).reshape(len(self._keys), len(MODALITIES)),
            segment=np.array([*self._segment, len(self._keys)], np.int64),
            xxh3=np.array(self._xxh3, np.uint64),
            ids=None if self._ids_follow else list(self._keys.values()),
        )

    def _close_segment(self) -> None:
        if self._segment:
            start, end = self._offset[self._segment[-1]], self._offset[-1] + self._size[-1]
            self._xxh3.append(xxhash.xxh3_64_intdigest(self._content.take(start, end)))


def build_index(
    data: bytes | memoryview | tar.Readable,
    where: str = "tar",
    on_sample: Callable[[str, memoryview], str] = lambda key, content: key,
) -> ShardIndex:
    """Index a whole tar.

    Args:
        data: Its bytes.
        where: Its name, for errors.
        on_sample: Called with the key and the bytes of each sample; returns its id.

    Raises:
        CorruptDataError: The tar is damaged, or the members of a sample are not adjacent.
    """
    content = tar.readable(data)
    builder = IndexBuilder(content, where)
    for group in tar.samples(content, where, whole=True):
        key, start, end = group[0].key, group[0].start, group[-1].end
        builder.check_new(key)
        lengths = _lengths(content, group, where)
        builder.add(key, on_sample(key, content.take(start, end)), start, end, lengths)
    return builder.finish()


def _lengths(content: tar.Readable, group: list[tar.Member], where: str) -> list[int]:
    """Count the time steps of text, audio and vision of one sample; -1 where it has no such member."""
    lengths = dict.fromkeys(MODALITIES, -1)
    for member in group:
        modality, dot, rest = member.suffix.partition(".")
        if modality in lengths and dot and rest == "npy":
            array = content.take(member.payload, member.payload + member.size)
            shape = npy.parse_header(array, f"{where}, {member.name}")[0]
            lengths[modality] = shape[0] if shape else 1
    return list(lengths.values())


def _write(archive: zipfile.ZipFile, name: str, column: npt.NDArray[Any]) -> None:
    content = io.BytesIO()
    np.lib.format.write_array(content, column, allow_pickle=False)
    # A fixed date: numpy's own savez writes the time of day into the archive.
    archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), content.getvalue())


def _ids(joined: npt.NDArray[Any], ends: npt.NDArray[Any], count: int, where: str) -> list[str]:
    starts = np.concatenate([[0], ends[:-1]]) if ends.ndim == 1 else ends
    if joined.ndim != 1 or ends.shape != (count,) or (ends < starts).any() or (ends[-1:] != joined.size).any():
        raise _refused("the index's ids are not one for each sample", where)
    text = joined.tobytes()
    try:
        return [
            text[start:end].decode("utf-8", "surrogatepass")
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ]
    except UnicodeDecodeError as error:
        raise _refused(f"the index's ids are not UTF-8: {error.reason}", where) from error


def _column(archive: zipfile.ZipFile, name: str, kind: str, where: str) -> npt.NDArray[Any]:
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED:
        raise _refused(f"the index's {name} is compressed or encrypted", where)
    array = npy.parse(archive.read(info), f"{where}, {name}", npy.BYTES if name == "keys" else npy.NUMBERS)
    if name != "keys" and array.dtype != np.dtype(kind):
        raise _refused(f"the index's {name} is of {array.dtype}, not {np.dtype(kind)}", where)
    return array


def _check(index: ShardIndex, where: str) -> None:
    """Refuse values that would make the reader go outside the shard or past the arrays."""
    count, segments = len(index.keys), index.xxh3.size
    shapes = {"offset": (count,), "size": (count,), "lengths": (count, len(MODALITIES))}
    for name, shape in {**shapes, "segment": (segments + 1,), "xxh3": (segments,)}.items():
        if getattr(index, name).shape != shape:
            raise _refused(f"the index's {name} has the shape {getattr(index, name).shape}, not {shape}", where)
    # A sum over 2^63 wraps around to a negative number, so it fails the second comparison.
    ends = index.offset + index.size
    ordered = bool((index.offset >= 0).all() and (ends > index.offset).all() and (index.offset[1:] >= ends[:-1]).all())
    whole = index.segment[0] == 0 and index.segment[-1] == count and bool((np.diff(index.segment) > 0).all())
    if not ordered or not whole:
        raise _refused("the index's offsets or segments are not in order", where)
    if (index.lengths < -1).any():
        raise _refused("the index has negative lengths", where)


def _refused(what: str, where: str) -> CorruptDataError:
    return CorruptDataError(
        what, where=where, remedy="pack the split again, or index the tar again with `ivr-dist index`"
    )
