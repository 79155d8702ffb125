"""Early stopping: tracks the best validation score and the patience. Pure functions of progress."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ivr_dist.checkpoint.state import Progress
from ivr_dist.config import Config
from ivr_dist.evaluation import metrics
from ivr_dist.evaluation.pool_metrics import SKILL
from ivr_dist.shards.manifest import Manifest


@dataclass(frozen=True)
class EarlyStopping:
    """Follows one metric; its state is in `Progress`, so that it survives a restart."""

    monitor: str
    """Name of the metric, without the split."""
    patience: int | None = None
    """Evaluations in a row without an improvement after which training ends; None: it never ends early."""
    lower_is_better: frozenset[str] = metrics.LOWER_IS_BETTER
    """Names of metrics where smaller is better."""

    def update(self, progress: Progress, value: float | None, checkpoint: str) -> Progress:
        """Return the progress after one more evaluation.

        Args:
            progress: The progress before it.
            value: The metric; None where it is not defined, which is no improvement.
            checkpoint: Name of the checkpoint that will hold the weights it was measured with.
        """
        if value is not None and metrics.better(self.monitor, value, progress.best, self.lower_is_better):
            return replace(progress, best=value, best_checkpoint=checkpoint, stale=0)
        return replace(progress, stale=progress.stale + 1)

    def is_exhausted(self, progress: Progress) -> bool:
        """Whether the last `patience` evaluations brought no improvement."""
        return self.patience is not None and progress.stale >= self.patience


def monitored_metric(config: Config, valid: Manifest | None) -> str:
    """Return the validation metric that picks the best checkpoint, without its `valid/`.

    `train.monitor`, or by default MAE or accuracy of the first task; in a pool the mean skill of its corpora.

    Args:
        config: The run's config.
        valid: The validation split; None in a pool.
    """
    if config.train.monitor:
        return config.train.monitor.removeprefix("valid/")
    if valid is None:
        return SKILL
    task, spec = next(iter(valid.tasks.items()))
    return f"{metrics.prefix(valid.corpus, task, valid.tasks)}/{'mae' if spec.type == 'regression' else 'accuracy'}"
