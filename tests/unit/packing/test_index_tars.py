"""Tars that WebDataset wrote, indexed in place and read back."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from ivr_dist import storage
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.errors import CorruptDataError, DataError, IvrError
from ivr_dist.inspection.find_sample import find_sample
from ivr_dist.inspection.verify import verify
from ivr_dist.packing.index_tars import index_tars
from ivr_dist.packing.worker_pool import ProcessPool
from ivr_dist.shards.index import load
from ivr_dist.shards.manifest import Manifest
from tests.foreign_tars import Sample, corpus, failure, index, write, written
from tests.packed import npy, refit


def check(place: Path, manifest: Manifest, samples: list[Sample]) -> None:
    reader = ShardReader(str(place), manifest, 0)
    try:
        found = reader.read(np.arange(manifest.samples))
    finally:
        reader.close()
    for raw, sample in zip(found, samples, strict=True):
        assert raw.key == sample["__key__"]
        assert raw.id == sample["json"]["id"]
        assert raw.labels == sample["json"]["labels"]
        assert {f"{name}.npy" for name in raw.arrays} == {name for name in sample if name.endswith(".npy")}
        for name, array in raw.arrays.items():
            assert array.dtype == sample[f"{name}.npy"].dtype
            np.testing.assert_array_equal(array, sample[f"{name}.npy"])


def test_what_webdataset_wrote_is_read_back(tmp_path: Path) -> None:
    place = write(tmp_path / "train", corpus())
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    manifest = index(place)
    assert manifest == Manifest.load(str(place))
    manifest.check_shards(str(place))
    check(place, manifest, written(corpus()))
    # In place: the tars are not changed.
    assert {name: (place / name).read_bytes() for name in before} == before
    assert len(list(place.iterdir())) == 3 + 3 + 2


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_other_kinds_of_tar(tmp_path: Path, kind: int) -> None:
    samples = [{**sample, "__key__": "deep/" * 30 + sample["__key__"]} for sample in corpus(4)]
    with tarfile.open(tmp_path / "a.tar", "w", format=kind) as archive:
        for sample in samples:
            for name, value in sample.items():
                if not name.startswith("__"):
                    add(
                        archive,
                        f"{sample['__key__']}.{name}",
                        webdataset.writer.default_handlers[name.split(".")[-1]](value),
                    )
    check(tmp_path, index(tmp_path), samples)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def test_the_manifest_describes_the_contents(tmp_path: Path) -> None:
    manifest = index(write(tmp_path / "train", corpus()))
    assert (manifest.corpus, manifest.split, manifest.samples) == ("clips", "train", 23)
    assert [shard.samples for shard in manifest.shards] == [8, 8, 7]
    assert list(manifest.features) == ["text", "audio", "vision"]
    layouts = {name: (spec.kind, spec.dim, spec.dtype) for name, spec in manifest.features.items()}
    assert layouts == {
        "text": ("tokens", 1, "int32"),
        "audio": ("features", 74, "float32"),
        "vision": ("features", 35, "float16"),
    }
    assert {name: (task.type, task.scale) for name, task in manifest.tasks.items()} == {
        "sentiment": ("regression", "mosi")
    }
    assert manifest.vocabulary == {"text": 1 + max(int(s["text.npy"].max(initial=0)) for s in corpus())}
    assert manifest.transcripts == 0


def test_transcripts_are_counted_and_ids_below_0_refused(tmp_path: Path) -> None:
    samples = corpus(5)
    for number, text in enumerate(["so good", "", ["a", "list"]]):
        samples[number]["json"]["transcript"] = text
    assert index(write(tmp_path / "train", samples)).transcripts == 2
    samples[4]["text.npy"][2] = -1
    assert "text has a token id below 0" in failure(write(tmp_path / "bad", samples))


def test_statistics_of_train_are_those_of_all_steps(tmp_path: Path) -> None:
    statistics = index(write(tmp_path / "train", corpus())).statistics
    assert statistics.keys() == {"audio", "vision"}
    for name, found in statistics.items():
        steps = np.concatenate([sample[f"{name}.npy"] for sample in corpus() if f"{name}.npy" in sample])
        assert found.steps == len(steps)
        np.testing.assert_allclose(found.mean, steps.mean(0, dtype=np.float64), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.std, steps.astype(np.float64).std(0), rtol=1e-9)


def test_splits_have_the_same_tasks_for_any_labels(tmp_path: Path) -> None:
    train = index(write(tmp_path / "train", corpus()))
    valid = index(write(tmp_path / "valid", corpus()[:6], shards=1), "valid")
    assert valid.tasks == train.tasks
    assert valid.features == train.features
    assert valid.statistics == {}


def test_indexing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    place = write(tmp_path / "train", corpus())
    index(place)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    index(place)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


def test_processes_give_the_same_manifest_and_the_same_errors(tmp_path: Path) -> None:
    places = [write(tmp_path / "here", corpus()), tmp_path / "processes"]
    shutil.copytree(*places)
    here = index(places[0])
    calls: list[tuple[int, int]] = []
    pool = ProcessPool(2, start_s=0)
    found = index_tars(
        str(places[1]),
        corpus="clips",
        split="train",
        scale="mosi",
        on_progress=lambda done, total: calls.append((done, total)),
        pool=pool,
    )
    assert found == here and calls == [(1, 3), (2, 3), (3, 3)]
    assert [path.read_bytes() for path in sorted(places[0].glob("*.idx"))] == [
        path.read_bytes() for path in sorted(places[1].glob("*.idx"))
    ]
    (places[1] / "part-1.tar").write_bytes((places[1] / "part-1.tar").read_bytes()[:-20_000])
    with pytest.raises(CorruptDataError, match=r"part-1\.tar"):
        index_tars(str(places[1]), corpus="clips", split="train", pool=pool)


def test_tars_of_other_features_are_refused_wherever_they_stand(tmp_path: Path) -> None:
    samples = [{**about(), "__key__": name, "text.npy": ARRAY[:, :width]} for name, width in (("a", 2), ("b", 1))]
    said = failure(write(tmp_path / "train", samples, shards=2))
    assert "text is float32 of width 1 here and float32 of width 2 before" in said and "part-1.tar" in said


def test_remote_tars(tmp_path: Path) -> None:
    place = write(tmp_path / "train", corpus())
    url = f"memory://{tmp_path.name}/remote/train"
    for path in place.iterdir():
        storage.write_bytes(storage.join(url, path.name), path.read_bytes())
    assert index_tars(url, corpus="clips", split="train", scale="mosi") == index(place)


def test_what_tar_wrote_is_read_back(tmp_path: Path) -> None:
    place = write(tmp_path / "train", corpus(), shards=1)
    folder = tmp_path / "files"
    folder.mkdir()
    with tarfile.open(place / "part-0.tar") as archive:
        archive.extractall(folder, filter="data")
    for kind in ("ustar", "gnu", "pax"):
        made = tmp_path / kind
        made.mkdir()
        names = sorted(path.name for path in folder.iterdir())
        subprocess.run(["tar", f"--format={kind}", "-cf", made / "part-0.tar", "-C", folder, *names], check=True)
        check(made, index(made), corpus())


def test_progress_and_what_is_no_tar(tmp_path: Path) -> None:
    place = write(tmp_path / "train", corpus())
    for name in ("README.md", ".part-9.tar", "part-9.tar.sha256", "tar.gz.txt"):
        (place / name).write_bytes(b"not a tar")
    calls: list[tuple[int, int]] = []
    index_tars(str(place), corpus="c", split="train", on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_an_empty_tar_among_others(tmp_path: Path) -> None:
    place = write(tmp_path / "train", corpus(2), shards=3)
    manifest = index(place)
    assert [shard.samples for shard in manifest.shards] == [1, 1, 0]
    check(place, Manifest.load(str(place)), written(corpus(2)))


def test_no_tars(tmp_path: Path) -> None:
    assert "no tar files here" in failure(tmp_path)
    assert "no tar files here" in failure(tmp_path / "nowhere")


def about(**labels: Any) -> Sample:
    return {"__key__": "k", "json": {"labels": labels}}


ARRAY = np.zeros((3, 2), np.float32)


@pytest.mark.parametrize(
    "samples,message",
    [
        ([about(a=1.0)], "no sample has a member KEY.text.npy"),
        ([{**about(), "text.npy": ARRAY[0]}], "text is float32 [2], not numbers [steps, features]"),
        ([{**about(), "text.npy": ARRAY[None]}], "text is float32 [1, 3, 2], not numbers"),
        ([{**about(), "text.npy": ARRAY[:, :0]}], "text is float32 [3, 0], not numbers"),
        ([{**about(), "text.npy": ARRAY > 0}], "text is bool [3, 2], not numbers"),
        ([{**about(), "text.npy": ARRAY + np.nan}], "values that are not finite"),
        ([{**about(), "text.npy": ARRAY - np.inf}], "values that are not finite"),
        ([{**about(), "text.npy": ARRAY.astype(float) + 1e300}], "values that are not finite"),
        (
            [{**about(), "text.npy": ARRAY}, {**about(), "__key__": "l", "text.npy": ARRAY[:, :1]}],
            "text is float32 of width 1 here and float32 of width 2 before",
        ),
        (
            [{**about(), "text.npy": ARRAY}, {**about(), "__key__": "l", "text.npy": ARRAY.astype("f2")}],
            "text is float16 of width 2 here and float32 of width 2 before",
        ),
    ],
)
def test_samples_that_cannot_be_trained_on(tmp_path: Path, samples: list[Sample], message: str) -> None:
    assert message in failure(write(tmp_path / "train", samples, shards=1))


@pytest.mark.parametrize(
    "samples,message",
    [
        ([{"__key__": "k", "text.npy": ARRAY}], "the sample has no k.json"),
        ([{**about(a="3.5"), "text.npy": ARRAY}], "label a is '3.5'"),
        ([{**about(a=True), "text.npy": ARRAY}], "label a is True"),
        ([{**about(a=float("nan")), "text.npy": ARRAY}], "label a is nan"),
        ([{**about(a=10**400), "text.npy": ARRAY}], "label a is of hundreds of digits"),
        ([{**about(), "text.npy": np.array([{}])}], "only plain numbers"),
        ([{**about(), "text.npy": ARRAY}, {**about(), "text.npy": ARRAY}], "two members of the sample"),
    ],
)
def test_samples_that_cannot_be_read(tmp_path: Path, samples: list[Sample], message: str) -> None:
    assert message in failure(write(tmp_path / "train", samples, shards=1), CorruptDataError)


@pytest.mark.parametrize("id_", [None, ["clip", 1], {"a": 1}, True, 1.5, "", 2.0**70], ids=repr)
def test_ids_that_are_no_text_are_refused(tmp_path: Path, id_: Any) -> None:
    samples = corpus(3)
    samples[1]["json"]["id"] = id_
    said = failure(write(tmp_path / "train", samples, shards=1), CorruptDataError)
    assert f"the sample's id is {json.dumps(id_)}, not a text" in said and "clip0001" in said


def test_a_whole_number_is_an_id_as_verify_has_it(tmp_path: Path) -> None:
    samples = corpus(3)
    for number, sample in enumerate(samples):
        sample["json"]["id"] = 2**60 + number
    manifest = index(write(tmp_path / "train", samples, shards=1))
    assert load(str(tmp_path / "train" / manifest.shards[0].index.name)).ids == [str(2**60 + n) for n in range(3)]
    assert verify([str(tmp_path / "train")]).ok


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ({2: "same", 9: "same"}, "sample id same is in part-0.tar and part-2.tar"),
        ({0: "same", 3: "same"}, "sample id same is in part-0.tar twice"),
        ({0: "7", 1: 7}, "sample id 7 is in part-0.tar and part-1.tar"),
        ({0: "clip0004"}, "sample id clip0004 is in part-0.tar and part-1.tar"),
    ],
    ids=["two shards", "one shard", "a number", "an id and a name"],
)
def test_two_samples_of_one_id_are_refused(tmp_path: Path, ids: dict[int, Any], said: str) -> None:
    samples = corpus(12)
    del samples[4]["json"]["id"]
    for number, id_ in ids.items():
        samples[number]["json"]["id"] = id_
    assert said in failure(write(tmp_path / "train", samples))


def test_names_numbered_per_shard_are_not_ids(tmp_path: Path) -> None:
    samples = corpus(12)
    for number, sample in enumerate(samples):
        sample["__key__"] = f"{number // 3:06d}"
    check(tmp_path / "train", index(write(tmp_path / "train", samples)), written(samples))


def test_a_sample_is_found_by_its_id_and_by_the_name_of_its_members(tmp_path: Path) -> None:
    samples = corpus(12)
    samples[5]["json"]["id"] = samples[7]["__key__"]
    place = write(tmp_path / "train", samples)
    index(place)
    assert find_sample([str(place)], "clip 8").sample.key == "clip0008"
    assert find_sample([str(place)], "clip0008").sample.id == "clip 8"
    assert find_sample([str(place)], "clip0007").sample.key == "clip0005", "an id goes before a name"
    with pytest.raises(DataError, match="did you mean clip 8"):
        find_sample([str(place)], "clip 88")


def test_verify_compares_the_ids_of_the_index(tmp_path: Path) -> None:
    place = write(tmp_path / "train", corpus(12))
    manifest = index(place)
    found = load(str(place / manifest.shards[0].index.name))
    refit(place, index=replace(found, ids=["other", *found.names[1:]]))
    (fault,) = verify([str(place)]).findings
    assert fault.kind == "index" and "the index has the id other, the tar clip 0" in fault.what


def test_a_damaged_tar_is_named(tmp_path: Path) -> None:
    place = write(tmp_path / "train", corpus())
    data = (place / "part-1.tar").read_bytes()
    (place / "part-1.tar").write_bytes(data[: len(data) // 2])
    assert "part-1.tar" in failure(place, CorruptDataError)


def plain(place: Path, name: str = "a.tar", keys: tuple[str, ...] = ("k0", "k1"), **options: Any) -> Path:
    """A tar of two samples, written by Python's own tarfile."""
    place.mkdir(exist_ok=True)
    with tarfile.open(place / name, "w", **options) as archive:
        for key in keys:
            add(archive, f"{key}.json", b'{"labels": {"s": 0.5}}')
            add(archive, f"{key}.text.npy", npy(np.ones((2, 3), np.float32)))
    return place


def told(place: Path) -> tuple[Manifest, list[str]]:
    notes: list[str] = []
    return index_tars(str(place), corpus="c", split="train", on_note=notes.append), notes


@pytest.mark.parametrize(
    "name",
    ["b.tar.gz", "b.TAR.GZ", "b.tgz", "b.TAR", "b.Tar", "b.tar.zst", "b.tar.bz2", "b.txz", "b.tar.7z", "b.tar.part"],
)
def test_tars_that_would_be_left_out_are_refused(tmp_path: Path, name: str) -> None:
    place = plain(tmp_path / "train")
    (place / name).write_bytes(b"anything")
    assert f"tars would be left out because they are compressed, incomplete or not named NAME.tar: {name}" in failure(
        place
    )


def test_tars_that_exist_uncompressed_too_and_tars_below_are_noted(tmp_path: Path) -> None:
    place = plain(tmp_path / "train")
    (place / "a.tar.gz").write_bytes(b"the same")
    plain(place / "old")
    manifest, notes = told(place)
    assert manifest.samples == 2
    assert notes[0] == "skipped, because they exist as .tar as well: a.tar.gz"
    assert notes[1].startswith("skipped, because they are in folders below") and notes[1].endswith("old/a.tar")


@pytest.mark.parametrize("encoding", ["latin-1", "gbk"])
def test_names_that_are_not_utf8_stay_apart(tmp_path: Path, encoding: str) -> None:
    keys = {"latin-1": ("caf\u00e9", "caf\u00e8", "na\u00efve"), "gbk": ("\u5f88", "\u597d", "\u7535")}[encoding]
    place = plain(tmp_path / "train", keys=keys, format=tarfile.GNU_FORMAT, encoding=encoding)
    manifest = index(place)
    reader = ShardReader(str(place), manifest, 1 << 20)
    found = list(reader.read(np.arange(3)))
    reader.close()
    names = [key.encode(encoding) for key in keys]
    assert [sample.key.encode("utf-8", "surrogateescape") for sample in found] == names
    assert len({sample.id for sample in found}) == 3
    expected = webdataset.WebDataset(str(place / "a.tar"), shardshuffle=False)
    assert [sample["__key__"] for sample in expected] == [sample.key for sample in found]


def test_dots_in_keys_are_explained(tmp_path: Path) -> None:
    place = plain(tmp_path / "train", keys=("vid.000", "vid.001"))
    assert "has no vid.json: a key ends at the first dot, so vid.000.json is" in failure(place, CorruptDataError)
    place = plain(tmp_path / "other", keys=("k",))
    with tarfile.open(place / "a.tar", "a") as archive:
        add(archive, "k.v2.audio.npy", npy(np.ones((2, 3), np.float32)))
    assert "an array would be left out: a key ends at the first dot" in failure(place, CorruptDataError)


def test_members_that_are_not_side_by_side_are_to_be_sorted(tmp_path: Path) -> None:
    place = plain(tmp_path / "train", keys=("k", "l", "k"))
    said = failure(place, CorruptDataError)
    assert "not one after the other" in said and "tar --sort=name" in said and "ivr-dist index" not in said
    place = plain(tmp_path / "jsons first", keys=("k", "l"))
    with tarfile.open(place / "a.tar", "a") as archive:
        for key in ("k", "l"):
            add(archive, f"{key}.text.npy", npy(np.ones((2, 3), np.float32)))
    assert "tar --sort=name" in failure(place, CorruptDataError)


def test_labels_are_counted_and_missing_ones_noted(tmp_path: Path) -> None:
    samples = corpus(4)
    manifest, notes = told(write(tmp_path / "train", samples))
    assert manifest.labels == {"sentiment": 3} and notes == []
    for sample in samples:
        sample["json"]["labels"] = {"sentiment": None}
    manifest, notes = told(write(tmp_path / "null", samples))
    assert manifest.labels == {"sentiment": 0}
    assert notes == ["no sample of c, split train has a label sentiment"]
    for sample in samples:
        sample["json"] = {"sentiment": 0.5, "transcript": "nan"}
    manifest, notes = told(write(tmp_path / "none", samples))
    assert manifest.tasks == {} and "4 samples have the transcript nan" in notes[0]
    assert "no sample of c, split train has a label; labels are an object" in notes[1]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((2, 3), np.longdouble), "text is float128"),
        (np.array([1, 2**40]), "token id of more than 32 bits"),
        (np.ones((2, 3), complex), "arrays of complex numbers"),
        (np.full((2, 3), "a"), "arrays of text"),
        (np.array([[None]]), "arrays of Python objects"),
    ],
)
def test_arrays_of_other_kinds(tmp_path: Path, array: Any, message: str) -> None:
    place = plain(tmp_path / "train", keys=("k",))
    with tarfile.open(place / "a.tar", "w") as archive:
        add(archive, "k.json", b"{}")
        add(archive, "k.text.npy", npy(array))
    assert message in failure(place, IvrError)


def test_whole_numbers_that_training_rounds_are_noted(tmp_path: Path) -> None:
    place = plain(tmp_path / "train", keys=("k",))
    with tarfile.open(place / "a.tar", "w") as archive:
        add(archive, "k.json", b'{"labels": {"s": 1}}')
        add(archive, "k.text.npy", npy(np.array([[2**24 + 1, 5]])))
    assert told(place)[1] == ["1 whole numbers of text are rounded in training, which computes in float32"]
