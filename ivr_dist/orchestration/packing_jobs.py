"""Packing and indexing jobs: on a process pool of this machine or as Ray tasks, with progress bars."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from ivr_dist.common.library_errors import describe
from ivr_dist.corpora import registry
from ivr_dist.corpora.card import Card
from ivr_dist.corpora.source import Opener
from ivr_dist.corpora.synthetic import DEFAULT_DIMS, SynthSource
from ivr_dist.display.progress import bars
from ivr_dist.errors import UserError, WorkerError
from ivr_dist.packing.index_tars import index_tars
from ivr_dist.packing.pack import PackOptions, PackSummary, pack
from ivr_dist.packing.worker_pool import OnJobProgress, OnProgress, ProcessPool, WorkerPool
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.specs import Scale

J = TypeVar("J")
R = TypeVar("R")


@dataclass(frozen=True)
class Where:
    """Where jobs run: on processes of this machine, or on a Ray cluster."""

    jobs: int | None = None
    """Number of processes; None: one for each CPU."""
    ray: bool = False
    """Whether to use the Ray cluster that `RAY_ADDRESS` names."""
    debug: bool = False
    """Let Ray print what its workers print."""

    @contextmanager
    def worker_pool(self) -> Iterator[WorkerPool]:
        """Open the worker pool.

        Raises:
            UserError: No cluster is named or reached, or the options contradict each other.
        """
        if not self.ray:
            yield ProcessPool(self.jobs or len(os.sched_getaffinity(0)))
            return
        if self.jobs is not None:
            raise UserError("--jobs is for this machine, and --ray for a cluster", remedy="give one of them")
        if not os.environ.get("RAY_ADDRESS"):
            remedy = "set RAY_ADDRESS, or leave --ray out to use this machine"
            raise UserError("--ray needs a cluster", remedy=remedy)
        from ivr_dist.orchestration.ray_cluster import connected

        with connected(1, self.debug):
            yield RayTasks()


def pack_card(
    root: str, card: Card, url: str, options: PackOptions, where: Where, *, trust_code: bool = False
) -> PackSummary:
    """Pack the files below `root` as `card` describes them; see `packing.pack.pack` and `registry.open_source`."""
    source = registry.open_source(root, card, trust_code=trust_code)
    opener = registry.opener(root, card, source)
    with where.worker_pool() as pool, bars() as progress:
        return pack(source, url, options, progress, opener=opener, pool=pool)


@dataclass(frozen=True)
class SynthCorpus:
    """A synthetic corpus; see `corpora.synthetic.SynthSource` for the fields."""

    samples: int
    seed: int = 0
    text: str = "features"
    dims: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_DIMS))
    name: str = "synth"
    task: str = "sentiment"

    def source(self) -> SynthSource:
        """Make it.

        Raises:
            ConfigError: A field is out of range.
        """
        kind: Any = SynthSource
        source: SynthSource = kind(
            self.samples, self.seed, text=self.text, dims=self.dims, name=self.name, task=self.task
        )
        return source


def pack_synth(corpus: SynthCorpus, url: str, options: PackOptions, where: Where) -> PackSummary:
    """Make and pack a synthetic corpus; see `corpora.synthetic` and `packing.pack.pack`."""
    opener = Opener(corpus.source, f"synth {corpus}")
    with where.worker_pool() as pool, bars() as progress:
        return pack(opener(), url, options, progress, opener=opener, pool=pool)


def index_splits(urls: Sequence[str], corpus: str, scale: Scale, where: Where) -> tuple[dict[str, Manifest], list[str]]:
    """Index the tars of splits, each named by the last part of its URL; see `packing.index_tars`.

    Returns:
        The manifests by URL, and notes for the user, a sentence each.
    """
    manifests, notes = {}, list[str]()
    with where.worker_pool() as pool, bars() as progress:
        for url in urls:
            split = url.rstrip("/").rpartition("/")[2]
            report = partial(progress, split)
            manifests[url] = index_tars(
                url, corpus=corpus, split=split, scale=scale, on_progress=report, pool=pool, on_note=notes.append
            )
    return manifests, notes


class RayTasks:
    """A `WorkerPool` of tasks on the Ray cluster that this process is connected to, one for each CPU.

    Ray repeats the tasks of a node that is lost. Progress is reported when a job ends.
    """

    start_s = 0.0

    def run(
        self,
        function: Callable[[J, OnProgress], R],
        jobs: Sequence[J],
        on_job_progress: OnJobProgress,
        on_result: Callable[[int, R], None],
    ) -> None:
        """See `WorkerPool`."""
        import ray

        call = ray.remote(_call)
        shared = ray.put(function)
        pending = enumerate(jobs)
        numbers: dict[Any, int] = {}
        # For each CPU one task runs and one is queued.
        limit = 2 * int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
        while True:
            numbers |= {call.remote(shared, job): number for number, job in islice(pending, limit - len(numbers))}
            if not numbers:
                return
            (done, *_), _ = ray.wait(list(numbers))
            on_result(numbers.pop(done), _result(done))


def _call(function: Callable[[Any, OnProgress], Any], job: Any) -> Any:
    return function(job, lambda done: None)


def _result(task: Any) -> Any:
    import ray

    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        # The exception of the job, instead of an error whose message is the remote traceback.
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise WorkerError(
            f"a Ray task failed after its retries: {describe(error)}",
            remedy="the same command continues from here",
        ) from error
