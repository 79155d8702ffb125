"""Synthetic corpus with known ground truth: small, quick to generate, and learnable from all three modalities.

Each sample has a latent value z_m for each modality: half of its variance is shared by the three (which an invariant
code can represent), half is specific to the modality. Step t of modality m is z_m a_t d_m + noise, with a fixed
direction d_m and a profile a_t that is high in a few steps, as a remark depends on a few words. The label is a weighted
sum of the latents and of one product of two, plus a little noise, rounded to fifths and clipped to [-3, 3] like an
average of five raters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ivr_dist.corpora.source import SampleRef, SourceSample
from ivr_dist.errors import ConfigError
from ivr_dist.shards.specs import FeatureSpec, TaskSpec

DEFAULT_DIMS = {"text": 32, "audio": 12, "vision": 8}
"""Features of a time step, by modality."""

WEIGHTS = {"text": 0.8, "audio": 0.6, "vision": 0.5}
"""Weight of each latent in the label."""

INTERACTION = 0.3
"""Weight of the product of the latents of text and audio in the label."""

LABEL_NOISE = 0.15
"""Standard deviation of the label's noise, before rounding."""

_MAX_WORDS = 30
_FRAMES_PER_WORD = {"audio": 3, "vision": 2}
_GROUP = 10
_NEUTRAL = ("the", "film", "was", "so", "it", "and", "they", "there", "then", "with")
_VERDICTS = ("bad", "good")
_TOKENS = {word: number for number, word in enumerate(_NEUTRAL + _VERDICTS)}

_MOODS = ("negative", "neutral", "positive")
_MOOD_EDGES = (-0.5, 0.5)

TextKind = Literal["features", "tokens"]
SynthTask = Literal["sentiment", "mood"]


class SynthSource:
    """The synthetic corpus.

    Sample i depends only on the seed and i; the first 70 % of the samples are train, the next 15 % valid. Each ten
    samples of a split are a group, as if from one video.

    Args:
        samples: Number of samples over all splits.
        seed: 0 or more; each seed results in another corpus, with other directions.
        dims: Features of a time step, by modality.
        aligned: Whether every modality has one step for each word; otherwise audio has about three and vision two.
        missing: Probability that a modality of a sample is missing.
        text: Text as vectors, or as ids of the transcript's words, which determine only the sign of its latent.
        name: Name of the corpus, with which its ids and groups begin.
        task: `sentiment`, a regression in [-3, 3]; or `mood`, its classes negative, neutral and positive.

    Raises:
        ConfigError: There are too few samples for three splits, or a number is out of range.
    """

    def __init__(
        self,
        samples: int,
        seed: int = 0,
        *,
        dims: Mapping[str, int] = DEFAULT_DIMS,
        aligned: bool = True,
        missing: float = 0.03,
        text: TextKind = "features",
        name: str = "synth",
        task: SynthTask = "sentiment",
    ) -> None:
        train, valid = round(0.7 * samples), round(0.15 * samples)
        if min(train, valid, samples - train - valid) < 1:
            raise ConfigError(f"{samples} samples are too few for train, valid and test", remedy="make 10 or more")
        if not 0 <= missing <= 1 or seed < 0:
            raise ConfigError("a synthetic corpus needs a seed of 0 or more and a missing share of 0..1")
        if text not in get_args(TextKind):
            raise ConfigError(f"the text of a synthetic corpus cannot be {text}", remedy="choose features or tokens")
        if task not in get_args(SynthTask):
            raise ConfigError(f"the task of a synthetic corpus cannot be {task}", remedy="choose sentiment or mood")
        if unknown := [modality for modality in dims if modality not in WEIGHTS]:
            raise ConfigError(f"a synthetic corpus has no {unknown[0]}", remedy=f"choose from {', '.join(WEIGHTS)}")
        self._name = name
        self._task = task
        self._seed = seed
        self._text = text
        self._dims = dict(dims)
        self._aligned = aligned
        self._missing = missing
        borders = {"train": (0, train), "valid": (train, train + valid), "test": (train + valid, samples)}
        self._splits = {split: _refs(name, split, first, last) for split, (first, last) in borders.items()}
        random = self._random(0)
        self._directions = {name: _unit(random.standard_normal(dim)) for name, dim in self._dims.items()}

    @property
    def corpus(self) -> str:
        """Its name, `synth` by default."""
        return self._name

    @property
    def features(self) -> Mapping[str, FeatureSpec]:
        """Features by modality."""
        specs = {
            name: FeatureSpec(set=f"synth{dim}", dim=dim, dtype="float32", kind="features")
            for name, dim in self._dims.items()
        }
        if self._text == "tokens" and "text" in specs:
            specs["text"] = FeatureSpec(set="synth_words", dim=1, dtype="int32", kind="tokens")
        return specs

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """One task: the regression `sentiment` in [-3, 3], or the classification `mood`."""
        if self._task == "mood":
            return {"mood": TaskSpec(type="classification", classes=len(_MOODS), names=_MOODS)}
        return {"sentiment": TaskSpec(type="regression", low=-3.0, high=3.0, scale="mosi")}

    def splits(self) -> Mapping[str, Sequence[SampleRef]]:
        """List the samples by split: 70 % train, 15 % valid, 15 % test."""
        return self._splits

    def load(self, split: str, ref: SampleRef) -> SourceSample:
        """Generate one sample; its provenance holds the latents and the label before noise and rounding."""
        random = self._random(ref.number + 1)
        latents = _latents(random)
        truth = sum(WEIGHTS[name] * latents[name] for name in WEIGHTS)
        truth += INTERACTION * latents["text"] * latents["audio"]
        label = float(np.clip(round(5 * (truth + LABEL_NOISE * random.standard_normal())) / 5, -3, 3)) + 0.0
        words = int(min(_MAX_WORDS, 3 + random.geometric(0.12)))
        arrays: dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int32]] = {}
        spoken: npt.NDArray[np.bool_] = np.zeros(words, bool)
        for name, direction in self._directions.items():
            steps = words
            if name != "text" and not self._aligned:
                steps = words * _FRAMES_PER_WORD[name] + int(random.integers(-2, 3))
            salient = random.random(steps) < 0.3
            strength = np.where(salient, 2.0, 0.7)[:, None]
            noise = 0.7 * random.standard_normal((steps, len(direction)))
            absent = random.random() < self._missing
            if name == "text":
                spoken = salient
            if not absent:
                arrays[name] = (latents[name] * strength * direction + noise).astype(np.float32)
        transcript = _transcript(spoken, latents["text"])
        if self._text == "tokens" and "text" in arrays:
            arrays["text"] = np.array([_TOKENS[word] for word in transcript.split()], np.int32)
        return SourceSample(
            id=ref.id,
            split=split,
            group=ref.group,
            labels={"mood": float(np.digitize(label, _MOOD_EDGES))} if self._task == "mood" else {"sentiment": label},
            transcript=transcript,
            provenance={"group": ref.group, "latents": latents, "truth": float(truth)},
            arrays=arrays,
        )

    def _random(self, stream: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=np.array([self._seed, stream], np.uint64)))


def _latents(random: np.random.Generator) -> dict[str, float]:
    """Draw standard normal values by modality, with correlation 1/2."""
    shared = random.standard_normal()
    return {name: float((shared + random.standard_normal()) / np.sqrt(2)) for name in WEIGHTS}


def _refs(name: str, split: str, first: int, last: int) -> list[SampleRef]:
    prefix = "" if name == "synth" else f"{name}_"
    return [
        SampleRef(number, f"{name}_{number:07d}", f"{prefix}{split}_{(number - first) // _GROUP:06d}")
        for number in range(first, last)
    ]


def _unit(direction: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return direction / np.linalg.norm(direction)


def _transcript(spoken: npt.NDArray[np.bool_], latent: float) -> str:
    """Generate words, of which the salient ones express the sign of the text's latent."""
    verdict = _VERDICTS[latent >= 0]
    return " ".join(verdict if salient else _NEUTRAL[step % len(_NEUTRAL)] for step, salient in enumerate(spoken))
