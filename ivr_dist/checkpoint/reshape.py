"""Reshape: rewrite a checkpoint in another number of parts, possibly on other storage."""

from __future__ import annotations

import hashlib
import json
from math import prod

from ivr_dist import storage
from ivr_dist.checkpoint import store
from ivr_dist.checkpoint.fragments import Fragment, share
from ivr_dist.checkpoint.part_manifest import WEIGHT
from ivr_dist.checkpoint.tensors import describe_fragments, open_tensors, tensor_files
from ivr_dist.errors import UserError


def reshape(source: str, target: str, parts: int) -> None:
    """Write a copy of a checkpoint in evenly sized parts, one part in memory at a time.

    Resuming does not need it, since any number of workers reads any number of parts.

    Args:
        source: A complete checkpoint.
        target: The copy; must be absent or empty.
        parts: Number of its parts.

    Raises:
        UserError: The target is not empty.
        CheckpointError: The source is not complete, or damaged.
    """
    if storage.holds_files(target):
        raise UserError("the folder is not empty", where=storage.display(target), remedy="choose another --out")
    # Before `verify`, since its error for a folder without a checkpoint says so.
    content = {**store.read_state_json(source), "format": store.FORMAT}
    content_of_state = json.dumps(content, indent=1).encode()
    state = store.verify(source)
    token = hashlib.sha256(content_of_state).hexdigest()[:16]
    manifests = store.parts(source)
    own = {store.STATE, *(name for part in manifests for name in _tensor_names(part.rank))}
    others = [entry for part in manifests for entry in part.files if entry.name not in own]
    with open_tensors(source, state) as tensors:
        # Offsets only: the elements are read when their part is written.
        whole = [Fragment(name, 0, prod(shape), {}, tensors.scalars(name)) for name, shape in tensors.shapes.items()]
        for part in range(parts):
            fragments = []
            for piece in share(whole, part, parts):
                read = {
                    kind: tensors.read(piece.parameter, kind, piece.offset, piece.numel).contiguous()
                    for kind in (WEIGHT, *tensors.states(piece.parameter))
                }
                fragments.append(Fragment(piece.parameter, piece.offset, piece.numel, read, piece.scalars))
            files = dict(tensor_files(fragments, part))
            if part == 0:
                files |= {entry.name: [store.read_file(source, entry)] for entry in others}
                files[store.STATE] = [content_of_state]
            store.write_part(target, part, parts, files, describe_fragments(fragments), token)


def _tensor_names(part: int) -> tuple[str, str]:
    return store.weights_file(part), store.optimizer_file(part)
