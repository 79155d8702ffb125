"""Floors of a corpus of transcripts: a constant, and a linear model on TF-IDF of words (or characters) and pairs.

    python benchmarks/floors.py data/mosei data/meld --json floors.json

Every task is fitted by itself: ridge regression for a regression, logistic regression for a classification. What can be
chosen (the penalty, class weights) is chosen by the mean absolute error or the weighted F1 on the validation split, or
by five folds of the training split where there is none; the test split is scored once. Scripts without
white space are cut into characters. Needs scikit-learn (`pip install 'ivr-dist[bench]'`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

import ivr_dist as ivr
from ivr_dist import storage
from ivr_dist.evaluation import metrics
from ivr_dist.shards.manifest import MANIFEST_NAME
from ivr_dist.shards.specs import TaskSpec

Array = npt.NDArray[np.float64]
Fit = Callable[[Any, Array], Callable[[Any], Array]]
ALPHAS = (0.3, 1.0, 3.0, 10.0, 30.0)
CS = (0.3, 1.0, 3.0, 10.0)
FOLDS = 5
SPACED = 0.5
"""Share of texts with white space from which a corpus is cut into words."""


@dataclass(frozen=True)
class Texts:
    """One split: transcripts and labels of N samples."""

    ids: list[str]
    texts: list[str]
    labels: dict[str, Array]
    """By task: [N], NaN where there is none."""


@dataclass(frozen=True)
class Choice:
    """One setting of a linear model."""

    name: str
    fit: Fit


def main() -> int:
    """Fit and score every task of every corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="+", help="directories or URLs with the packed splits of a corpus")
    parser.add_argument("--json", metavar="FILE", help="write all figures to a file")
    options = parser.parse_args()
    results = {}
    for url in options.corpora:
        print(f"{url}: reading", file=sys.stderr, flush=True)
        results[url] = corpus_floors(url)
        for task, floors in results[url].items():
            for kind in ("constant", "linear"):
                shown = "  ".join(f"{name} {value:.4f}" for name, value in floors[kind].items() if value == value)
                print(f"{url} {task:<12} {kind:<9} {shown}", flush=True)
            print(f"{url} {task:<12} {floors['samples']} test samples; linear: {floors['chosen']}", flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1, allow_nan=True) + "\n")
    return 0


def corpus_floors(url: str) -> dict[str, dict[str, Any]]:
    """Compute the floors of all tasks of a corpus with a training and a test split."""
    train, test = read(storage.join(url, "train")), read(storage.join(url, "test"))
    valid_url = storage.join(url, "valid")
    valid = read(valid_url) if storage.exists(storage.join(valid_url, MANIFEST_NAME)) else None
    spaced = sum(" " in text.strip() for text in train.texts) > SPACED * len(train.texts)
    with ivr.open_split(storage.join(url, "train")) as split:
        tasks = split.tasks
    return {name: task_floors(name, task, train, valid, test, spaced) for name, task in tasks.items()}


def read(url: str) -> Texts:
    """Read the transcripts and labels of a split."""
    with ivr.open_split(url) as split:
        texts = [text if isinstance(text := sample.transcript, str) else " ".join(text) for sample in split]
        return Texts(split.ids, texts, split.labels)


def task_floors(
    name: str, task: TaskSpec, train: Texts, valid: Texts | None, test: Texts, spaced: bool
) -> dict[str, Any]:
    """Compute the floors of one task: the constant that its metric rewards, and the best linear model."""
    choices = list(regressions() if task.type == "regression" else classifications(task.classes or 2))
    vectorizer = tfidf(spaced)
    x, y = features(vectorizer.fit_transform(train.texts), train.labels[name])
    if valid is not None:
        held_out = [(x, y, *features(vectorizer.transform(valid.texts), valid.labels[name]))]
    else:
        part = np.arange(len(y)) % FOLDS
        held_out = [(x[part != k], y[part != k], x[part == k], y[part == k]) for k in range(FOLDS)]
    scores = {
        choice.name: float(np.mean([quality(task, b, choice.fit(seen, a)(unseen)) for seen, a, unseen, b in held_out]))
        for choice in choices
    }
    best = max(choices, key=lambda choice: scores[choice.name])
    test_x, truth = features(vectorizer.transform(test.texts), test.labels[name])
    return {
        "samples": len(truth),
        "chosen": best.name,
        "constant": metrics.score(task, truth, constant(task, y, len(truth))),
        "linear": metrics.score(task, truth, best.fit(x, y)(test_x)),
    }


def tfidf(spaced: bool) -> TfidfVectorizer:
    """TF-IDF of words, punctuation marks (which tell emotions apart) and pairs of them, or of characters and pairs."""
    pattern = r"(?u)\w+|[^\w\s]" if spaced else r"(?u)\S"
    return TfidfVectorizer(token_pattern=pattern, ngram_range=(1, 2), sublinear_tf=True)


def features(rows: Any, labels: Array) -> tuple[Any, Array]:
    """Keep the rows that have a label."""
    labeled = np.flatnonzero(~np.isnan(labels))
    return rows[labeled], labels[labeled]


def regressions() -> Iterable[Choice]:
    """Ridge regressions by penalty."""
    for alpha in ALPHAS:

        def fit(x: Any, y: Array, alpha: float = alpha) -> Callable[[Any], Array]:
            model = Ridge(alpha=alpha).fit(x, y)
            return lambda rows: np.asarray(model.predict(rows), np.float64)

        yield Choice(f"ridge, alpha {alpha:g}", fit)


def classifications(classes: int) -> Iterable[Choice]:
    """Logistic regressions by penalty and class weights."""
    for c in CS:
        for balance in (None, "balanced"):

            def fit(x: Any, y: Array, c: float = c, balance: str | None = balance) -> Callable[[Any], Array]:
                model = LogisticRegression(C=c, class_weight=balance, max_iter=1000).fit(x, y)

                def logits(rows: Any) -> Array:
                    full = np.full((rows.shape[0], classes), -np.inf)
                    full[:, model.classes_.astype(int)] = model.predict_log_proba(rows)
                    return np.maximum(full, -1e9)

                return logits

            yield Choice(f"logistic, C {c:g}{', balanced classes' if balance else ''}", fit)


def constant(task: TaskSpec, labels: Array, count: int) -> Array:
    """Predict the median of the training labels, or their most frequent class."""
    if task.type == "regression":
        return np.full(count, np.median(labels))
    logits = np.zeros((count, task.classes or 2))
    logits[:, np.bincount(labels.astype(int)).argmax()] = 1.0
    return logits


def quality(task: TaskSpec, truth: Array, prediction: Array) -> float:
    """Return what the settings are chosen by, larger is better."""
    scores = metrics.score(task, truth, prediction)
    return -scores["mae"] if task.type == "regression" else scores["f1_weighted"]


if __name__ == "__main__":
    sys.exit(main())
