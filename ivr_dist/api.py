"""The public API: packed splits, training, runs, trained models, predictions.

Every name here is also a name of `ivr_dist`, which imports this module when the first of them is used:

    import ivr_dist as ivr
    split = ivr.open_split("data/mosi/train")

Importing is cheap: torch is imported with the first model or batch, DeepSpeed by `train` alone, and Ray only for
training on workers (`run.num_workers` above 0). Nothing is printed unless requested.
Every failure raises an `IvrError` with problem, location and remedy; `errors` lists its subclasses.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO, cast

from ivr_dist.config import Config, loading
from ivr_dist.display.console import LocalConsole
from ivr_dist.errors import ConfigError, UserError
from ivr_dist.inspection.packed_split import PackedSplit, Sample
from ivr_dist.inspection.run_view import Run
from ivr_dist.run.events import Console, Event
from ivr_dist.run.results import Result
from ivr_dist.sanitize import shorten

if TYPE_CHECKING:
    import torch

    from ivr_dist.evaluation.split_predictions import Target
    from ivr_dist.inference.load import Model
    from ivr_dist.inference.predict import PredictionTable

StrPath = str | os.PathLike[str]
"""A local path, or a URL such as `s3://bucket/mosi/train`."""
Overrides = Sequence[str] | Mapping[str, Any]
"""Config keys and their values: `["train.lr=3e-4"]` as on the command line, or `{"train.lr": 3e-4}`."""

_INTERRUPTED = 130


def open_split(path: StrPath) -> PackedSplit:
    """Open a packed split: samples by index, labels, profile, batches in training order.

    >>> split = ivr.open_split("data/synth/train")
    >>> len(split)
    56
    >>> split[0].audio.shape[1]
    12
    >>> split.labels["sentiment"].shape
    (56,)
    >>> batch = next(split.batches(global_batch=8, seed=0, epoch=0))
    >>> len(batch)
    8

    Args:
        path: The split's directory or URL, such as `data/mosi/train`.

    Raises:
        DataError: There is no packed split.
    """
    return PackedSplit(_location(path))


def load_config(path: StrPath | None, overrides: Overrides = ()) -> Config:
    """Read a config file, apply overrides, and check the result.

    >>> config = ivr.load_config("configs/synth.yaml", ["train.lr=3e-4"])
    >>> config.train.lr
    0.0003
    >>> config == ivr.load_config("configs/synth.yaml", {"train.lr": 3e-4})
    True

    Args:
        path: A YAML file; None starts from the defaults.
        overrides: `section.key=value` as on the command line, or a mapping of keys to values.

    Raises:
        ConfigError: The file cannot be read, or the config is wrong; the error names file, line, key and remedy.
    """
    return loading.load_config(None if path is None else _location(path), _as_texts(overrides))


def train(
    config: Config | StrPath,
    overrides: Overrides = (),
    *,
    progress: bool = False,
    console: Console | None = None,
    debug: bool = False,
) -> Result:
    """Train and evaluate a run, or continue it; a run that is complete returns its result at once.

    With `run.num_workers=0` training runs in this process; otherwise on Ray, on the cluster that `RAY_ADDRESS` names or
    on one that is started on this machine for the run. In the main thread, Ctrl-C (and SIGTERM, SIGHUP) ends training
    after a checkpoint, and the same call continues it; a second one ends it at once.

    >>> result = ivr.train("configs/synth.yaml", ["run.dir=runs/synth"])
    >>> result.status, result.steps
    ('finished', 4)
    >>> sorted(result.metrics)
    ['test', 'valid']
    >>> [step for step, loss in result.loss_curve]
    [1, 2, 3, 4]

    Args:
        config: A config, or a YAML file.
        overrides: `section.key=value` or a mapping of keys to values, set over it.
        progress: Print the progress to stdout, as the command does.
        console: Receives the events of the run; its `stop_requested` may end the run after a checkpoint.
        debug: Print what Ray and the workers print.

    Raises:
        UserError: The config, the data or the content of the run directory cannot work, or another thread of this
            process is training with `run.num_workers=0`; nothing was started.
        IvrError: The run failed.
        KeyboardInterrupt: Ctrl-C has ended it.
        SystemExit: SIGTERM or SIGHUP has ended it.
    """
    from ivr_dist.orchestration import driver
    from ivr_dist.orchestration.preflight import further_faults

    texts = _as_texts(overrides)
    if isinstance(config, Config):
        loaded = loading.with_overrides(config, texts, further_faults)
    else:
        loaded = loading.load(_location(config), texts, further_faults)
    outcome = driver.train(loaded.config, _Relay(console, progress), loaded=loaded, debug=debug)
    if outcome.exit_code == _INTERRUPTED:
        raise KeyboardInterrupt
    if outcome.exit_code:
        raise SystemExit(outcome.exit_code)
    return outcome.result or driver.stopped_result(outcome.run_url)


def open_run(path: StrPath) -> Run:
    """Open a run directory: status, history, checkpoints, result, audit.

    >>> run = ivr.open_run("runs/synth")
    >>> run.status().state
    'finished'
    >>> [checkpoint.step for checkpoint in run.checkpoints()]
    [4]
    >>> run.audit().ok
    True

    Args:
        path: The run's directory or URL (`run.dir`).

    Raises:
        UserError: No run has started there.
        CorruptDataError: A record of the run is damaged.
    """
    return Run(_location(path))


def load(path: StrPath, *, device: str | torch.device | None = None, trust_code: bool = False) -> Model:
    """Load a trained model from a run or a checkpoint. Needs neither Ray nor DeepSpeed.

    For a run, the checkpoint named in its result is loaded: the best one by validation, if there is validation; without
    a result, the newest complete one. Every byte is compared with its checksum first.

    >>> model = ivr.load("runs/synth")
    >>> model.modalities
    ('text', 'audio', 'vision')
    >>> list(model.tasks)
    ['sentiment']

    Args:
        path: Directory or URL of a run or a checkpoint.
        device: Device of the model, such as `cpu` or `cuda:1`; None: the GPU if there is one.
        trust_code: Whether classes outside the package that the checkpoint names may be imported, which runs their
            code: a model of your own, and metrics of your own, which are left out without it.

    Raises:
        UserError: There is no model, or no such device; it is an export, which this version cannot load; or it is a
            class outside the package that is not trusted or cannot be imported.
        CheckpointError: The checkpoint is not complete, or damaged.
    """
    from ivr_dist.inference import load as inference

    return inference.load(_location(path), device=device, trust_code=trust_code)


def predict(
    model: Model | StrPath,
    data: PackedSplit | StrPath | Iterable[Sample | Mapping[str, Any]],
    *,
    corpus: str = "",
    head: str = "",
    statistics: StrPath = "",
) -> PredictionTable:
    """Predict every sample of a packed split, or of arrays in memory. Needs neither Ray nor DeepSpeed.

    >>> table = ivr.predict(model, "data/synth/test")
    >>> len(table), table.predictions["sentiment"].shape
    (12, (12,))
    >>> list(table.to_dict())
    ['id', 'sentiment', 'sentiment_label']

    Samples in memory are mappings with an array for each modality that is there: [steps, width] features, unscaled (the
    model standardizes them itself), or [steps] token ids; `id` and `transcript` are optional. Other keys are refused.

    >>> import numpy as np
    >>> sample = {"id": "mine", "audio": np.zeros((7, 12)), "vision": np.ones((5, 8))}
    >>> ivr.predict(model, [sample]).keys
    ['mine']

    Args:
        model: A loaded model, or the path of one.
        data: A packed split or its path, or samples.
        corpus: Corpus of a model of several that the data is of; of a split the one that fits, if it is not given.
        head: Head of such a model that predicts a split of a corpus that it has not seen.
        statistics: Training split of that corpus, whose statistics standardize its features.

    Returns:
        `keys`, and by task `predictions`, `labels` (NaN where there is none) and, of a classification, `probabilities`;
        `to_dict()` and `to_pandas()` make columns.

    Raises:
        DataError: The data does not have the features that the model reads, or may be of several of its corpora.
        CorruptDataError, StorageError: The split cannot be read.
    """
    from ivr_dist.inference import predict as inference

    source = _location(data) if isinstance(data, os.PathLike) else data
    return inference.predict(_model(model), source, _target(corpus, head, statistics))


def evaluate(
    model: Model | StrPath,
    split: PackedSplit | StrPath,
    *,
    corpus: str = "",
    head: str = "",
    statistics: StrPath = "",
) -> dict[str, float | None]:
    """Score a model on a packed split, each sample once, as `ivr-dist evaluate`. Needs neither Ray nor DeepSpeed.

    >>> scores = ivr.evaluate(model, "data/synth/test")
    >>> 0 < scores["synth/mae"] < 6
    True

    Args:
        model: A loaded model, or the path of one.
        split: A packed split or its path.
        corpus: Corpus of a model of several that the split is of; the one that fits, if it is not given.
        head: Head of such a model that scores a corpus that it has not seen.
        statistics: Training split of that corpus, whose statistics standardize its features.

    Returns:
        By metric, such as `mosi/mae`; `corpus/task/metric` where the corpus has several tasks. None where a metric is
        not defined.

    Raises:
        DataError: There is no such split, it has other features or tasks than the model, or it may be of several of
            its corpora.
        CorruptDataError, StorageError: It cannot be read.
    """
    from ivr_dist.inference import predict as inference

    source = split if isinstance(split, PackedSplit) else _location(split)
    return inference.score_split(_model(model), source, _target(corpus, head, statistics))


def _target(corpus: str, head: str, statistics: StrPath) -> Target:
    from ivr_dist.evaluation.split_predictions import Target

    return Target(corpus, head, _location(statistics) if statistics else "")


def _location(path: StrPath) -> str:
    """Return a path or URL as a text."""
    text = os.fsdecode(path)
    if not text:
        raise UserError("the path is empty", remedy="give a path or URL; the current directory is .")
    return text


def _as_texts(overrides: Overrides) -> list[str]:
    """Return overrides as the command line has them."""
    if isinstance(overrides, str):
        raise ConfigError(
            f"overrides are a list, not the text {shorten(overrides, 80)!r}", remedy="write it in brackets: [...]"
        )
    if not isinstance(overrides, Mapping):
        texts = list(overrides)
        for each in texts:
            if not isinstance(each, str):
                raise ConfigError(f"the override {shorten(repr(each), 80)} is not a text", remedy="write key=value")
        return texts
    return [loading.override(key, value) for key, value in overrides.items()]


def _model(model: Model | StrPath) -> Model:
    return load(model) if isinstance(model, str | os.PathLike) else model


class _Relay(LocalConsole):
    """Passes the events of a run on to the caller's console, and prints them if requested."""

    def __init__(self, console: Console | None, progress: bool) -> None:
        super().__init__(None if progress else cast(TextIO, _Nowhere()))
        self._console = console

    def emit(self, event: Event) -> None:
        """Print the event, pass it on, and note a stop request."""
        super().emit(event)
        if self._console is not None:
            self._console.emit(event)
            self.stop_requested()

    def stop_requested(self) -> bool:
        """Whether a signal or the caller's console requested a stop."""
        if self._console is not None and self._console.stop_requested():
            self.stop.set()
        return self.stop.is_set()


class _Nowhere(io.TextIOBase):
    """A text stream that drops what is written."""

    def write(self, text: str) -> int:
        """Drop it."""
        return len(text)
