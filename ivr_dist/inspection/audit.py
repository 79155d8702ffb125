"""Proof, from a run's own ledger, that each sample counted exactly once an epoch over all attempts.

What must be recorded is known without the ledger: how far it must reach from checkpoints and result, who trained which
step from the attempt records, and which samples a step holds from the order of the data. What was recorded is compared
with that step by step, so that of a sound ledger one step is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from ivr_dist.checkpoint import store
from ivr_dist.data.cursor import DataCursor
from ivr_dist.errors import IvrError, UserError
from ivr_dist.inspection.audit_ledger import Book, Order
from ivr_dist.inspection.audit_report import AuditReport
from ivr_dist.inspection.existing_run import read_record, read_result, recorded_config
from ivr_dist.inspection.recorded_ids import NamedSamples
from ivr_dist.planning.plan import make_plan
from ivr_dist.run.attempts import Attempt, lineage, read_attempts
from ivr_dist.run.ledger import recorded_attempts
from ivr_dist.run.paths import AUDIT
from ivr_dist.shards.manifest import Manifest


def audit(run_url: str) -> AuditReport:
    """Compare what the ledger says of every step that counts with what the step held.

    Raises:
        UserError: There is no run, it was trained with `run.audit=false`, or its data is another by now.
        CorruptDataError: What the audit goes by is damaged.
    """
    attempts = read_attempts(run_url)
    if not attempts:
        raise UserError("no run here", where=run_url, remedy="give the run.dir of a run that has started")
    config = recorded_config(run_url, read_record(run_url))
    # Before the ledger, which may grow meanwhile: the lines of a checkpoint are written before it.
    result = read_result(run_url)
    ended = None if result is None else int(result["steps"])
    step, cursor = _newest_checkpoint(run_url, attempts)
    recorded = recorded_attempts(run_url, AUDIT)
    if not recorded and not config.run.audit:
        raise UserError("the run has no audit ledger", where=run_url, remedy="train with run.audit=true")

    manifest = Manifest.load(config.data.train)
    plan = make_plan(config, manifest.samples, attempts[-1].world, manifest.total_bytes)
    start = DataCursor(
        manifest_id=manifest.id,
        seed=config.run.seed,
        lanes=plan.lanes,
        global_batch=plan.global_batch,
        delay=plan.delay,
    )
    if cursor is not None:
        cursor.check_matches(start)

    report = AuditReport(run_url, manifest.samples, len(attempts), max(step, ended or 0))
    worlds = {attempt.number: attempt.world for attempt in attempts}
    report.forged += [f"attempt {number} never began" for number in recorded if number not in worlds]
    spans = lineage(attempts)
    most = max(report.reach, plan.total_steps) if ended is None else report.reach
    samples = NamedSamples(config.data.train, manifest)
    book = Book(report, Order(manifest, start, plan.steps_per_epoch), samples, spans[0].first, most)
    for span in spans:
        book.add_attempt(run_url, span, worlds[span.attempt])
    book.close()
    return report


def _newest_checkpoint(run_url: str, attempts: Sequence[Attempt]) -> tuple[int, DataCursor | None]:
    """The step of the newest complete checkpoint that counts, and the order of its data.

    Without one, the step that the newest attempt began at: there was one when it did.
    """
    for name in store.in_lineage(store.names(run_url), lineage(attempts)):
        url = name.url(run_url)
        try:
            store.parts(url)
            cursor = store.read_state(url).cursor
        except IvrError:
            continue
        if cursor is not None:
            return max(name.step, attempts[-1].step), cursor
    return attempts[-1].step, None
