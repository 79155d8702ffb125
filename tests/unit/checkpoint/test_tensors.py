"""Checkpoint tensors: any range of elements can be read from any split into parts."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load
from torch import Tensor

from ivr_dist.checkpoint import safetensors_file, store
from ivr_dist.checkpoint.fragments import Fragment, pieces, share
from ivr_dist.checkpoint.part_manifest import WEIGHT
from ivr_dist.checkpoint.tensors import CheckpointTensors, describe_fragments, tensor_files
from ivr_dist.errors import CheckpointError

SHAPES = st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=6)
WORLDS = st.integers(1, 5)


def whole(shapes: list[tuple[int, ...]]) -> list[Fragment]:
    """Parameters of all different numbers, with the state of an optimizer."""
    found, first = [], 0
    for number, shape in enumerate(shapes):
        values = torch.arange(first, first + prod(shape), dtype=torch.float32)
        first += prod(shape)
        tensors = {WEIGHT: values, "exp_avg": values + 0.25, "exp_avg_sq": values + 0.5}
        found.append(Fragment(f"p{number}", 0, values.numel(), tensors, {"step": 7.0}))
    return found


def write(url: str, parts: list[list[Fragment]]) -> None:
    for rank, fragments in enumerate(parts):
        store.write_part(url, rank, len(parts), tensor_files(fragments, rank), describe_fragments(fragments))


@given(SHAPES, WORLDS)
def test_shares_hold_each_element_once(shapes: list[tuple[int, ...]], world: int) -> None:
    fragments = whole(shapes)
    shares = [share(fragments, rank, world) for rank in range(world)]
    for fragment in fragments:
        mine = [f for part in shares for f in part if f.parameter == fragment.parameter]
        assert torch.equal(torch.cat([f.tensors[WEIGHT] for f in mine]), fragment.tensors[WEIGHT])
        assert sum(f.numel for f in mine) == fragment.numel
    sizes = [sum(f.numel for f in part) for part in shares]
    assert max(sizes) - min(sizes) <= 1
    assert all(len({f.parameter for f in part}) == len(part) for part in shares)


@given(shapes=SHAPES, world=WORLDS, data=st.data())
def test_any_run_of_elements_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[int, ...]], world: int, data: st.DataObject
) -> None:
    url = str(tmp_path_factory.mktemp("checkpoint"))
    fragments = whole(shapes)
    write(url, [share(fragments, rank, world) for rank in range(world)])
    layout = {fragment.parameter: shape for fragment, shape in zip(fragments, shapes, strict=True)}
    with CheckpointTensors(url, layout, store.parts(url)) as tensors:
        for fragment, shape in zip(fragments, shapes, strict=True):
            weight = tensors.weight(fragment.parameter)
            assert weight.shape == torch.Size(shape)
            assert torch.equal(weight.reshape(-1), fragment.tensors[WEIGHT])
            start = data.draw(st.integers(0, fragment.numel))
            end = data.draw(st.integers(start, fragment.numel))
            for state in tensors.states(fragment.parameter):
                found = tensors.read(fragment.parameter, state, start, end - start)
                assert torch.equal(found, fragment.tensors[state][start:end])
            assert tensors.states(fragment.parameter) == ["exp_avg", "exp_avg_sq"]
            assert tensors.scalars(fragment.parameter) == {"step": 7.0}


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    url = str(tmp_path)
    write(url, [[fragment.cut(0, 3) for fragment in whole([(4,)])]])
    with (
        CheckpointTensors(url, {"p0": (4,)}, store.parts(url)) as tensors,
        pytest.raises(CheckpointError, match="weight of p0: 1 of 4 elements are missing"),
    ):
        tensors.weight("p0")


def test_pieces_come_from_any_order_of_parts() -> None:
    spans = [(0, 6, 4), (1, 0, 6)]
    found = sorted(pieces(spans, 4, 4), key=lambda piece: piece.target)
    assert [(piece.part, piece.start, piece.numel) for piece in found] == [(1, 4, 2), (0, 0, 2)]


@given(
    st.dictionaries(
        st.text("abc/.", min_size=1, max_size=8),
        st.tuples(
            st.lists(st.integers(0, 4), max_size=3),
            st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float16, torch.uint8]),
        ),
        max_size=5,
    )
)
def test_files_are_safetensors(tensors: dict[str, tuple[list[int], torch.dtype]]) -> None:
    made: dict[str, Tensor] = {
        name: (torch.arange(prod(shape)) % 2).reshape(shape).to(dtype) for name, (shape, dtype) in tensors.items()
    }
    data = b"".join(safetensors_file.buffers(made))
    found = load(data)
    assert found.keys() == made.keys()
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in made.items())


def test_tensors_that_cannot_be_written_are_named() -> None:
    with pytest.raises(ValueError, match="a cannot be written"):
        safetensors_file.buffers({"a": torch.zeros(4, 4).t()[:2]})
