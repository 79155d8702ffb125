"""Prediction with a loaded model, for a packed split or for arrays in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from ivr_dist.common.modalities import MODALITIES
from ivr_dist.data.batches.batch import Batch
from ivr_dist.data.batches.collate import BatchSpec, collate
from ivr_dist.data.batches.pool_collate import collate_pool
from ivr_dist.data.batches.pool_spec import PoolSpec
from ivr_dist.data.batches.pooled_rows import PooledRows
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.errors import DataError
from ivr_dist.evaluation import evaluate
from ivr_dist.evaluation.ordered_classes import class_of, is_by_regression
from ivr_dist.evaluation.pool_scores import by_task
from ivr_dist.evaluation.scored_corpus import native
from ivr_dist.evaluation.split_predictions import SplitPredictions, Target
from ivr_dist.evaluation.split_predictions import predict_split as run_on_split
from ivr_dist.inference.load import Model
from ivr_dist.inspection.packed_split import PackedSplit, Sample
from ivr_dist.planning.pool_layout import WORDS
from ivr_dist.runtime import device
from ivr_dist.sanitize import shorten
from ivr_dist.shards.decode import RawSample, Transcript
from ivr_dist.shards.member_layout import Layout
from ivr_dist.shards.sample_columns import Samples
from ivr_dist.shards.specs import FeatureSpec, TaskSpec
from ivr_dist.units import parse_bytes

if TYPE_CHECKING:
    import pandas

Arrays = Mapping[str, Any]
"""One sample: an array for each modality, and optionally `id` and `transcript`."""

_BATCH = 64
_MAX_ID = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class PredictionTable:
    """Predictions, one row a sample, in the order of the input."""

    keys: list[str]
    """[N] sample ids."""
    predictions: Mapping[str, npt.NDArray[Any]]
    """By task: [N] values of a regression (float64), or [N] classes of a classification (int64)."""
    labels: Mapping[str, npt.NDArray[np.float64]]
    """By task: [N] labels, NaN where there is none."""
    probabilities: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    """By task of a classification: [N, C] probabilities of the classes."""

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"<predictions of {', '.join(self.predictions)} for {len(self)} samples>"

    def to_dict(self) -> dict[str, list[Any]]:
        """Convert to columns by name: `id`, and by task `TASK`, `TASK_label`, and `TASK_p0`... of a classification."""
        columns: dict[str, list[Any]] = {"id": list(self.keys)}
        for task, values in self.predictions.items():
            columns[task] = values.tolist()
            columns[f"{task}_label"] = self.labels[task].tolist()
            for number, column in enumerate(self.probabilities.get(task, np.zeros((0, 0))).T):
                columns[f"{task}_p{number}"] = column.tolist()
        return columns

    def to_pandas(self) -> pandas.DataFrame:
        """Convert to a DataFrame with the columns of `to_dict`.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas

        return pandas.DataFrame(self.to_dict())


def predict(
    model: Model, data: PackedSplit | str | Iterable[Sample | Arrays], target: Target | None = None
) -> PredictionTable:
    """Predict every sample once.

    Args:
        model: The model.
        data: A packed split or its path, or samples with the features that the model was trained on.
        target: The corpus that the data are of, for a model of several; a split is usually recognized.

    Raises:
        DataError: The data does not have the features of the model.
        CorruptDataError, StorageError: The split cannot be read.
    """
    target = target or Target()
    if isinstance(data, str | PackedSplit):
        predicted = predict_split(model, data, target)
        tasks = model.tasks if predicted.corpus is None else predicted.corpus.tasks
        return _table(predicted.predictions, tasks)
    if isinstance(data, Sample | Mapping) or not isinstance(data, Iterable):
        kind = "one sample" if isinstance(data, Sample | Mapping) else f"of type {type(data).__name__}"
        raise DataError(f"the data to predict is {kind}", remedy="give a list of samples, or a packed split")
    reader = _Reader.of(model, target)
    return _table(_predict_samples(model, reader, list(data)), reader.tasks)


def predict_split(model: Model, split: PackedSplit | str, target: Target | None = None) -> SplitPredictions:
    """Run a model over a packed split, each sample once.

    Raises:
        DataError: There is no such split, or it has other features or tasks than the model.
        CorruptDataError, StorageError: It cannot be read.
    """
    split = _opened(split)
    if isinstance(model.spec, BatchSpec):
        model.spec.check_split(split.manifest)
    # Not by the checkpoint's `data`, whose disk cache and commands belong to the machine that trained it.
    reader = ShardReader(split.url, split.manifest, parse_bytes(model.config.data.cache_bytes))
    with _deterministic(model):
        return run_on_split(
            model,
            model.spec,
            reader,
            global_batch=model.config.train.global_batch,
            device=model.device,
            target=target or Target(),
            standardized=tuple(model.config.data.standardize),
        )


def score_split(model: Model, split: PackedSplit | str, target: Target | None = None) -> evaluate.Metrics:
    """All metrics of a model on a packed split, equal to those of `ivr-dist evaluate`; errors as `predict_split`."""
    return predict_split(model, split, target).scores(dict(model.metrics))


@dataclass(frozen=True)
class _Reader:
    """What a model reads of samples in memory: of its only corpus, or of one of several."""

    inputs: Mapping[str, tuple[str, int]]
    """By modality: kind and width."""
    tasks: Mapping[str, TaskSpec]
    spec: BatchSpec | PoolSpec
    number: int = 0
    """Number of the corpus."""

    @classmethod
    def of(cls, model: Model, target: Target) -> _Reader:
        """Choose the corpus.

        Raises:
            DataError: The model was trained on several, and none or an unknown one is named; or on one, and one is.
        """
        spec = model.spec
        if isinstance(spec, BatchSpec):
            if target != Target():
                raise DataError("the model was trained on one corpus", remedy="name none")
            return cls(spec.modalities, spec.tasks, spec)
        if target.head or target.statistics:
            raise DataError("samples in memory have no feature sets", remedy="pack them to predict them by a head")
        if target.corpus not in model.corpora:
            what = f"knows no corpus {target.corpus}" if target.corpus else "was trained on several corpora"
            raise DataError(f"the model {what}", remedy=f"say which one the samples are of: {', '.join(model.corpora)}")
        spec = native(spec)
        number = spec.layout.number(target.corpus)
        corpus = spec.layout.corpora[number]
        inputs = {modality: spec.layout.sets[modality][own] for modality, own in corpus.sets.items()}
        return cls(inputs, corpus.tasks, spec, number)


def _opened(split: PackedSplit | str) -> PackedSplit:
    return split if isinstance(split, PackedSplit) else PackedSplit(split)


def _predict_samples(model: Model, reader: _Reader, samples: Sequence[Sample | Arrays]) -> evaluate.Predictions:
    if not samples:
        raise DataError("no samples to predict", remedy="give at least one")
    raw = [_raw_sample(reader, number, sample) for number, sample in enumerate(samples)]
    with _deterministic(model):
        predictions = evaluate.predict(model, _batches(reader, raw), len(raw), model.device)
    if isinstance(model.spec, BatchSpec):
        return predictions
    layout = model.spec.layout
    return by_task(predictions, layout.corpora[reader.number], layout)


def _batches(reader: _Reader, samples: Sequence[RawSample]) -> Iterator[Batch]:
    layout = Layout.of(
        {
            name: FeatureSpec(set="", dim=dim, dtype="float32", kind="features")
            if kind == "features"
            else FeatureSpec(set="", dim=1, dtype="int64", kind="tokens")
            for name, (kind, dim) in reader.inputs.items()
            if kind != WORDS
        }
    )
    for first in range(0, len(samples), _BATCH):
        part = samples[first : first + _BATCH]
        slots = np.arange(len(part))
        if isinstance(reader.spec, PoolSpec):
            rows = PooledRows.of_corpus(Samples.of(part, layout), reader.number)
            yield collate_pool(rows, slots, first + slots, reader.spec)
            continue
        steps = None
        if reader.spec.common_length:
            steps = max((len(array) for sample in part for array in sample.arrays.values()), default=1)
        yield collate(Samples.of(part, layout), slots, first + slots, reader.spec, steps)


def _raw_sample(reader: _Reader, number: int, sample: Sample | Arrays) -> RawSample:
    """Check one sample against what the model reads."""
    labels: Mapping[str, float | None] = {}
    if isinstance(sample, Sample):
        fields: Arrays = {**sample.arrays, "id": sample.id, "transcript": sample.transcript}
        labels = sample.labels
    elif isinstance(sample, Mapping):
        fields = sample
    else:
        raise DataError(
            f"sample {number} is of type {type(sample).__name__}", remedy='give a mapping such as {"audio": array}'
        )
    name = str(fields.get("id", number))
    # A misspelled modality would count as a missing one.
    unknown = [str(key) for key in fields if key not in (*MODALITIES, "id", "transcript")]
    if unknown:
        raise DataError(
            f"sample {name} has the unknown key {shorten(unknown[0], 80)}",
            remedy=f"give arrays as {', '.join(MODALITIES)}; besides, id and transcript are read",
        )
    arrays = {}
    for modality, (kind, dim) in reader.inputs.items():
        value = fields.get(modality)
        if kind == WORDS or value is None:
            continue
        arrays[modality] = _checked(value, kind, dim, f"{modality} of sample {name}")
    transcript = _checked_transcript(fields.get("transcript", ""), name)
    reads_words = any(kind == WORDS for kind, _ in reader.inputs.values())
    if not arrays and not (reads_words and transcript):
        needed = ", ".join("transcript" if kind == WORDS else name for name, (kind, _) in reader.inputs.items())
        raise DataError(
            f"sample {name} has nothing that the model reads", remedy=f"give at least one of: {needed}, by that key"
        )
    own_labels = {task: labels.get(task) for task in reader.tasks}
    return RawSample(name, name, own_labels, arrays, transcript=transcript)


def _checked_transcript(value: Any, name: str) -> Transcript:
    if value is None or isinstance(value, str):
        return value or ""
    words = tuple(value) if isinstance(value, Iterable) else (value,)
    if not isinstance(value, Iterable) or not all(isinstance(word, str) for word in words):
        what = f"transcript of sample {name} is of type {type(value).__name__}"
        raise DataError(what, remedy="give a text, or a list of words")
    return words


def _checked(value: Any, kind: str, dim: int, what: str) -> npt.NDArray[Any]:
    """The array as the model's batches hold it: float32 [T, D], or int64 [T] of token ids."""
    tokens = kind == "tokens"
    expected = "whole numbers [steps], from 0" if tokens else f"finite numbers [steps, {dim}]"
    array, actual = _array_of(value)
    if array is not None and tokens and array.ndim == 1 and array.dtype.kind in "iu":
        if len(array) == 0 or 0 <= array.min() <= array.max() <= _MAX_ID:
            return array.astype(np.int64)
        actual = f"{actual} from {array.min()} to {array.max()}"
    elif array is not None and not tokens and array.shape[1:] == (dim,) and array.dtype.kind in "fiu":
        with np.errstate(over="ignore"):
            single = array.astype(np.float32)
        if np.isfinite(single).all():
            return single
        actual = f"{actual} with values that are not finite in float32"
    raise DataError(
        f"{what} is {actual}, the model reads {expected}",
        remedy="give the features that the model was trained on; it standardizes them itself",
    )


def _array_of(value: Any) -> tuple[npt.NDArray[Any] | None, str]:
    """An array of any library as one of numpy, None if it is none; and its type and shape in words."""
    try:
        if isinstance(value, torch.Tensor):
            # numpy has no bfloat16.
            value = (value.float() if value.is_floating_point() else value).detach().cpu().numpy()
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        return None, f"of type {type(value).__name__} and no array"
    return array, f"{array.dtype} [{', '.join(map(str, array.shape))}]"


def _table(scored: evaluate.Predictions, tasks: Mapping[str, TaskSpec]) -> PredictionTable:
    predictions: dict[str, npt.NDArray[Any]] = {}
    probabilities: dict[str, npt.NDArray[np.float64]] = {}
    for task, values in scored.predictions.items():
        if is_by_regression(tasks[task], values):
            predictions[task] = class_of(values, tasks[task].classes or 1)
        elif tasks[task].type == "classification":
            shifted = np.exp(values - values.max(axis=1, keepdims=True))
            probabilities[task] = shifted / shifted.sum(axis=1, keepdims=True)
            predictions[task] = values.argmax(axis=1)
        else:
            predictions[task] = values
    labels = {task: np.where(scored.labeled[task], values, np.nan) for task, values in scored.labels.items()}
    return PredictionTable(scored.keys, predictions, labels, probabilities)


@contextmanager
def _deterministic(model: Model) -> Iterator[None]:
    """Use deterministic algorithms on a GPU, as in training; restores the caller's setting."""
    if model.device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    device.deterministic()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
