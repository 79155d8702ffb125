"""Files on local disk and on object stores, behind one set of functions that behave alike everywhere.

A place is a path (`/data/mosi`), a `file://` URL or any fsspec URL (`s3://bucket/mosi`, `gs://`, `memory://`, and
`http://` for reading). The semantics are those of an object store: writing makes the directories above, what is
written appears whole or not at all, listing what is absent gives nothing, deleting what is absent is no error. On local
disk and on S3, Google, Azure and memory stores writes are atomic and `create_exclusive` has one winner.

Every failure is a `StorageError` that names the place and the remedy; what is absent is its subclass `NotFoundError`,
and nothing else is: a server that is busy or refuses to say is no absence. What would be taken for another place than
was meant is a `PlaceError`. Names that servers list are those of entries of the directory; what leads out of it, there
or in what is joined, is an `UnsafeNameError`.
Remote operations that fail for a passing reason are tried four times, with random waits so that many workers do not
come back together.
"""

from __future__ import annotations

from ivr_dist.storage._errors import NoBucketError, NotFoundError, explain, is_transient
from ivr_dist.storage._mmap import MappedFile
from ivr_dist.storage._paths import (
    PlaceError,
    UnsafeNameError,
    absolute,
    display,
    is_local,
    is_plain,
    join,
    local_path,
    shown,
)
from ivr_dist.storage.api import (
    ATTEMPTS,
    RangeReader,
    begin_range,
    can_list,
    create_exclusive,
    delete_staged,
    delete_tree,
    download,
    exists,
    file_sizes,
    holds_files,
    is_same_place,
    list_dir,
    list_files,
    make_dirs,
    open_stream,
    read_bytes,
    read_json,
    read_range,
    read_text,
    size,
    stamps,
    upload,
    write_buffers,
    write_bytes,
    write_json,
    write_text,
)

__all__ = [
    "ATTEMPTS",
    "MappedFile",
    "NoBucketError",
    "NotFoundError",
    "PlaceError",
    "RangeReader",
    "UnsafeNameError",
    "absolute",
    "begin_range",
    "can_list",
    "create_exclusive",
    "delete_staged",
    "delete_tree",
    "display",
    "download",
    "exists",
    "explain",
    "file_sizes",
    "holds_files",
    "is_local",
    "is_plain",
    "is_same_place",
    "is_transient",
    "join",
    "list_dir",
    "list_files",
    "local_path",
    "make_dirs",
    "open_stream",
    "read_bytes",
    "read_json",
    "read_range",
    "read_text",
    "shown",
    "size",
    "stamps",
    "upload",
    "write_buffers",
    "write_bytes",
    "write_json",
    "write_text",
]
