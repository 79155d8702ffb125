"""Final evaluation: scores the selected checkpoint as it was saved, and writes the run's result (decision 010)."""

from __future__ import annotations

from ivr_dist import storage
from ivr_dist.checkpoint import weights
from ivr_dist.config import Config
from ivr_dist.errors import CheckpointError
from ivr_dist.planning.pool_layout import PoolLayout
from ivr_dist.run.events import Note
from ivr_dist.run.paths import RunPaths
from ivr_dist.runtime import collectives
from ivr_dist.training import resume
from ivr_dist.training.scoring import score_splits
from ivr_dist.training.splits import RunSplits
from ivr_dist.training.trainer import Ending, Trainer


def write_result(
    config: Config,
    run_url: str,
    trainer: Trainer,
    splits: RunSplits,
    layout: PoolLayout,
    attempt: int,
    ending: Ending,
) -> None:
    """Score the selected checkpoint on validation and, once, on test, and write `result.json`; a collective call."""
    url = _selected(config, run_url, trainer)
    trainer.watchdog.restart()
    # The user's own config names the class of this run's checkpoints.
    model = weights.load_model(url, verified=True, trust_code=True).to(trainer.engine.device).eval()
    metrics = {
        split: score_splits(
            model,
            splits.of(split),
            layout,
            trainer.extra_metrics,
            trainer.engine.device,
            trainer.watchdog.watched,
        )
        for split in ("valid", "test")
        if splits.of(split)
    }
    excluded = {each.key: len(each.loader.excluded) for each in splits.scored if each.loader.excluded}
    if collectives.rank() == 0:
        result = {
            "run": storage.display(run_url),
            "status": ending,
            "checkpoint": storage.display(url),
            "steps": trainer.progress.step,
            "total_steps": trainer.plan.total_steps,
            "attempts": attempt,
            "modalities": list(layout.sets),
            "metrics": metrics,
        }
        if excluded:
            result["excluded"] = excluded
        storage.write_json(RunPaths(run_url).result, result)


def _selected(config: Config, run_url: str, trainer: Trainer) -> str:
    """Choose the checkpoint to score: the best one, or the last if that is selected or the best is gone or damaged.

    A collective call: every rank verifies a share of the bytes.
    """
    best = trainer.progress.best_checkpoint if config.train.select == "best" else None
    assert trainer.saved is not None
    last = RunPaths(run_url).checkpoint(trainer.saved)
    if best is not None and best != trainer.saved:
        url = RunPaths(run_url).checkpoint(best)
        damage = resume.damage(url)
        if not damage:
            return url
        # Forking from an older checkpoint can leave a best one behind that retention has deleted since.
        if collectives.on_rank_zero(lambda: storage.holds_files(url)) and collectives.rank() == 0:
            text = f"checkpoint {best}, the best one, is damaged; the last one is scored instead: {damage}"
            trainer.console.emit(Note(text))
    damage = resume.damage(last)
    if damage:
        raise CheckpointError(
            f"the last checkpoint cannot be scored: {damage}",
            where=last,
            remedy="run the same command again: it continues from the newest complete one",
        )
    return last
