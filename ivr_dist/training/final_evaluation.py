"""Final evaluation: scores the selected checkpoint as it was saved, and writes the run's result (decision 010)."""

from __future__ import annotations

from ivr_dist import storage
from ivr_dist.checkpoint import weights
from ivr_dist.config import Config
from ivr_dist.errors import CheckpointError
from ivr_dist.evaluation import evaluate
from ivr_dist.planning.model_inputs import model_inputs
from ivr_dist.run.events import Note
from ivr_dist.run.paths import RunPaths
from ivr_dist.runtime import collectives
from ivr_dist.training import resume
from ivr_dist.training.splits import Split
from ivr_dist.training.trainer import Ending, Trainer


def write_result(
    config: Config, run_url: str, trainer: Trainer, splits: dict[str, Split], attempt: int, ending: Ending
) -> None:
    """Score the selected checkpoint on validation and, once, on test, and write `result.json`; a collective call."""
    url = _selected(config, run_url, trainer)
    trainer.watchdog.restart()
    # The user's own config names the class of this run's checkpoints.
    model = weights.load_model(url, verified=True, trust_code=True).to(trainer.engine.device).eval()
    metrics, excluded = {}, {}
    for split in (splits[name] for name in ("valid", "test") if name in splits):
        batches = trainer.watchdog.watched(split.loader.eval_batches())
        left_out = split.loader.excluded
        predictions = evaluate.predict(model, batches, split.manifest.samples, trainer.engine.device, left_out)
        if left_out:
            excluded[split.name] = len(left_out)
        metrics[split.name] = evaluate.score(
            predictions, split.manifest.corpus, split.manifest.tasks, trainer.extra_metrics
        )
    if collectives.rank() == 0:
        result = {
            "run": storage.display(run_url),
            "status": ending,
            "checkpoint": storage.display(url),
            "steps": trainer.progress.step,
            "total_steps": trainer.plan.total_steps,
            "attempts": attempt,
            "modalities": list(model_inputs(config, splits["train"].manifest).used),
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
