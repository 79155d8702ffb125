"""Reader of a complete checkpoint's tensors, by name and range, independent of their split among workers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ivr_dist import storage
from ivr_dist.checkpoint import safetensors_file, store
from ivr_dist.checkpoint.fragments import Fragment, pieces
from ivr_dist.checkpoint.part_manifest import WEIGHT, PartManifest
from ivr_dist.checkpoint.state import CheckpointState
from ivr_dist.errors import CheckpointError


def tensor_files(fragments: Sequence[Fragment], rank: int) -> dict[str, Sequence[bytes | memoryview]]:
    """Return the two files of one part, weights and optimizer state, by name, as buffers.

    Args:
        fragments: Fragments of the part, on the host; at most one of each parameter.
        rank: The part's number.
    """
    states = {f"{state}/{f.parameter}": t for f in fragments for state, t in f.tensors.items() if state != WEIGHT}
    weights = {fragment.parameter: fragment.tensors[WEIGHT] for fragment in fragments}
    return {
        store.weights_file(rank): safetensors_file.buffers(weights),
        store.optimizer_file(rank): safetensors_file.buffers(states),
    }


def describe_fragments(fragments: Sequence[Fragment]) -> list[dict[str, Any]]:
    """Return the entries of fragments in a part manifest."""
    return [
        {"parameter": f.parameter, "offset": f.offset, "numel": f.numel, "states": sorted(f.tensors), **_scalars(f)}
        for f in fragments
    ]


def _scalars(fragment: Fragment) -> dict[str, Any]:
    return {"scalars": fragment.scalars} if fragment.scalars else {}


class CheckpointTensors:
    """Reads a checkpoint's tensors lazily; each remote file is downloaded once, when it is first needed.

    Args:
        url: The checkpoint.
        shapes: The shape of each parameter and buffer, as `state.json` has them.
        parts: Its part manifests, by rank.

    Use it in a `with` statement.
    """

    def __init__(self, url: str, shapes: Mapping[str, Sequence[int]], parts: Sequence[PartManifest]) -> None:
        self._url = url
        self.shapes = shapes
        self._spans: dict[str, list[tuple[int, int, int]]] = {name: [] for name in shapes}
        self._states: dict[str, set[str]] = {name: set() for name in shapes}
        self._scalars: dict[str, dict[str, float]] = {}
        for part, manifest in enumerate(parts):
            for entry in manifest.fragments:
                name = entry.parameter
                self._spans.setdefault(name, []).append((part, entry.offset, entry.numel))
                self._states.setdefault(name, set()).update(entry.states)
                self._scalars.setdefault(name, {}).update(entry.scalars)
        self._scratch = tempfile.TemporaryDirectory(prefix="ivr-checkpoint-")
        self._open: dict[str, Any] = {}

    def __enter__(self) -> CheckpointTensors:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.clear()
        self._scratch.cleanup()

    def weight(self, name: str) -> Tensor:
        """Read a parameter or buffer in its shape and type."""
        shape = self.shapes[name]
        return self.read(name, WEIGHT, 0, prod(shape)).reshape(tuple(shape))

    def states(self, name: str) -> list[str]:
        """Return the names of the optimizer's states of each element of a parameter."""
        return sorted(self._states.get(name, set()) - {WEIGHT})

    def scalars(self, name: str) -> dict[str, float]:
        """Return the optimizer's state that is kept once for the parameter."""
        return dict(self._scalars.get(name, {}))

    def read(self, name: str, state: str, offset: int, numel: int) -> Tensor:
        """Read elements [offset, offset + numel) of a parameter's weight or of one of its states; flat.

        Raises:
            CheckpointError: The checkpoint lacks some of them.
        """
        result = None
        try:
            for piece in pieces(self._spans.get(name, ()), offset, numel):
                values = self._slice(piece.part, name, state, piece.start, piece.start + piece.numel)
                if piece.numel == numel:
                    return values
                if result is None:
                    result = torch.empty(numel, dtype=values.dtype)
                result[piece.target : piece.target + piece.numel] = values
        except (ValueError, OSError, SafetensorError) as error:
            raise CheckpointError(
                f"the checkpoint does not hold {state} of {name}: {error}",
                where=storage.display(self._url),
                remedy="resume from an earlier one",
            ) from error
        # An empty range, or a parameter without elements, still has the type of the file.
        return torch.empty(0, dtype=self._any_type(name)) if result is None else result

    def _any_type(self, name: str) -> torch.dtype:
        spans = self._spans.get(name, ())
        return self._slice(spans[0][0], name, WEIGHT, 0, 0).dtype if spans else torch.float32

    def _slice(self, part: int, name: str, state: str, start: int, end: int) -> Tensor:
        file, key = (
            (store.weights_file(part), name) if state == WEIGHT else (store.optimizer_file(part), f"{state}/{name}")
        )
        if file not in self._open:
            self._open[file] = safe_open(self._local(file), framework="pt", device="cpu")
        values: Tensor = self._open[file].get_slice(key)[start:end]
        return values

    def _local(self, file: str) -> str:
        url = storage.join(self._url, file)
        if storage.is_local(url):
            return storage.local_path(url)
        target = str(Path(self._scratch.name) / file)
        storage.download(url, target)
        return target


@contextmanager
def open_tensors(url: str, state: CheckpointState) -> Iterator[CheckpointTensors]:
    """Open the tensors of a complete checkpoint.

    Args:
        url: The checkpoint.
        state: Its state, which has the shapes.
    """
    with CheckpointTensors(url, state.shapes, store.parts(url)) as tensors:
        yield tensors
