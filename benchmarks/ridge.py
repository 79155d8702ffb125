"""Ridge regression on pooled features: the floor that a trained model has to clear.

    python benchmarks/ridge.py data/mosi_words --modalities text
    python benchmarks/ridge.py data/mosi_utterance --pool first

The penalty is chosen by the mean absolute error on the validation split, or by five folds of the training split where
there is none; the test split is scored once. `--json` ends with one JSON object on the last line of stdout.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
import numpy.typing as npt

from ivr_dist import storage
from ivr_dist.data.reading.shard_reader import ShardReader
from ivr_dist.display.tables import print_metrics
from ivr_dist.evaluation import metrics
from ivr_dist.shards.manifest import MANIFEST_NAME, Manifest
from ivr_dist.shards.specs import TaskSpec

Array = npt.NDArray[np.float64]
PENALTIES = [float(10**exponent) for exponent in np.arange(-2, 5.1, 0.5)]


def main() -> int:
    """Load, choose the penalty, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="directory or URL with the packed splits")
    parser.add_argument("--modalities", default="text,audio,vision")
    parser.add_argument("--pool", choices=["mean", "first"], default="mean", help="how steps become one vector")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = options.modalities.split(",")
    train_x, train_y, task = load(storage.join(options.corpus, "train"), names, options.pool)
    test_x, test_y, _ = load(storage.join(options.corpus, "test"), names, options.pool)
    mean, deviation = train_x.mean(axis=0), train_x.std(axis=0)
    deviation[deviation == 0] = 1.0
    train_x, test_x = (train_x - mean) / deviation, (test_x - mean) / deviation
    valid = storage.join(options.corpus, "valid")
    if storage.exists(storage.join(valid, MANIFEST_NAME)):
        valid_x, valid_y, _ = load(valid, names, options.pool)
        folds = [((train_x, train_y), ((valid_x - mean) / deviation, valid_y))]
    else:
        part = np.arange(len(train_y)) % 5
        folds = [((train_x[part != k], train_y[part != k]), (train_x[part == k], train_y[part == k])) for k in range(5)]
    penalty = min(PENALTIES, key=lambda p: np.mean([metrics.mae(y, fit(*seen, p, x)) for seen, (x, y) in folds]))
    found = metrics.score(task, test_y, fit(train_x, train_y, penalty, test_x))
    print_metrics({"test": dict(found)}, sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps({"corpus": options.corpus, "penalty": penalty, "test": found}))
    return 0


def load(split_url: str, modalities: list[str], pool: str) -> tuple[Array, Array, TaskSpec]:
    """Pooled features [N, D] of the modalities that the corpus has, labels [N], and their task."""
    manifest = Manifest.load(split_url)
    reader = ShardReader(split_url, manifest, 1 << 28)
    samples = reader.read(np.arange(manifest.samples))
    reader.close()
    name, task = next(iter(manifest.tasks.items()))
    blocks = []
    for modality in [m for m in modalities if m in manifest.features]:
        block = np.zeros((len(samples), manifest.features[modality].dim))
        for row, sample in enumerate(samples):
            steps = sample.arrays.get(modality)
            if steps is not None and len(steps):
                block[row] = steps.mean(axis=0) if pool == "mean" else steps[0]
        blocks.append(block)
    return np.concatenate(blocks, axis=1), np.array([s.labels[name] for s in samples], np.float64), task


def fit(x: Array, y: Array, penalty: float, unseen: Array) -> Array:
    """Predictions for `unseen` of a ridge regression with an unpenalized mean."""
    center, level = x.mean(axis=0), y.mean()
    moved = x - center
    weights = np.linalg.solve(moved.T @ moved + penalty * np.eye(x.shape[1]), moved.T @ (y - level))
    return np.asarray((unseen - center) @ weights + level)


if __name__ == "__main__":
    sys.exit(main())
