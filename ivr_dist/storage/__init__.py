"""Storage: files on local disk and object stores, behind one set of functions with the same semantics everywhere.

A URL is a path (`/data/mosi`), a `file://` URL or any fsspec URL (`s3://bucket/mosi`, `gs://`, `memory://`, and
`http://` for reading). The semantics are those of an object store:

* Writing creates the directories above; a file appears whole or not at all.
* Listing an absent directory returns nothing; deleting an absent file is no error.
* On local disk and on S3, Google, Azure and memory stores, writes are atomic and `create_exclusive` has one winner.

Every failure is a `StorageError` with the URL and a remedy. Only an absent file is its subclass `NotFoundError`; a
server that is busy or denies access is not. A URL that would be misunderstood is an `InvalidUrlError`. A name that
leads out of its directory, in a server's listing or in an argument of `join`, is an `UnsafeNameError`.

Remote operations are retried after transient errors, with exponential backoff and jitter: four attempts in all.
"""

from __future__ import annotations

from ivr_dist.storage._errors import NoBucketError, NotFoundError, explain, is_transient
from ivr_dist.storage._mmap import MappedFile
from ivr_dist.storage._paths import (
    InvalidUrlError,
    UnsafeNameError,
    absolute,
    display,
    is_local,
    is_plain,
    join,
    local_path,
    short_display,
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
    is_same_url,
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
    "InvalidUrlError",
    "MappedFile",
    "NoBucketError",
    "NotFoundError",
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
    "is_same_url",
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
    "short_display",
    "size",
    "stamps",
    "upload",
    "write_buffers",
    "write_bytes",
    "write_json",
    "write_text",
]
