"""What `reader.py` lets race: readers of one corpus, each in the format that it reads, as batches of torch tensors."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import xxhash
from slow_server import serve

from ivr_dist import storage
from ivr_dist.corpora.source import SampleRef, SourceSample
from ivr_dist.packing.pack import PackOptions, pack
from ivr_dist.packing.shard_writer import shuffled
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.specs import FeatureSpec, TaskSpec

BATCH = 64
SHARDS = 64
STEPS = 50
VOCABULARY = 30_000
WIDTHS = {"audio": 74, "vision": 35}
NAMES = ("text", "audio", "vision")
_BUFFER = 1000

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Place:
    """Where the corpus is."""

    folder: Path
    samples: int
    url: str | None = None
    """Of the folder through a server."""

    def split(self) -> str:
        """The packed split."""
        return f"{self.url or self.folder}/packed/train"

    def tars(self, folder: str) -> list[str]:
        """The tars in a folder of it."""
        return [
            f"{self.url or self.folder}/{folder}/{path.name}" for path in sorted((self.folder / folder).glob("*.tar"))
        ]


class MoseiShaped:
    """Random samples; each depends on its number alone."""

    corpus = "mosei_shaped"
    features: ClassVar = {
        "text": FeatureSpec(set="ids", dim=1, dtype="int32", kind="tokens"),
        **{name: FeatureSpec(set=name, dim=dim, dtype="float32", kind="features") for name, dim in WIDTHS.items()},
    }
    tasks: ClassVar = {"sentiment": TaskSpec(type="regression", low=-3, high=3, scale="mosi")}

    def __init__(self, samples: int) -> None:
        self._samples = samples

    def splits(self) -> dict[str, Sequence[SampleRef]]:
        """One split."""
        return {"train": [SampleRef(number, f"v{number // 10}_{number}") for number in range(self._samples)]}

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        """Draw a sample."""
        label = float(np.random.default_rng(ref.number).uniform(-3, 3))
        return SourceSample(
            ref.id, split, None, {"sentiment": label}, "and so it was a good film", {}, arrays(ref.number)
        )


def arrays(number: int) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of one sample."""
    random = np.random.default_rng(number)
    found: dict[str, np.ndarray[Any, Any]] = {"text": random.integers(0, VOCABULARY, STEPS, np.int32)}
    return found | {name: random.standard_normal((STEPS, width), np.float32) for name, width in WIDTHS.items()}


def make_corpus(folder: Path, samples: int, readers: Sequence[str]) -> Place:
    """Write the corpus in every format that is needed."""
    pack(MoseiShaped(samples), str(folder / "packed"), PackOptions(shard_samples=-(-samples // SHARDS)))
    if any(name.startswith("webdataset") for name in readers):
        _write_webdataset(folder / "webdataset", samples)
    if "streaming" in readers:
        _write_mds(folder / "mds", samples)
    if "litdata" in readers:
        _write_litdata(folder / "litdata", samples)
    return Place(folder, samples)


def installed(name: str) -> bool:
    """Whether a reader can take part."""
    return name not in ("streaming", "litdata") or importlib.util.find_spec(name) is not None


def import_for(name: str, place: Place) -> None:
    """Import what a reader is made of, and what it reaches the place by: it takes long and tells nothing of reading."""
    libraries = ("webdataset", "streaming", "litdata", "ivr_dist.data.loader")
    clients = {"http": ("aiohttp", "fsspec.implementations.http"), "s3": ("s3fs",)}
    reaching = () if place.url is None else clients[place.url.partition(":")[0]]
    for library in (*(library for library in libraries if library.startswith(name.partition(",")[0])), *reaching):
        importlib.import_module(library)


@contextmanager
def server(place: Place, through: str) -> Iterator[Place]:
    """The place as readers see it."""
    if through == "slow":
        with serve(place.folder, latency_s=0.025, bytes_per_s=80e6) as url:
            yield replace(place, url=url)
    elif through == "slow-s3":
        with serve(place.folder.parent, latency_s=0.025, bytes_per_s=80e6) as endpoint:
            os.environ.update(AWS_ENDPOINT_URL=endpoint, AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret")
            yield replace(place, url=f"s3://{place.folder.name}")
    elif through == "s3":
        with _s3_server(place) as url:
            yield replace(place, url=url)
    else:
        yield place


@contextmanager
def _s3_server(place: Place) -> Iterator[str]:
    """SeaweedFS with the corpus in it, as in the tests; readers find it by the environment."""
    sys.path.append(str(Path(__file__).parent.parent))
    from tests import s3_server

    with tempfile.TemporaryDirectory(prefix="ivr-s3-") as folder, s3_server.serve(Path(folder)) as environment:
        os.environ.update(environment)
        url = f"s3://{s3_server.BUCKET}/reader"
        for path in (path for path in place.folder.rglob("*") if path.is_file()):
            storage.upload(str(path), f"{url}/{path.relative_to(place.folder)}")
        yield url


def ivr_dist_reader(place: Place, verify: bool = True) -> Iterator[Batch]:
    """Ours: as a run reads its training split."""
    from ivr_dist.data.batches.collate import BatchSpec
    from ivr_dist.data.loader import Loader
    from ivr_dist.data.reading.fetcher import Fetcher, FetchPolicy
    from ivr_dist.data.reading.shard_reader import ShardReader
    from ivr_dist.runtime import device
    from ivr_dist.runtime.garbage_collection import collected_by_step

    device.tune_memory()
    manifest = Manifest.load(place.split())
    spec = BatchSpec.from_manifest(manifest, NAMES, standardize=())
    reader = ShardReader(place.split(), manifest, 1 << 30, Fetcher(FetchPolicy(verify=verify)))
    loader = Loader(reader, spec, global_batch=BATCH, lanes=64, delay=250, seed=0)
    with loader, collected_by_step() as collect:
        for number, step in enumerate(loader.steps(loader.start), 1):
            if step.epoch:
                return
            collect(number)
            (batch,) = step.micro_batches
            yield {name: part.features for name, part in batch.modalities.items()} | {"keys": batch.keys}  # type: ignore[dict-item]


def webdataset_reader(place: Place, workers: int = 0, packed: bool = False) -> Iterator[Batch]:
    """webdataset, shuffled through its buffer; from tars that its own writer wrote, or from ours."""
    import webdataset

    if place.url is not None:
        _teach_webdataset_ranges(place.url.partition(":")[0])
    split = webdataset.shardlists.split_by_worker
    tars = place.tars("packed/train" if packed else "webdataset")
    data = webdataset.WebDataset(tars, shardshuffle=SHARDS, workersplitter=split, empty_check=False)
    data = data.shuffle(_BUFFER).decode().to_tuple("__key__", "text.npy", "audio.npy", "vision.npy", "json")
    data = data.batched(BATCH, collation_fn=_stack)
    if workers:
        data = webdataset.WebLoader(data, batch_size=None, num_workers=workers)
    yield from data


def _stack(samples: Sequence[tuple[Any, ...]]) -> Batch:
    keys, *columns, _ = zip(*samples, strict=True)
    stacked = {name: torch.from_numpy(np.stack(column)) for name, column in zip(NAMES, columns, strict=True)}
    return stacked | {"keys": keys}  # type: ignore[dict-item]


def _teach_webdataset_ranges(scheme: str) -> None:
    """Have it read through a file of fsspec: by itself webdataset starts a curl process for each shard, if any."""
    import fsspec

    # By its name: the package has a function that is called like the module.
    schemes = importlib.import_module("webdataset.gopen").gopen_schemes
    schemes[scheme] = lambda url, mode="rb", bufsize=8192, **_: fsspec.open(url, mode).open()


def streaming_reader(place: Place) -> Iterator[Batch]:
    """mosaicml-streaming, in its own format."""
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    data = StreamingDataset(local=str(place.folder / "mds"), shuffle=True, batch_size=BATCH, num_canonical_nodes=64)
    yield from DataLoader(data, batch_size=BATCH)


def litdata_reader(place: Place) -> Iterator[Batch]:
    """litdata, in its own format."""
    from litdata import StreamingDataLoader, StreamingDataset

    data = StreamingDataset(str(place.folder / "litdata"), shuffle=True)
    yield from StreamingDataLoader(data, batch_size=BATCH)


def _write_webdataset(folder: Path, samples: int) -> None:
    """With its own writer, in the order in which the samples are packed."""
    import webdataset

    folder.mkdir()
    refs = shuffled(MoseiShaped(samples).splits()["train"], 0)
    with webdataset.ShardWriter(f"{folder}/%06d.tar", maxcount=-(-samples // SHARDS), verbose=0) as out:
        for ref in refs:
            label = MoseiShaped(samples).load("train", ref).labels["sentiment"]
            members = {f"{name}.npy": array for name, array in arrays(ref.number).items()}
            out.write({"__key__": ref.id, "json": {"id": ref.id, "labels": {"sentiment": label}}, **members})


def _write_mds(folder: Path, samples: int) -> None:
    from streaming import MDSWriter

    columns = {"text": "ndarray:int32:50", "audio": "ndarray:float32:50,74", "vision": "ndarray:float32:50,35"}
    with MDSWriter(out=str(folder), columns=columns, size_limit=samples // SHARDS * 22_500) as out:
        for number in range(samples):
            out.write(arrays(number))


def _write_litdata(folder: Path, samples: int) -> None:
    from litdata import optimize

    # Arrays, not tensors: of those it decodes many for each one that a shuffled reader asks for.
    optimize(fn=arrays, inputs=list(range(samples)), output_dir=str(folder), chunk_bytes="6MB", num_workers=1)


READERS: dict[str, Callable[[Place], Iterator[Batch]]] = {
    "cat": lambda place: iter(()),
    "webdataset": webdataset_reader,
    "webdataset, 2 workers": lambda place: webdataset_reader(place, workers=2),
    "webdataset, our tars": lambda place: webdataset_reader(place, packed=True),
    "streaming": streaming_reader,
    "litdata": litdata_reader,
    "ivr_dist": ivr_dist_reader,
    "ivr_dist, no check": lambda place: ivr_dist_reader(place, verify=False),
}


def digests(name: str, place: Place) -> dict[str, str]:
    """By key: a checksum of all tensors of a sample."""
    found = {}
    for batch in READERS[name](place):
        columns = [batch["text"].to(torch.int64).numpy(), batch["audio"].numpy(), batch["vision"].numpy()]
        for key, *parts in zip(batch["keys"], *columns, strict=True):
            found[str(key)] = xxhash.xxh3_128_hexdigest(b"".join(part.tobytes() for part in parts))
    return found
