"""Tars: written as plain USTAR that other programs read; theirs are read as well; hostile ones are refused."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from ivr_dist.errors import CorruptDataError, DataError
from ivr_dist.shards import tar
from tests.packed import tar_of

Files = list[tuple[str, bytes]]

FILES: Files = [
    ("a.json", b"{}"),
    ("a.text.npy", bytes(range(256)) * 3),
    ("b.json", b""),
    ("dir/c.v1.json", b"x" * 512),
    ("dir/c.v1.npy", b"y" * 513),
]
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def theirs(files: Files, kind: int = tarfile.USTAR_FORMAT, pax: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.pax_headers = pax or {}
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def entry(name: str = "a.json", kind: bytes = b"0", content: bytes = b"", size: bytes | None = None) -> bytes:
    """One member with any header; `size` replaces the header's field."""
    info = tarfile.TarInfo(name)
    info.size, info.type = len(content), kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT)[-tar.BLOCK :])
    if size is not None:
        block[124:136] = size
        block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    return bytes(block) + content + bytes(-len(content) % tar.BLOCK)


def record(key: str, value: str) -> bytes:
    """A PAX record of less than 100 bytes."""
    body = f" {key}={value}\n".encode()
    length = len(body) + (1 if len(body) < 9 else 2)
    return str(length).encode() + body


def read(data: bytes, whole: bool = True) -> Files:
    return [(item.name, data[item.payload : item.payload + item.size]) for item in tar.members(data, "s.tar", whole)]


def refusal(data: bytes) -> str:
    with pytest.raises(CorruptDataError) as caught:
        read(data)
    assert caught.value.where == "s.tar"
    assert caught.value.remedy
    return str(caught.value)


def test_tarfile_reads_written_tars() -> None:
    with tarfile.open(fileobj=io.BytesIO(tar_of(FILES))) as archive:
        found = archive.getmembers()
        assert [(item.name, archive.extractfile(item).read()) for item in found] == FILES  # type: ignore[union-attr]
        assert all(item.isreg() and item.mtime == item.uid == item.gid == 0 and item.mode == 0o644 for item in found)
        assert all(item.pax_headers == {} for item in found)


def test_written_tars_are_the_same_at_any_time_and_minimal() -> None:
    assert tar_of(FILES) == tar_of(FILES)
    assert len(tar_of(FILES)) == 512 * (5 + 1 + 2 + 0 + 1 + 2) + 1024


@pytest.mark.parametrize("kind", FORMATS)
def test_what_tarfile_writes_is_read(kind: int) -> None:
    assert read(tar_of(FILES)) == FILES
    assert read(theirs(FILES, kind)) == FILES


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["d" * 90 + "/" + "e" * 95 + ".json", "sub/" * 30 + "k.json"])
def test_long_names(kind: int, name: str) -> None:
    files = [("a.json", b"1"), (name, b"22"), ("b.json", b"3")]
    assert read(theirs(files, kind)) == files


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_longer_than_ustar_has_room_for(kind: int) -> None:
    files = [("k" * 300 + ".json", b"1"), ("gr\u00fc\u00df.json", b"2"), ("\u4e2d" * 200 + ".npy", b"3")]
    assert read(theirs(files, kind)) == files


def test_pax_headers_without_name_and_size_are_skipped() -> None:
    assert read(theirs(FILES, tarfile.PAX_FORMAT, {"mtime": "1.5", "comment": "x" * 2000})) == FILES
    everywhere = entry("pax_global_header", b"g", record("comment", "made by"))
    assert read(everywhere + tar_of(FILES)) == FILES


def test_sizes_in_pax_and_base_256() -> None:
    content = b"z" * 700
    pax = entry("x", b"x", record("size", "700") + record("path", "p.npy"))
    plain = entry("a.npy", b"0", b"", b"%011o\0" % 0)
    assert read(pax + plain + content.ljust(1024, b"\0") + tar_of(FILES)) == [("p.npy", content), *FILES]
    base256 = entry("a.npy", b"0", b"", b"\x80" + (700).to_bytes(11, "big"))
    assert read(base256 + content.ljust(1024, b"\0") + tar_of(FILES)) == [("a.npy", content), *FILES]


def test_directories_of_any_size_are_skipped() -> None:
    assert read(entry("dir/", b"5") + entry("d2/", b"5", b"", b"%011o\0" % 4096) + tar_of(FILES)) == FILES


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6", b"S", b"V", b"M", b"Z"])
def test_links_devices_and_the_like_are_refused(kind: bytes) -> None:
    assert "not a plain file" in refusal(entry("a.json", kind) + tar_of(FILES))


@pytest.mark.parametrize("name", ["../a.json", "/a.json", "x/../../a.json", "..", "//a.json", ".//a.json"])
def test_paths_that_lead_out_are_refused(name: str) -> None:
    assert "leads out" in refusal(entry(name) + tar_of(FILES))
    assert "leads out" in refusal(entry("x", b"x", record("path", name)) + tar_of(FILES))
    assert "leads out" in refusal(entry("x", b"L", name.encode() + b"\0") + tar_of(FILES))


def test_a_leading_dot_slash_is_not_part_of_the_name() -> None:
    assert read(theirs([("./a.json", b"1")])) == [("a.json", b"1")]


@pytest.mark.parametrize(
    "size",
    [
        b"77777777777\0",
        b"777777777777",
        b"\x80\0\0\0" + (2**63 - 1).to_bytes(8, "big"),
        b"\x80\0\0\0" + (2**63).to_bytes(8, "big"),
        b"\xff" * 12,
    ],
)
def test_sizes_beyond_the_tar_are_refused(size: bytes) -> None:
    assert "cut off" in refusal(entry("a.npy", b"0", b"", size) + tar_of(FILES))
    assert "cut off" in refusal(entry("a.npy", b"L", b"", size) + tar_of(FILES))


@pytest.mark.parametrize("value", ["-1", "9" * 21, "1e3", "", " 5"])
def test_bad_sizes_in_pax_are_refused(value: str) -> None:
    assert "not a number" in refusal(entry("x", b"x", record("size", value)) + tar_of(FILES))


@pytest.mark.parametrize("size", [b"12x45678901\0", b"-0000000001\0", b"9999\0       "])
def test_bad_sizes_are_refused(size: bytes) -> None:
    assert "not a number" in refusal(entry("a.npy", b"0", b"", size) + tar_of(FILES))


@pytest.mark.parametrize("content", [b"5 a=1\n", b"99 a=1\n", b"6 a=1", b"x", b" a=1\n", b"0 a=1\n", b"2 \n3 \n"])
def test_bad_pax_records_are_refused(content: bytes) -> None:
    refusal(entry("x", b"x", content) + tar_of(FILES))


def test_sparse_files_are_refused() -> None:
    assert "sparse" in refusal(entry("x", b"x", record("GNU.sparse.major", "1")) + tar_of(FILES))


def test_long_headers_are_limited_in_size_and_read_in_linear_time() -> None:
    assert "header of" in refusal(entry("x", b"L", b"n" * (2 << 20)) + tar_of(FILES))
    assert "longer than" in refusal(entry("x", b"L", b"n" * 5000) + tar_of(FILES))
    # Quadratic reading of these 170000 records would take minutes.
    assert read(entry("x", b"x", b"6 a=1\n" * 170_000) + tar_of(FILES)) == FILES


def test_a_flipped_bit_in_a_header_is_refused() -> None:
    data = bytearray(tar_of(FILES))
    for position in (0, 100, 130, 150, 156, 300, 511):
        data[position] ^= 1
        assert "no tar header at byte 0" in refusal(bytes(data))
        data[position] ^= 1


def test_a_tar_cut_anywhere_is_refused() -> None:
    data = tar_of(FILES)
    # The second block of the end mark is the one thing that can go.
    for length in range(0, len(data) - 512, 64):
        with pytest.raises(CorruptDataError, match="cut off" if length else "an empty file"):
            read(data[:length])
    assert read(data[:-512]) == FILES


def test_a_tar_that_continues_after_its_end_mark_is_refused() -> None:
    assert "continues" in refusal(tar_of(FILES) + tar_of(FILES))
    assert read(tar_of(FILES) + bytes(10_000)) == FILES


def test_a_long_header_without_its_file_is_refused() -> None:
    assert "cut off after the long header" in refusal(entry("x", b"L", b"name.json\0") + bytes(1024))


def test_a_run_of_members_needs_no_end_mark() -> None:
    data = tar_of(FILES)
    first, last = list(tar.members(data, "s.tar"))[1:3]
    run = data[first.start : last.end]
    assert read(run, whole=False) == FILES[1:3]
    for length in range(len(run)):
        if length not in (0, first.end - first.start):
            with pytest.raises(CorruptDataError, match="cut off"):
                read(run[:length], whole=False)


def test_a_sample_of_very_many_members_is_refused() -> None:
    files = [(f"a.{number}", b"") for number in range(1001)]
    assert len(next(tar.samples(tar_of(files[:1000]), "s.tar"))) == 1000
    with pytest.raises(CorruptDataError, match="sample a has more than 1000 members"):
        list(tar.samples(tar_of(files), "s.tar"))


def test_any_number_of_headers_ahead_of_a_file_is_read_in_linear_time() -> None:
    ahead = entry("x", b"L", b"n.json\0") + entry("y", b"x", record("comment", "z"))
    assert read(ahead * 20_000 + entry("m.json") + tar_of(FILES)) == [("n.json", b""), *FILES]


def test_samples_are_runs_of_one_key() -> None:
    groups = list(tar.samples(tar_of(FILES), "s.tar", whole=True))
    assert [(group[0].key, [item.suffix for item in group]) for group in groups] == [
        ("a", ["json", "text.npy"]),
        ("b", ["json"]),
        ("dir/c", ["v1.json", "v1.npy"]),
    ]
    starts = [group[0].start for group in groups]
    assert starts[1:] == [group[-1].end for group in groups[:-1]]


def test_a_sample_starts_with_its_first_long_header() -> None:
    files = [("k" * 200 + ".json", b"1"), ("l" * 200 + ".json", b"2")]
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        data = theirs(files, kind)
        for group, file in zip(tar.samples(data, "s.tar"), files, strict=True):
            assert read(data[group[0].start : group[-1].end], whole=False) == [file]


def test_what_webdataset_passes_over_is_in_no_sample(tmp_path: Path) -> None:
    extra = [("README", b"x"), (".hidden.json", b"x"), ("._a.json", b"x"), ("__meta__", b"x")]
    path = tmp_path / "s.tar"
    path.write_bytes(theirs([*extra[:2], *FILES[:2], *extra[2:], *FILES[2:]]))
    keys = [group[0].key for group in tar.samples(path.read_bytes(), "s.tar")]
    assert keys == ["a", "b", "dir/c"]
    assert [item["__key__"] for item in webdataset.WebDataset(str(path), shardshuffle=False)] == keys


def test_webdataset_reads_written_tars_with_the_same_samples_in_order(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar_of(FILES))
    found = list(webdataset.WebDataset(str(path), shardshuffle=False))
    groups = list(tar.samples(path.read_bytes(), "s.tar"))
    assert len(found) == len(groups) == 3
    for sample, group in zip(found, groups, strict=True):
        parts = {item.suffix: dict(FILES)[item.name] for item in group}
        assert {key: value for key, value in sample.items() if not key.startswith("__")} == parts
        assert sample["__key__"] == group[0].key


def test_webdataset_writes_what_we_read(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(5):
            writer.write({"__key__": f"k{number}", "json": {"n": number}, "text.npy": array + number})
    groups = list(tar.samples(path.read_bytes(), "s.tar", whole=True))
    assert [group[0].key for group in groups] == [f"k{number}" for number in range(5)]
    assert all([item.suffix for item in group] == ["json", "text.npy"] for group in groups)


@given(st.text("abcXYZ019_-./ ", min_size=1, max_size=140), st.integers(0, 8**11 + 8**10))
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    try:
        expected = info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    except ValueError:
        with pytest.raises(DataError):
            tar._written_header(name, size)
    else:
        assert tar._written_header(name, size) == expected


@pytest.mark.parametrize("name", ["x" * 101, "\u00e9.json", "d/" * 200 + "x"])
def test_a_name_that_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="cannot be named"):
        tar_of([(name, b"")])


NAMES = st.text("abcXYZ019_-", min_size=1, max_size=20)


@given(st.lists(st.tuples(NAMES.map(lambda name: f"{name}.npy"), st.binary(max_size=1500)), max_size=6))
def test_any_files_come_back(files: Files) -> None:
    assert read(tar_of(files)) == files
    for kind in FORMATS:
        assert read(theirs(files, kind)) == files


VALID = [tar_of(FILES), *(theirs([*FILES, ("k" * 90 + "/" + "l" * 90 + ".json", b"1")], kind) for kind in FORMATS)]


@settings(max_examples=400)
@given(
    st.sampled_from(VALID), st.lists(st.tuples(st.integers(0, 8191), st.integers(0, 255)), max_size=4), st.booleans()
)
def test_mutated_tars_are_read_or_refused(data: bytes, changes: list[tuple[int, int]], mend: bool) -> None:
    mutated = bytearray(data)
    for position, value in changes:
        mutated[position % len(mutated)] = value
    if mend:
        # With checksums made right again, so that the mutation is seen by what reads the fields.
        for start in range(0, len(mutated), 512):
            if mutated[start + 257 : start + 262] == b"ustar":
                block = mutated[start : start + 512]
                mutated[start + 148 : start + 156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    check_harmless(bytes(mutated))


@given(st.binary(max_size=3000))
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    check_harmless(data)


@given(st.sampled_from(VALID), st.integers(1, 3000))
def test_a_stream_gives_what_memory_gives(data: bytes, chunk: int) -> None:
    stream = tar.Stream(lambda start, end: data[start:end], len(data), "s.tar", chunk)
    found = []
    for item in tar.members(stream, "s.tar", whole=True):
        found.append((item.name, bytes(stream.take(item.payload, item.payload + item.size))))
        stream.release(item.end)
    assert found == read(data)
    assert stream.sha256() == hashlib.sha256(data).hexdigest()


def test_a_stream_is_read_once_and_holds_little() -> None:
    data = tar_of([(f"{number}.json", bytes(1000)) for number in range(5000)])
    ranges: list[tuple[int, int]] = []

    def from_file(start: int, end: int) -> bytes:
        ranges.append((start, end))
        return data[start:end]

    stream = tar.Stream(from_file, len(data), "s.tar", chunk=10_000, most=20_000)
    tracemalloc.start()
    for item in tar.members(stream, "s.tar", whole=True):
        stream.release(item.end)
    stream.sha256()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000 < len(data)
    assert [start for start, _ in ranges] == [0, *(end for _, end in ranges[:-1])] and ranges[-1][1] == len(data)


@pytest.mark.parametrize(
    "files",
    [
        [("a.json", b"1"), ("README", bytes(30_000)), ("b.json", b"2")],
        [("a.json", bytes(30_000)), ("b.json", b"2")],
        [("a.json", b"1")] + [("a.json", b"")] * 60,
    ],
    ids=["between", "one member", "many members"],
)
def test_a_stream_does_not_hold_more_than_it_may(files: Files) -> None:
    data = tar_of(files)
    stream = tar.Stream(lambda start, end: data[start:end], len(data), "s.tar", chunk=1000, most=20_000)
    with pytest.raises(CorruptDataError, match="takes more than 20000 bytes from byte 0 on"):
        for group in tar.samples(stream, "s.tar", whole=True):
            stream.take(group[0].start, group[-1].end)


def check_harmless(data: bytes) -> None:
    tracemalloc.start()
    try:
        for member in tar.members(data, "s.tar"):
            assert 0 <= member.start < member.payload <= member.end <= len(data)
            assert ".." not in member.name.split("/")
    except CorruptDataError as error:
        assert "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1 << 20
