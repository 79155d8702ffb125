"""The interface of a storage backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ivr_dist.storage._local import Buffer


class Store(Protocol):
    """A storage backend; it raises the errors of the system or of the client library unchanged."""

    def read(self, url: str) -> bytes: ...

    def read_range(self, url: str, start: int, end: int) -> bytes: ...

    def open(self, url: str) -> Any: ...

    def write(self, url: str, data: bytes) -> None: ...

    def write_all(self, url: str, buffers: Sequence[Buffer]) -> None: ...

    def create(self, url: str, data: bytes) -> bool: ...

    def put(self, local_file: str, url: str) -> None: ...

    def get(self, url: str, local_file: str) -> None: ...

    def make_dirs(self, url: str) -> None: ...

    def delete(self, url: str) -> None: ...

    def info(self, url: str) -> int | None:
        """Look up the size of a file, None for a directory; FileNotFoundError if absent."""

    def stamp(self, url: str) -> str: ...

    def entries(self, url: str) -> dict[str, int | None]:
        """List the entries of a directory, each with its size, None for a directory."""

    def walk(self, url: str) -> list[str]: ...
