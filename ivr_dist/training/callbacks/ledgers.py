"""Ledger callbacks: sample ids trained on, losses and metrics by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ivr_dist.run.ledger import LedgerWriter
from ivr_dist.training.callbacks.base import Callback, PooledKey, StepReport


class AuditLedger(Callback):
    """Records the ids trained on; on every rank.

    Args:
        writer: Writes the ledger.
        pooled: Whether ids are recorded by corpus and pass.
    """

    def __init__(self, writer: LedgerWriter, pooled: bool = False) -> None:
        self._writer = writer
        self._pooled = pooled

    def on_step(self, report: StepReport) -> None:
        """Record the ids that were decoded and trained on, never planned ones."""
        record: dict[str, Any] = {"step": report.step, "epoch": report.epoch, "ids": self._names(report.keys)}
        if report.skipped:
            record["skipped"] = self._names(report.skipped)
        if report.excluded:
            record["excluded"] = self._names(report.excluded)
        self._writer.append(record)

    def on_left_out(self, step: int, epoch: int, keys: Sequence[str]) -> None:
        """Record the samples of the step as skipped."""
        self._writer.append({"step": step, "epoch": epoch, "ids": self._names(()), "skipped": self._names(keys)})

    def _names(self, keys: Sequence[str]) -> list[str] | dict[str, dict[str, list[str]]]:
        """Ids as a list; in a pool by corpus and pass."""
        if not self._pooled:
            return list(keys)
        names: dict[str, dict[str, list[str]]] = {}
        for key in keys:
            assert isinstance(key, PooledKey)
            names.setdefault(key.corpus, {}).setdefault(str(key.number), []).append(str(key))
        return names

    def on_before_checkpoint(self) -> Callable[[], None]:
        """Close the ledger segment."""
        return self._writer.cut()

    def on_close(self) -> None:
        """Flush."""
        self._writer.flush()


class History(Callback):
    """Records loss and metrics by step; on rank 0."""

    def __init__(self, writer: LedgerWriter) -> None:
        self._writer = writer

    def on_step(self, report: StepReport) -> None:
        """Record the loss of every step that updated the weights."""
        if report.fault:
            return
        self._writer.append(
            {"step": report.step, "loss": report.loss, "terms": dict(report.terms), "grad_norm": report.grad_norm}
        )

    def on_evaluation(self, split: str, step: int, metrics: Mapping[str, float | None], best: bool) -> None:
        """Record the metrics."""
        self._writer.append({"step": step, "split": split, "metrics": dict(metrics)})

    def on_before_checkpoint(self) -> Callable[[], None]:
        """Close the ledger segment."""
        return self._writer.cut()

    def on_close(self) -> None:
        """Flush."""
        self._writer.flush()
