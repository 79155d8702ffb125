"""The section `data` of a config: packed data sets, the corpora of a pool and their mix, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ivr_dist.config.declaration import Modality, key, section


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """One corpus of a pool: its splits, how often it is seen, and what the model reads and predicts of it."""

    dir: str = key("", "Directory or fsspec URL with the splits train, valid and test, as far as they are there.")
    train: str | None = key(None, "Packed training split; unset: that of dir; empty: held out, scored only.")
    valid: str | None = key(None, "Packed validation split; unset: that of dir; empty: none.")
    test: str | None = key(None, "Packed test split, scored once at the end; unset: that of dir; empty: none.")
    share: float | None = key(None, "Share of the slots, in any unit; for all trained corpora or none.", above=0)
    passes: float | None = key(None, "Passes over it in an epoch; for all trained corpora or none.", above=0)
    max_passes: float | None = key(
        None, "Most passes over it in the whole run; what it leaves over goes to the other corpora.", above=0
    )
    loss_weight: float = key(1.0, "Factor of the losses of its tasks.", at_least=0)
    heads: dict[str, str] = key({}, "Head of the model by task; unset: tasks of one name and form share a head.")
    sets: dict[str, str] = key({}, "Name of the feature set by modality, in place of the card's; empty: not read.")
    class_weights: dict[str, str | list[float]] = key(
        {}, "By classification task: a weight for each class, or balanced (inverse to their frequency in train)."
    )
    sample_weight: str = key("", "Label that weighs each sample's task losses; it is no task then; empty: none.")


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """How the corpora of a pool are mixed."""

    alpha: float | None = key(
        None,
        "Shares are samples ** alpha: 1: every sample equally often; 0: every corpus equally often; unset: 1.",
        at_least=0,
        at_most=1,
    )
    epoch_samples: int | None = key(
        None, "Slots of an epoch; unset: the samples of all training splits together.", at_least=1
    )
    schedule: list[dict[str, Any]] = key(
        [], "Phases with a mix of their own, each {until: 2epochs, alpha: 0.5} or with shares {NAME: 0.3} by corpus."
    )
    changes: Literal["refuse", "allow"] = key(
        "refuse", "Whether a run may be continued with another mix, which begins a phase."
    )
    scale: Literal["corpus", "set"] = key(
        "corpus", "Statistics that standardize features: those of the corpus, or of all corpora with the feature set."
    )
    overlap: Literal["refuse", "drop", "allow"] = key(
        "refuse", "Samples of train whose id, group or text is scored in a split: refuse, leave out, or train on them."
    )
    uses_from: bool = key(
        False, "Whether a run with train.init_from goes on with the passes of the corpora that its checkpoint knows."
    )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Packed data sets and the order they are read in."""

    corpora: dict[str, CorpusConfig | None] = key(
        {}, "Corpora of a pool by name, in place of train, valid and test; null leaves one out."
    )
    mix: MixConfig = section(MixConfig, "Shares of the corpora.")
    train: str = key("", "Directory or fsspec URL of the packed training split.")
    valid: str = key("", "Packed validation split; empty: no validation, no early stopping, no best checkpoint.")
    test: str = key("", "Packed test split, scored once at the end; empty: not scored.")
    modalities: list[Modality] = key(["text", "audio", "vision"], "Modalities used, of those the data set has.")
    context: int = key(
        0, "Utterances before a sample (its context) that a pretrained text encoder reads with its text.", at_least=0
    )
    exclude: str = key(
        "", "File of sample ids that are left out everywhere, one on each line (withdrawn consent); empty: none."
    )
    standardize: list[Modality] = key(["audio", "vision"], "Modalities scaled to mean 0, deviation 1 of train.")
    lanes: int | None = key(
        None, "Parallel reading lanes of the order; unset: largest divisor of the batch up to 64.", at_least=1
    )
    shuffle_delay: int | None = key(
        None,
        "How far a sample may move within its lane, in samples; 0 keeps packing order; unset: 1000 or what fits.",
        at_least=0,
        at_most=2**40,
    )
    by_length: bool = key(False, "Order the slots of each global batch by length: less padding with several workers.")
    prefetch: int = key(4, "Steps prefetched ahead of the training loop.", at_least=1)
    cache_bytes: str = key("1GiB", "In-memory cache of shard segments (LRU), for each worker.")
    disk_cache: str = key("", "Local directory that caches what was read from remote storage; empty: none.")
    disk_cache_bytes: str = key("50GiB", "Size limit of disk_cache, shared by all processes of a machine.")
    reader: Literal["ranges", "webdataset"] = key(
        "ranges",
        "ranges: byte-range requests; webdataset: whole shards as streams, for storage without range requests.",
    )
    pipe: str = key(
        "", "Shell command that writes the shard {} to stdout, for reader webdataset; empty: the file is opened."
    )
    deadline_s: float = key(
        600.0, "Seconds of retries, with backoff, after which a range that cannot be read is an error.", above=0
    )
    verify: bool = key(True, "Compare every byte range read with its checksum.")
    on_error: Literal["raise", "skip"] = key(
        "raise", "A sample that cannot be read: raise: ends the run; skip: gets weight 0."
    )
    max_skipped: int = key(100, "Most samples skipped in an epoch, over all workers, before the run ends.", at_least=0)
