"""Format csd: computational sequences of the CMU SDK become word-aligned samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ivr_dist import storage
from ivr_dist.corpora.card import SourceFile, load_card
from ivr_dist.corpora.readers.csd_file import CsdFile
from ivr_dist.corpora.registry import open_source
from ivr_dist.corpora.source import Dropped, Source
from ivr_dist.errors import ConfigError, DataError
from tests.corpora import open_corpus, round_trip, same_bits

CARD = """
name: opinions
description: Opinions.
citation: none
licence: none
format: csd
files:
  words: {path: words.csd}
  labels: {path: labels.csd}
  covarep: {path: covarep.csd}
  facet: {path: facet.csd}
  glove: {path: glove.npz}
features:
  text: {set: glove, dim: 4}
  audio: {set: covarep}
  vision: {set: facet, dim: 2}
tasks:
  sentiment: {type: regression, low: -3, high: 3, scale: mosi}
  sad: {type: regression, low: 0, high: 3, scale: emotion}
splits:
  train: {groups: [v0, v1]}
  test: {groups: [v2]}
csd:
  words: words
  labels: {file: labels, tasks: {sentiment: sentiment, sad: sad}}
  vocabulary: {file: glove, words: words, vectors: vectors, unknown: 0}
  audio: covarep
  vision: facet
"""
COLUMNS = ["sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear"]
VOCABULARY = ["<unk>", "so", "good", "film", "the"]
Video = dict[str, tuple[Any, Any]]


def write_csd(path: Path, name: str, videos: Video, columns: list[str] | None = None) -> None:
    with h5py.File(path, "w") as file:
        data = file.create_group(f"{name}/data")
        for video, (features, intervals) in videos.items():
            data[f"{video}/features"] = features
            data[f"{video}/intervals"] = intervals
        if columns is not None:
            file[f"{name}/metadata/dimension names"] = [json.dumps(columns).encode()]


def timed(words: str) -> tuple[Any, Any]:
    """Words of half a second each, one after the other."""
    listed = words.split()
    starts = np.arange(len(listed)) / 2
    return np.array(listed, "S")[:, None], np.stack([starts, starts + 0.5], 1)


def frames(random: np.random.Generator, rate: float, seconds: float, width: int) -> tuple[Any, Any]:
    """Whole numbers, whose sums are exact, as frames of 1 / rate seconds."""
    starts = np.arange(int(rate * seconds)) / rate
    values = random.integers(-50, 50, (len(starts), width)).astype(np.float32)
    return values, np.stack([starts, starts + 1 / rate], 1)


def corpus() -> dict[str, Video]:
    """v0: two segments; v1: one, and one of pauses only; v2: one, without audio."""
    random = np.random.default_rng(2)
    words = {"v0": timed("so sp good film the film"), "v1": timed("the unheard sp sp"), "v2": timed("sp film good")}
    labels = {
        "v0": ([[1.5, 0, 0.25, 0, 0, 0, 0], [-2.4, 0, 3, 0, 0, 0, 0]], [[0, 1.6], [1.5, 3.0]]),
        "v1": ([[0, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]], [[0.0, 1.0], [1.0, 2.0]]),
        "v2": ([[np.nan, 0, 1, 0, 0, 0, 0]], [[0.75, 1.25]]),
    }
    audio = {video: frames(random, 100, 3, 3) for video in ("v0", "v1")}
    audio["v0"][0][12, 1] = -np.inf
    vision = {video: frames(random, 30, 3, 2) for video in words}
    # No frame of vision overlaps the third second's half of v0.
    keep = vision["v0"][1][:, 0] < 2.4
    vision["v0"] = (vision["v0"][0][keep], vision["v0"][1][keep])
    return {
        "words": words,
        "labels": {video: (np.array(f, np.float32), np.array(i, np.float32)) for video, (f, i) in labels.items()},
        "covarep": audio,
        "facet": vision,
    }


def write(folder: Path, content: dict[str, Video], columns: list[str] | None = COLUMNS) -> None:
    for name, videos in content.items():
        write_csd(folder / f"{name}.csd", f"the {name}", videos, columns if name == "labels" else None)
    vectors = np.arange(4 * len(VOCABULARY), dtype=np.float32).reshape(-1, 4)
    np.savez(folder / "glove.npz", words=np.array(VOCABULARY), vectors=vectors)


def opened(tmp_path: Path, content: dict[str, Video], card: str = CARD, columns: list[str] | None = COLUMNS) -> Source:
    write(tmp_path, content, columns)
    return open_corpus(tmp_path, card)


def mean(video: tuple[Any, Any], start: float, end: float) -> Any:
    """The mean of the rows that overlap a word, over finite values, one at a time; 0 where there is none."""
    features, intervals = video
    rows = [r for r, (a, b) in zip(features, intervals, strict=True) if min(b, end) - max(a, start) > 1e-3]
    means = []
    for column in range(features.shape[1]):
        finite = [float(row[column]) for row in rows if np.isfinite(row[column])]
        means.append(sum(finite) / len(finite) if finite else 0.0)
    return means


SPOKEN = {
    "v0_0": [("so", 0.0), ("good", 1.0)],
    "v0_1": [("film", 1.5), ("the", 2.0), ("film", 2.5)],
    "v1_0": [("the", 0.0), ("unheard", 0.5)],
    # The middle of a word that lies on an edge belongs to the later side.
    "v2_0": [("film", 0.5)],
}


LABELS = {
    "v0_0": {"sentiment": 1.5, "sad": 0.25},
    # Kept as float32; what was meant is what is stored.
    "v0_1": {"sentiment": -2.4, "sad": 3},
    "v1_0": {"sentiment": 0, "sad": 0},
    "v2_0": {"sentiment": None, "sad": 1},
}


def test_words_are_averaged_over_their_intervals(tmp_path: Path) -> None:
    content = corpus()
    source = opened(tmp_path, content)
    summary, found = round_trip(source, tmp_path / "out")
    assert {split: sorted(samples) for split, samples in found.items()} == {
        "train": ["v0_0", "v0_1", "v1_0"],
        "test": ["v2_0"],
    }
    for samples in found.values():
        for id_, sample in samples.items():
            video = id_.split("_")[0]
            rows = [VOCABULARY.index(word) if word in VOCABULARY else 0 for word, _ in SPOKEN[id_]]
            wanted = {"text": np.arange(20).reshape(5, 4)[rows].astype(np.float32)}
            for name, file in (("audio", "covarep"), ("vision", "facet")):
                if video in content[file]:
                    wanted[name] = np.array(
                        [mean(content[file][video], start, start + 0.5) for _, start in SPOKEN[id_]]
                    )
            assert same_bits(sample.arrays, wanted), id_
            assert list(sample.words) == [word for word, _ in SPOKEN[id_]]
            assert sample.labels == LABELS[id_]
    train, test = summary.splits
    # One value of audio is left out of an average; the last word of v0_1 has no frame of two features.
    assert dict(train.replaced) == {"audio": 1, "vision": 2} and not train.missing
    assert dict(test.missing) == {"audio": 1} and dict(test.unlabelled) == {"sentiment": 1}
    assert summary.dropped == (Dropped("v1_1", "no words in its interval"),)
    assert summary.warnings == ["1 dropped, no words in its interval: v1_1"]


def test_groups_and_provenance(tmp_path: Path) -> None:
    source = opened(
        tmp_path, corpus(), CARD.replace("  words: words\n  labels", "  first: 1\n  words: words\n  labels", 1)
    )
    assert [(ref.id, ref.group) for ref in source.splits()["train"]] == [("v0_1", "v0"), ("v0_2", "v0"), ("v1_1", "v1")]
    sample = source.load("train", source.splits()["train"][1])
    assert sample.provenance == {"file": "labels.csd", "group": "v0", "row": 1, "start": 1.5, "end": 3.0}


def test_words_may_be_one_row_late(tmp_path: Path) -> None:
    content = corpus()
    late = {}
    for video, (words, times) in content["words"].items():
        # The first word loses its time, and is given that of the second.
        late[video] = (words, np.concatenate([times[1:], times[-1:] + 0.5]))
    fixed = CARD + "  fixes: [words_one_row_late]\n"
    source = opened(tmp_path, {**content, "words": late}, fixed)
    said = {
        ref.id: source.load(split, ref).transcript.split() for split, refs in source.splits().items() for ref in refs
    }
    assert said == {id_: [word for word, _ in words] for id_, words in SPOKEN.items()}
    unfixed = opened(tmp_path, {**content, "words": late})
    assert unfixed.load("train", unfixed.splits()["train"][0]).transcript == "so"
    with pytest.raises(ConfigError, match=r"csd\.fixes.*words_one_row_late"):
        opened(tmp_path, content, CARD + "  fixes: [words_late]\n")


def test_videos_in_no_split(tmp_path: Path) -> None:
    card = CARD.replace("groups: [v0, v1]", "groups: [v0, v9]")
    with pytest.raises(DataError, match=r"video v1 is in no split.*csd.unlisted"):
        opened(tmp_path, corpus(), card)
    summary, found = round_trip(opened(tmp_path, corpus(), card + "  unlisted: drop\n"), tmp_path / "out")
    assert sorted(found["train"]) == ["v0_0", "v0_1"]
    assert [(sample.id, sample.reason) for sample in summary.dropped] == [
        ("v1_0", "its video is in no split"),
        ("v1_1", "its video is in no split"),
        ("v9", "a split lists this video, but it has no labels"),
    ]


def test_splits_listed_in_files(tmp_path: Path) -> None:
    card = CARD.replace("groups: [v0, v1]", "groups_file: train").replace("groups: [v2]", "groups_file: test")
    card = card.replace("features:", "  train: {path: train.txt}\n  test: {path: test.txt}\nfeatures:")
    (tmp_path / "train.txt").write_text("v0\n\nv1\n")
    (tmp_path / "test.txt").write_text("v2")
    assert opened(tmp_path, corpus(), card).splits() == opened(tmp_path, corpus()).splits()
    (tmp_path / "test.txt").write_text("v2\nv1\n")
    with pytest.raises(ConfigError, match="group v1 is in the splits train and test"):
        opened(tmp_path, corpus(), card)


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not name its columns.*csd\.labels\.columns"):
        opened(tmp_path, corpus(), columns=None)
    named = CARD.replace("file: labels, tasks", f"file: labels, columns: [{', '.join(COLUMNS)}], tasks")
    source = opened(tmp_path, corpus(), named, columns=None)
    assert source.load("train", source.splits()["train"][0]).labels == {"sentiment": 1.5, "sad": 0.25}
    with pytest.raises(DataError, match=r"the file has the columns fear, .*the card sentiment, "):
        opened(tmp_path, corpus(), named, columns=COLUMNS[::-1])
    with pytest.raises(DataError, match=r"no column sad, the label sad.*it has: sentiment, happy, x"):
        opened(tmp_path, corpus(), columns=[*COLUMNS[:2], "x", *COLUMNS[3:]])
    with pytest.raises(DataError, match="has 7 columns, not 3"):
        opened(tmp_path, corpus(), columns=COLUMNS[:3])


def test_text_may_be_averaged_too(tmp_path: Path) -> None:
    content = corpus()
    random = np.random.default_rng(1)
    for file in ("words", "labels"):
        # Times that float32 does not hold exactly.
        content[file] = {video: (features, times * 0.7) for video, (features, times) in content[file].items()}
    content["glove"] = {
        video: (random.integers(-9, 9, (len(words), 4)).astype(np.float32), times.astype(np.float32))
        for video, (words, times) in content["words"].items()
    }
    card = CARD.replace("  vocabulary: {file: glove, words: words, vectors: vectors, unknown: 0}\n", "  text: glove\n")
    source = opened(tmp_path, content, card.replace("glove.npz", "glove.csd"))
    sample = source.load("train", source.splits()["train"][1])
    # Intervals that touch do not mix, though the file keeps them as float32.
    assert np.array_equal(sample.arrays["text"], content["glove"]["v0"][0][3:6])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["facet"].update(v2=(np.ones((4, 3), np.float32), np.ones((4, 2)))),
            r"rows of v2 have 3 features, of others 2",
        ),
        (
            lambda c: c["facet"].update(v2=(np.ones((4, 2), np.float32), np.ones((3, 2)))),
            r"\[4, 2\] features and \[3, 2\]",
        ),
        (
            lambda c: c["facet"].update(v2=(np.ones(4, np.float32), np.ones((4, 2)))),
            r"features of v2 are \[4\] of float32",
        ),
        (lambda c: c.update(facet=c["words"]), r"its rows are not numbers.*facet"),
        (lambda c: c.update(words=c["facet"]), r"the rows of v0 are numbers, not words"),
        (
            lambda c: c["labels"].update(v0=(np.full((2, 7), 9, np.float32), c["labels"]["v0"][1])),
            r"sentiment is 9, outside",
        ),
    ],
)
def test_sequences_that_do_not_fit_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    content = corpus()
    change(content)
    with pytest.raises(DataError, match=message):
        source = opened(tmp_path, content)
        source.load("train", source.splits()["train"][0])


def test_a_broken_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"5 words, vectors \[5, 4\] and row 7 do not match"):
        opened(tmp_path, corpus(), CARD.replace("unknown: 0", "unknown: 7"))


def test_words_of_any_length(tmp_path: Path) -> None:
    content = corpus()
    texts = {video: (words.astype(object), times) for video, (words, times) in content["words"].items()}
    source = opened(tmp_path, {**content, "words": texts})
    assert source.load("test", source.splits()["test"][0]).transcript == "film"
    texts["v2"] = (np.array([[b"x" * 5000]] * 3, object), texts["v2"][1])
    with pytest.raises(DataError, match="more than 1000 characters"):
        opened(tmp_path, {**content, "words": texts})


def replace_features(file: h5py.File, make: Any) -> None:
    group = file["the facet/data/v0"]
    del group["features"]
    make(group, file)


def external_link(group: Any, file: Any) -> None:
    group["features"] = h5py.ExternalLink("secret.csd", "/the facet/data/v0/features")


def soft_link(group: Any, file: Any) -> None:
    group["features"] = h5py.SoftLink("/the facet/data/v1/features")


def external_storage(group: Any, file: Any) -> None:
    group.create_dataset("features", (72, 2), "f4", external=[("secret.bin", 0, 72 * 8)])


def virtual(group: Any, file: Any) -> None:
    layout = h5py.VirtualLayout((72, 2), "f4")
    layout[:] = h5py.VirtualSource("secret.csd", "x", (72, 2))
    group.create_virtual_dataset("features", layout)


def huge(group: Any, file: Any) -> None:
    group.create_dataset("features", (1 << 23, 1 << 20), "f4", chunks=(64, 64), compression="gzip")


def many_rows(group: Any, file: Any) -> None:
    group.create_dataset("features", (1 << 40, 2), "f4", chunks=(64, 2))


def objects(group: Any, file: Any) -> None:
    group.create_dataset("features", data=np.array([[group.ref] * 2] * 72, h5py.ref_dtype))


def records(group: Any, file: Any) -> None:
    group.create_dataset("features", data=np.zeros(72, [("a", "f4"), ("b", "f4")]))


def a_group(group: Any, file: Any) -> None:
    group.create_group("features")


def nothing(group: Any, file: Any) -> None:
    """Leave it out."""


def two_sequences(group: Any, file: Any) -> None:
    file.create_group("another/data")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (external_link, "features is a link to another file"),
        (soft_link, "features is a link to another path"),
        (external_storage, "stored in other files"),
        (virtual, "stored in other files"),
        (huge, r"is \[8388608, 1048576\] of float32, in 0 bytes"),
        (many_rows, r"is \[1099511627776, 2\]"),
        (objects, r"features of v0 are \[72, 2\] of object"),
        (records, r"features of v0 are \[72\] of \[\('a'"),
        (a_group, "features is not a data set"),
        (nothing, "there is no features"),
        (two_sequences, "2 sequences instead of one"),
    ],
)
def test_files_that_reach_out_or_lie_are_refused(tmp_path: Path, make: Any, message: str) -> None:
    content = corpus()
    write(tmp_path, content)
    write_csd(tmp_path / "secret.csd", "the facet", content["facet"])
    (tmp_path / "secret.bin").write_bytes(bytes(72 * 8))
    with h5py.File(tmp_path / "facet.csd", "r+") as file:
        replace_features(file, make)
    with pytest.raises(DataError, match=rf"{message}.*facet\.csd.*malicious"):
        open_corpus(tmp_path, CARD)


def test_links_further_up_are_refused(tmp_path: Path) -> None:
    write(tmp_path, corpus())
    for place, message in (("the facet/data/v0", "v0"), ("the facet/data", "data"), ("the facet", "the facet")):
        write(tmp_path, corpus())
        with h5py.File(tmp_path / "facet.csd", "r+") as file:
            del file[place]
            file[place] = h5py.ExternalLink("secret.csd", place)
        with pytest.raises(DataError, match=f"{message} is a link to another file"):
            open_corpus(tmp_path, CARD)


def test_files_may_be_anywhere(tmp_path: Path) -> None:
    local = opened(tmp_path, corpus())
    for path in tmp_path.iterdir():
        storage.write_bytes(f"memory://csd/{path.name}", path.read_bytes())
    remote = open_source("memory://csd", load_card(str(tmp_path / "card.yaml")))
    assert remote.splits() == local.splits()
    for ref in local.splits()["train"]:
        here, there = (source.load("train", ref).arrays for source in (local, remote))
        assert {name: rows.tobytes() for name, rows in here.items()} == {n: rows.tobytes() for n, rows in there.items()}


def test_files_other_than_hdf5_are_refused(tmp_path: Path) -> None:
    write(tmp_path, corpus())
    whole = (tmp_path / "facet.csd").read_bytes()
    for data in (b"", b"PK\x03\x04" * 100, whole[: len(whole) // 2]):
        (tmp_path / "facet.csd").write_bytes(data)
        with pytest.raises(DataError, match=r"not an HDF5 file.*facet\.csd"):
            open_corpus(tmp_path, CARD)
    (tmp_path / "facet.csd").unlink()
    with pytest.raises(DataError, match=r"a file of the corpus is missing.*facet\.csd"):
        open_corpus(tmp_path, CARD)


@pytest.mark.parametrize("which", ["features", "intervals"])
def test_chunks_that_unpack_to_much_are_refused(tmp_path: Path, which: str) -> None:
    with h5py.File(tmp_path / "x.csd", "w") as file:
        for name, width in (("features", 4), ("intervals", 2)):
            rows = (1 << 24) if name == which else 4
            place = f"x/data/v/{name}"
            data = file.create_dataset(
                place, (4, width), "f4", maxshape=(None, width), chunks=(rows, width), compression=1
            )
            # A byte in place of what the chunk was compressed to: nothing of its size is made here.
            data.id.write_direct_chunk((0, 0), b"x")
    with pytest.raises(DataError, match=rf"{which} is stored in chunks of \d+ bytes, more than 67108864"):
        CsdFile(str(tmp_path), SourceFile(path="x.csd"))


def test_names_and_words_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    write_csd(tmp_path / "x.csd", "x", {"videoX": (np.array([b"caf\xe9"]).reshape(1, 1), np.zeros((1, 2)))})
    with pytest.raises(DataError, match=r"a word of videoX: b'caf.*byte 0xe9"):
        CsdFile(str(tmp_path), SourceFile(path="x.csd")).words("videoX")
    data = (tmp_path / "x.csd").read_bytes()
    (tmp_path / "x.csd").write_bytes(data.replace(b"videoX", b"vide\xe9X"))
    with pytest.raises(DataError, match=r"the name b?'vide.* is not UTF-8"):
        CsdFile(str(tmp_path), SourceFile(path="x.csd"))


@pytest.mark.parametrize(
    ("data", "message"), [(b"\x1f\x8b", "gzip"), (b"\x80\x04", "a pickle"), (b"", "an empty file")]
)
def test_the_kind_of_other_files_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.csd").write_bytes(data)
    with pytest.raises(DataError, match=f"{message}.*, not an HDF5 file"):
        CsdFile(str(tmp_path), SourceFile(path="x.csd"))
