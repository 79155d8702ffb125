"""Check of one sample against the sample layout and the manifest of its split; reports every problem."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ivr_dist.common import strict_json
from ivr_dist.common.modalities import MODALITIES
from ivr_dist.errors import CorruptDataError
from ivr_dist.inspection.checks.findings import Finding, Kind
from ivr_dist.sanitize import shorten
from ivr_dist.shards import npy, tar
from ivr_dist.shards.manifest import Manifest
from ivr_dist.shards.sample_hashes import hashes_of, name_hash
from ivr_dist.shards.sample_ids import id_of
from ivr_dist.shards.specs import TaskSpec
from ivr_dist.shards.splits import group_of

_FIELDS = {"corpus": str, "split": str, "provenance": dict}
"""Types of the fields of a sample's JSON besides id, labels and transcript."""


@dataclass
class SampleFacts:
    """Facts about a sample, as far as it can be read."""

    id: str
    group: str | None = None
    corpus: str | None = None
    hashes: tuple[int, int, int] = (0, 0, 0)
    """Of id, group and text; see `shards.sample_hashes`."""
    has_transcript: bool = False
    """Whether the transcript has a word."""
    labels: list[str] = field(default_factory=list)
    """Tasks that it has a label of."""
    steps: dict[str, int] = field(default_factory=dict)
    """Number of steps by modality."""
    vocabulary: dict[str, int] = field(default_factory=dict)
    """Largest token id plus one, by modality of token ids."""
    findings: list[Finding] = field(default_factory=list)
    readable: bool = True
    """Whether all fields above could be read."""

    @property
    def lengths(self) -> list[int]:
        """Number of steps of text, audio and vision, as an index stores them; -1 for a missing modality."""
        return [self.steps.get(name, -1) for name in MODALITIES]


def check_sample(data: memoryview, key: str, where: str, manifest: Manifest) -> SampleFacts:
    """Check one sample.

    Args:
        data: The tar members of the sample, with headers and padding.
        key: KEY that the index has for it.
        where: Shard and sample, for findings.
        manifest: Manifest of its split.
    """
    check = _SampleCheck(SampleFacts(id=key), where, manifest)
    check.run(data, key)
    if not check.facts.hashes[0]:
        check.facts.hashes = (name_hash(check.facts.id, manifest.corpus), 0, 0)
    return check.facts


class _SampleCheck:
    def __init__(self, facts: SampleFacts, where: str, manifest: Manifest) -> None:
        self.facts = facts
        self._where = where
        self._manifest = manifest

    def run(self, data: memoryview, key: str) -> None:
        try:
            groups = list(tar.samples(data, self._where))
        except CorruptDataError as error:
            return self._unreadable("tar", error.what)
        if [group[0].key for group in groups] != [key]:
            return self._unreadable("index", "the shard does not hold this sample where its index says")
        contents = {member.suffix: data[member.payload : member.payload + member.size] for member in groups[0]}
        if len(contents) != len(groups[0]):
            self._report("sample", "two members of the sample have one suffix")
        if "json" in contents:
            self._check_json(bytes(contents["json"]))
        else:
            self._unreadable("sample", f"there is no {key}.json")
        for modality in MODALITIES:
            if f"{modality}.npy" in contents:
                self._check_array(modality, contents[f"{modality}.npy"])

    def _report(self, kind: Kind, what: str) -> None:
        self.facts.findings.append(Finding(kind, what, self._where))

    def _unreadable(self, kind: Kind, what: str) -> None:
        self.facts.readable = False
        self._report(kind, what)

    def _check_json(self, text: bytes) -> None:
        try:
            about = strict_json.loads(text)
        except ValueError as error:
            return self._unreadable("sample", f"the JSON cannot be read: {error}")
        if not isinstance(about, dict):
            return self._unreadable("sample", "the JSON is not an object")
        try:
            self.facts.id = id_of(about, "", self.facts.id)
        except CorruptDataError as error:
            self._report("sample", error.what)
        for name, kind in _FIELDS.items():
            if name in about and not isinstance(about[name], kind):
                expected = "a string" if kind is str else "an object"
                self._report("sample", f"{name} is {_short(about[name])}, not {expected}")
        split, corpus = about.get("split"), about.get("corpus")
        if isinstance(split, str) and split != self._manifest.split:
            self._report("sample", f"the sample names the split {split}, not {self._manifest.split}")
        if isinstance(corpus, str):
            self.facts.corpus = corpus
        self.facts.group = group_of(about, self.facts.id)
        self.facts.hashes = hashes_of(about, self.facts.id, self._manifest.corpus)
        self._check_transcript(about.get("transcript"))
        self._check_labels(about.get("labels", {}))

    def _check_transcript(self, transcript: Any) -> None:
        words = transcript if isinstance(transcript, list) else [transcript or ""]
        if all(isinstance(word, str) for word in words):
            self.facts.has_transcript = any(word.strip() for word in words)
        else:
            self._report("sample", f"transcript is {_short(transcript)}, neither a string nor a list of words")

    def _check_labels(self, labels: Any) -> None:
        if not isinstance(labels, dict):
            return self._report("sample", f"labels is {_short(labels)}, not an object of numbers by task")
        self.facts.labels = [task for task, value in labels.items() if value is not None]
        for task, value in labels.items():
            if task not in self._manifest.tasks:
                self._report("sample", f"label {task} belongs to no task of the manifest")
            elif value is not None and (reason := _why_invalid(value, self._manifest.tasks[task])):
                self._report("label", f"label {task} is {_short(value)}, {reason}")

    def _check_array(self, modality: str, content: memoryview) -> None:
        try:
            array = npy.parse(content, modality)
        except CorruptDataError as error:
            return self._unreadable("sample", f"{modality}: {error.what}")
        # The index counts a scalar as one step, too.
        self.facts.steps[modality] = array.shape[0] if array.ndim else 1
        spec = self._manifest.features.get(modality)
        if spec is None:
            return self._report("sample", f"{modality} is present, but the manifest describes no such features")
        if str(array.dtype) != spec.dtype:
            self._report("sample", f"{modality} has the type {array.dtype}, not {spec.dtype}")
        if array.shape[1:] != (() if spec.kind == "tokens" else (spec.dim,)) or not array.ndim:
            expected = "[steps]" if spec.kind == "tokens" else f"[steps, {spec.dim}]"
            return self._report("sample", f"{modality} has the shape {list(array.shape)}, not {expected}")
        if spec.kind == "tokens":
            self._check_tokens(modality, array)
        else:
            self._check_finite(modality, array)

    def _check_finite(self, modality: str, array: npt.NDArray[Any]) -> None:
        finite = np.isfinite(array)
        if not finite.all():
            positions = np.argwhere(~finite)
            step, column = positions[0].tolist()
            what = f"{len(positions)} of {array.size} values of {modality} are not finite, first {array[step, column]}"
            self._report("values", f"{what} at step {step}, feature {column}")

    def _check_tokens(self, modality: str, array: npt.NDArray[Any]) -> None:
        if array.dtype.kind not in "iu" or not array.size:
            return  # the type was reported already
        low, high = int(array.min()), int(array.max())
        self.facts.vocabulary[modality] = high + 1
        size = self._manifest.vocabulary.get(modality)
        if low < 0:
            self._report("values", f"{modality} has the token id {low}")
        if size is not None and high >= size:
            self._report("values", f"{modality} has the token id {high}, the manifest's vocabulary ends at {size - 1}")


def _why_invalid(value: Any, task: TaskSpec) -> str:
    """Describe why a label that is not null is invalid; empty if it is valid."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        return "not a finite number"
    if task.type == "classification":
        classes = task.classes or 0
        return "" if value in range(classes) else f"not a class 0..{classes - 1}"
    below = task.low is not None and value < task.low
    above = task.high is not None and value > task.high
    return f"outside {task.low:g}..{task.high:g}" if below or above else ""


def _short(value: Any) -> str:
    return shorten(repr(value), 40)
