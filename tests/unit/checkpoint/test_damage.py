"""Damaged checkpoints: reading returns what was written, or refuses the checkpoint as damaged."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ivr_dist import storage
from ivr_dist.checkpoint import part_manifest, store
from ivr_dist.checkpoint.fragments import Fragment, share
from ivr_dist.checkpoint.part_manifest import WEIGHT, parse, part_name, to_text
from ivr_dist.checkpoint.reshape import reshape
from ivr_dist.checkpoint.tensors import describe_fragments, open_tensors, tensor_files
from ivr_dist.checkpoint.weights import load_model, read_weights, stored_text
from ivr_dist.errors import CheckpointError, IvrError
from ivr_dist.run.attempts import Span
from ivr_dist.training.resume import _newest_complete
from tests.states import small_state, stored_state

SHAPES = {"a.weight": [3, 4], "a.bias": [4], "scale": []}
WORLD = 2
Content = dict[str, Any]


def fragments(step: int) -> list[Fragment]:
    found = []
    for number, (name, shape) in enumerate(SHAPES.items()):
        values = torch.full(shape, float(step + number)).reshape(-1) + torch.arange(int(torch.Size(shape).numel()))
        found.append(Fragment(name, 0, values.numel(), {WEIGHT: values, "exp_avg": values / 2}, {"step": float(step)}))
    return found


def write(url: Path, step: int, token: str = "run") -> Path:
    """A checkpoint of two parts, with all kinds of files."""
    state = stored_state(step, counters={"step": step, "best": 0.25}, shapes=SHAPES)
    for rank in range(WORLD):
        part = share(fragments(step), rank, WORLD)
        files: dict[str, Any] = dict(tensor_files(part, rank))
        if rank == 0:
            files |= {f"{store.TEXT_ENCODER}/{name}": [name.encode() * 3] for name in ("config.json", "vocab.txt")}
            files[store.STATE] = [json.dumps(state, indent=1).encode()]
        store.write_part(str(url), rank, WORLD, files, describe_fragments(part), token)
    return url


def read(url: Path) -> Content:
    """All that a run, a score or a new cut takes from a checkpoint."""
    state = store.verify(str(url))
    found: Content = {"state": state, "text": {}}
    for part in store.parts(str(url)):
        for entry in part.files:
            if entry.name.startswith(store.TEXT_ENCODER):
                found["text"][entry.name] = store.read_file(str(url), entry)
    with open_tensors(str(url), state) as tensors:
        for name in tensors.shapes:
            weight = tensors.weight(name)
            states = {kind: tensors.read(name, kind, 0, weight.numel()) for kind in tensors.states(name)}
            kept = {kind: value.numpy().tobytes() for kind, value in states.items()}
            found[name] = (weight.shape, weight.numpy().tobytes(), kept, tensors.scalars(name))
    return found


def refused_or_same(url: Path, expected: Content) -> bool:
    """Whether it was refused; anything but a refusal or the same content fails the test."""
    try:
        assert read(url) == expected
    except CheckpointError as error:
        assert "\n" not in str(error)
        return True
    return False


def as_of_before(url: Path) -> None:
    """Rewrite a checkpoint in the format before, without checksums of the part manifests."""
    state = url / store.STATE
    content = json.loads(state.read_text()) | {"format": part_manifest.UNSEALED_FORMAT}
    state.write_text(json.dumps(content, indent=1))
    for rank in range(WORLD):
        part = json.loads((url / part_name(rank)).read_text()) | {"format": part_manifest.UNSEALED_FORMAT}
        del part["sha256"], part["checkpoint"]
        for entry in part["files"]:
            if entry["name"] == store.STATE:
                entry |= {"size": state.stat().st_size, "sha256": hashlib.sha256(state.read_bytes()).hexdigest()}
        (url / part_name(rank)).write_text(json.dumps(part))


def test_single_flipped_bits_are_refused_or_change_nothing(tmp_path: Path) -> None:
    """2,000 of them, over all files in proportion to their sizes, but at least 100 in each."""
    draw = random.Random(18)
    url = write(tmp_path / "checkpoint", 20)
    expected = read(url)
    files = [path for path in sorted(url.rglob("*")) if path.is_file()]
    assert len(files) == 9
    chosen = files * 100 + draw.choices(files, [path.stat().st_size for path in files], k=2000 - 100 * len(files))
    refused = 0
    for path in chosen:
        sound = path.read_bytes()
        changed = bytearray(sound)
        bit = draw.randrange(8 * len(sound))
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        refused += refused_or_same(url, expected)
        path.write_bytes(sound)
    assert refused == len(chosen), "every byte of every file is covered"
    assert read(url) == expected


def test_single_flipped_bits_of_the_format_before(tmp_path: Path) -> None:
    """Of a part manifest without a checksum, only the form can be checked, and that parts fit together."""
    url = write(tmp_path / "checkpoint", 20)
    as_of_before(url)
    expected = read(url)
    draw = random.Random(18)
    # What no second place says: the optimizer's steps of a parameter that lies in one part alone.
    told = {'"step": 20.0': '"step": '}
    for rank in range(WORLD):
        path = url / part_name(rank)
        sound = path.read_text()
        for _ in range(300):
            changed = bytearray(sound.encode())
            bit = draw.randrange(8 * len(changed))
            if any(sound[max(bit // 8 - 16, 0) : bit // 8 + 16].find(text) >= 0 for text in told):
                continue
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            refused_or_same(url, expected)
        path.write_text(sound)


def test_a_run_continues_from_the_older_intact_one(tmp_path: Path) -> None:
    draw = random.Random(1)
    older, newer = (store.CheckpointName(step, 1) for step in (10, 20))
    for name in (older, newer):
        write(Path(name.url(str(tmp_path))), name.step)
    folder = Path(newer.url(str(tmp_path)))
    for path in (path for path in sorted(folder.rglob("*")) if path.is_file()):
        sound = path.read_bytes()
        changed = bytearray(sound)
        changed[draw.randrange(len(sound))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        notes: list[str] = []
        assert _newest_complete(str(tmp_path), [Span(1, 1, None)], None, notes) == older
        assert len(notes) == 1 and notes[0].startswith(f"checkpoint {newer} is skipped: ")
        path.write_bytes(sound)
    assert _newest_complete(str(tmp_path), [Span(1, 1, None)], None, []) == newer


def swap(first: Path, second: Path) -> None:
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


@pytest.mark.parametrize("form", ["sealed", "before"])
def test_files_swapped_missing_or_from_elsewhere(tmp_path: Path, form: str) -> None:
    url = write(tmp_path / "step-00000020.a01", 20)
    other = write(tmp_path / "step-00000010.a01", 10)
    if form == "before":
        as_of_before(url)
        as_of_before(other)
    names = [str(path.relative_to(url)) for path in sorted(url.rglob("*")) if path.is_file()]
    expected = read(url)

    def tried(damage: Callable[[Path], object]) -> bool:
        copy = tmp_path / "copy"
        shutil.copytree(url, copy)
        damage(copy)
        refused = refused_or_same(copy, expected)
        shutil.rmtree(copy)
        return refused

    for number, name in enumerate(names):
        assert tried(lambda copy, name=name: (copy / name).unlink())
        assert tried(lambda copy, name=name: (copy / name).write_bytes(b""))
        assert tried(lambda copy, name=name: ((copy / name).unlink(), (copy / name).mkdir()))
        for second in names[number + 1 :]:
            assert tried(lambda copy, name=name, second=second: swap(copy / name, copy / second))
        if (url / name).read_bytes() != (other / name).read_bytes():
            assert tried(lambda copy, name=name: shutil.copy(other / name, copy / name))
    # A whole part of another checkpoint, with its manifest and its tensors.
    for rank in range(WORLD):
        part = [part_name(rank), store.weights_file(rank), store.optimizer_file(rank)]
        assert tried(lambda copy, part=part: [shutil.copy(other / name, copy / name) for name in part])
    # What no part names does no harm.
    assert not tried(lambda copy: shutil.copy(copy / part_name(1), copy / part_name(2)))
    for name in (".DS_Store", "part-00000.json.bak", "model.safetensors", f"{store.TEXT_ENCODER}/tokenizer.py"):
        assert not tried(lambda copy, name=name: (copy / name).write_bytes(b"mine"))


def test_parts_of_another_attempt_with_the_same_name_are_refused(tmp_path: Path) -> None:
    url, other = write(tmp_path / "one" / "name", 20, "1.5"), write(tmp_path / "two" / "name", 20, "2.5")
    shutil.copy(other / part_name(1), url / part_name(1))
    with pytest.raises(CheckpointError, match=r"part-00001\.json is of another checkpoint"):
        store.verify(str(url))


def test_the_previous_format_is_read_and_reshaped(tmp_path: Path) -> None:
    url = write(tmp_path / "checkpoint", 20)
    expected = read(url)
    as_of_before(url)
    reshape(str(url), str(tmp_path / "new"), 3)
    found = read(tmp_path / "new")
    assert found == expected
    assert store.parts(str(tmp_path / "new"))[0].format == store.FORMAT


# What is of the right checksum may still be a stranger's.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in below for place in places(item, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


def sealed(content: Content) -> bytes:
    text = json.dumps(content)[:-1]
    return f'{text}, "sha256": "{hashlib.sha256(text.encode()).hexdigest()}"}}'.encode()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("crafted") / "checkpoint", 20)


@given(data=st.data())
def test_a_sealed_manifest_of_any_form_is_refused_or_a_manifest(checkpoint: Path, data: st.DataObject) -> None:
    """Types changed anywhere, keys removed or added, with a checksum that fits."""
    path = checkpoint / part_name(0)
    sound = path.read_bytes()
    content = json.loads(sound)
    del content["sha256"]
    place = data.draw(st.sampled_from(places(content)))
    made = changed(content, place, data.draw(JSON))
    if not isinstance(made, dict):
        made = {"format": made}
    try:
        path.write_bytes(sealed(made))
        # Other content may be well-formed: what it must not be is an internal error.
        read(checkpoint)
    except IvrError as error:
        assert "\n" not in str(error)
    finally:
        path.write_bytes(sound)


@given(data=st.data(), seal=st.booleans())
def test_damaged_texts_of_manifests(data: st.DataObject, seal: bool, checkpoint: Path) -> None:
    sound = (checkpoint / part_name(0)).read_bytes()
    whole = parse(sound, 0)
    kind = data.draw(st.sampled_from(["flip", "cut", "twice", "nested", "number", "bytes"]))
    text = bytearray(sound)
    if kind == "flip":
        text[data.draw(st.integers(0, len(text) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del text[data.draw(st.integers(0, len(text) - 1)) :]
    elif kind == "twice":
        text[1:1] = b'"world": 1, '
    elif kind == "nested":
        text[1:1] = b'"more": ' + b"[" * 100_000 + b"]" * 100_000 + b", "
    elif kind == "number":
        text = text.replace(b'"offset": 0', b'"offset": ' + data.draw(st.sampled_from([b"NaN", b"9" * 5000, b"1e999"])))
    else:
        text[data.draw(st.integers(0, len(text))) :] = data.draw(st.binary(max_size=20))
    body = bytes(text).rpartition(b', "sha256": "')[0]
    if seal and body:
        text[:] = body + b', "sha256": "' + hashlib.sha256(body).hexdigest().encode() + b'"}'
    try:
        found = parse(bytes(text), 0)
    except ValueError:
        return
    assert found == whole or (seal and kind == "flip")


@pytest.mark.parametrize(
    "name",
    ["../x", "..", "", ".", "/etc/x", "a/b", "text_encoder/../x", "text_encoder/", "a\\b", "a\0b", "C:x", "s3://b/x"],
)
def test_names_that_are_not_plain_are_refused(checkpoint: Path, name: str) -> None:
    check_name_is_refused(checkpoint, name)


@pytest.mark.parametrize(
    "name", ["text_encoder/a/b", "a\nb", "\ud800", "part-00001.json", "x" * 300, "text_encoder//x", "\u202ex"]
)
def test_names_that_stand_for_something_else_are_refused(checkpoint: Path, name: str) -> None:
    check_name_is_refused(checkpoint, name)


def check_name_is_refused(checkpoint: Path, name: str) -> None:
    content = json.loads((checkpoint / part_name(0)).read_text())
    entry = {"name": name, "size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    text = to_text(0, WORLD, content["checkpoint"], [*content["files"], entry], content["fragments"])
    with pytest.raises(ValueError, match=r"is not the name of a file|name is not a text"):
        parse(text.encode(), 0)


@pytest.mark.parametrize(
    "change,said",
    [
        (lambda f: f.pop(), "scale from 0 on are in no fragment"),
        (lambda f: f[0].update(offset=1), "a.weight from 0 on are in no fragment"),
        (lambda f: f[0].update(numel=11), "a.weight from 8 on are in two fragments"),
        (lambda f: f[-1].update(parameter="other"), "has no parameter 'other'"),
        (lambda f: f[0]["scalars"].update(step=21.0), "steps of a.weight are"),
        (lambda f: f[0].update(states=["weight", "exp_avh"]), "exp_avh/a.weight has the shape None"),
    ],
)
def test_fragments_must_cover_each_parameter_once(
    tmp_path: Path, change: Callable[[list[Content]], object], said: str
) -> None:
    """In manifests whose checksums fit: the same is asked of those of the format before."""
    url = write(tmp_path / "checkpoint", 20)
    parts = [json.loads((url / part_name(rank)).read_text()) for rank in range(WORLD)]
    rank = 1 if "scale" in said or "other" in said else 0
    change(parts[rank]["fragments"])
    text = to_text(rank, WORLD, parts[rank]["checkpoint"], parts[rank]["files"], parts[rank]["fragments"])
    (url / part_name(rank)).write_text(text)
    with pytest.raises(CheckpointError, match=said):
        store.verify(str(url))
    with pytest.raises(CheckpointError):
        read_weights(str(url))


def restate(url: Path, state: Any) -> None:
    """Another `state.json`, to which the part manifest fits."""
    data = json.dumps(state).encode()
    (url / store.STATE).write_bytes(data)
    part = json.loads((url / part_name(0)).read_text())
    files = [entry for entry in part["files"] if entry["name"] != store.STATE]
    files.append({"name": store.STATE, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    (url / part_name(0)).write_text(to_text(0, WORLD, part["checkpoint"], files, part["fragments"]))


@given(state=st.fixed_dictionaries({}, optional=dict.fromkeys(("shapes", "features", "tasks", "config"), JSON)))
def test_states_of_any_form_are_refused(checkpoint: Path, state: Content) -> None:
    sound = {path: path.read_bytes() for path in (checkpoint / store.STATE, checkpoint / part_name(0))}
    restate(checkpoint, stored_state(20, **state))
    try:
        with pytest.raises(IvrError) as caught:
            load_model(str(checkpoint))
        assert "\n" not in str(caught.value)
    finally:
        for path, data in sound.items():
            path.write_bytes(data)


def test_a_state_is_read_only_as_its_part_says(tmp_path: Path) -> None:
    url = write(tmp_path / "checkpoint", 20)
    (url / store.STATE).write_text((url / store.STATE).read_text().replace("0.25", "0.75"))
    with pytest.raises(CheckpointError, match=r"state\.json is not what its part manifest says"):
        store.read_state(str(url))
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        store.read_state(str(tmp_path))


def test_only_named_files_of_a_text_encoder_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = write(tmp_path / "checkpoint", 20)
    (url / store.TEXT_ENCODER / "modeling.py").write_text("planted")
    taken: list[list[str]] = []

    def encoder(folder: str, weights: bool, context: int) -> None:
        taken.append(sorted(path.name for path in Path(folder).iterdir()))

    monkeypatch.setattr("ivr_dist.checkpoint.weights.TextEncoder", encoder)
    with stored_text(str(url), replace(small_state(20), features={"text": ["words", 1]})):
        assert taken == [["config.json", "vocab.txt"]]


def test_retention_counts_complete_checkpoints_only(tmp_path: Path) -> None:
    run, spans = str(tmp_path), [Span(1, 1, None)]
    names = [store.CheckpointName(step, 1) for step in (10, 20, 30, 40, 50)]
    for name in names:
        write(Path(name.url(run)), name.step)
    Path(names[2].url(run), part_name(1)).unlink()
    Path(names[3].url(run), store.weights_file(1)).write_bytes(b"cut")
    Path(names[1].url(run), store.TEXT_ENCODER, "vocab.txt").unlink()
    assert [store.is_complete(name.url(run)) for name in names] == [True, False, False, False, True]
    store.retain(run, spans, newest=names[4], keep_last=2, best=None)
    assert store.names(run) == [names[4], names[0]]


def test_storage_that_cannot_be_read_says_nothing_about_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passing over all checkpoints since storage is down would start from scratch, and delete them in the end."""
    name = store.CheckpointName(20, 1)
    write(Path(name.url(str(tmp_path))), 20)

    def down(url: str) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(storage.api._disk, "read", down)
    with pytest.raises(IvrError, match="Input/output error"):
        _newest_complete(str(tmp_path), [Span(1, 1, None)], None, [])
