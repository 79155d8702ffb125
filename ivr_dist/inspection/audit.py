"""Audit of a run's sample ledger: each sample counted exactly once per epoch, over all attempts.

The expected content is known without the ledger: checkpoints and result tell which steps count, attempt records which
attempt trained a step, and the order of the data which samples a step contains. The ledger is compared with it step by
step, so that only one step of a correct ledger is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from ivr_dist.checkpoint import store
from ivr_dist.data.cursor import DataCursor
from ivr_dist.data.exclusions import read_excluded
from ivr_dist.errors import IvrError, UserError
from ivr_dist.inspection.audit_ledger import LedgerAudit, StepSamples
from ivr_dist.inspection.audit_report import AuditReport
from ivr_dist.inspection.existing_run import read_record, read_result, recorded_config
from ivr_dist.inspection.recorded_ids import SampleNames
from ivr_dist.inspection.status import no_run
from ivr_dist.planning.plan import make_plan
from ivr_dist.run.attempts import Attempt, lineage, read_attempts
from ivr_dist.run.ledger import recorded_attempts
from ivr_dist.run.paths import AUDIT
from ivr_dist.shards.manifest import Manifest


def audit(run_url: str) -> AuditReport:
    """Compare the ledger with the samples of every step that counts.

    Raises:
        UserError: There is no run, it was trained with `run.audit=false`, or its data was replaced.
        CorruptDataError: A record that the audit depends on is damaged.
    """
    attempts = read_attempts(run_url)
    if not attempts:
        raise no_run(run_url)
    config = recorded_config(run_url, read_record(run_url))
    # Read before the ledger, which may be growing: ledger lines are written before their checkpoint:
    # decision 005.
    result = read_result(run_url)
    ended = None if result is None else int(result["steps"])
    step, cursor = _newest_checkpoint(run_url, attempts)
    recorded = recorded_attempts(run_url, AUDIT)
    if not recorded and not config.run.audit:
        raise UserError("the run has no audit ledger", where=run_url, remedy="train with run.audit=true")

    manifest = Manifest.load(config.data.train)
    plan = make_plan(config, manifest.samples, attempts[-1].world, manifest.total_bytes)
    excluded = read_excluded(run_url, manifest.id)
    start = DataCursor(
        manifest_id=manifest.id,
        seed=config.run.seed,
        lanes=plan.lanes,
        global_batch=plan.global_batch,
        delay=plan.delay,
        excluded=excluded.digest,
    )
    if cursor is not None:
        cursor.check_matches(start)

    report = AuditReport(run_url, manifest.samples, len(attempts), max(step, ended or 0), len(excluded))
    worlds = {attempt.number: attempt.world for attempt in attempts}
    report.forged += [f"attempt {number} was never started" for number in recorded if number not in worlds]
    spans = lineage(attempts)
    last_possible = max(report.reach, plan.total_steps) if ended is None else report.reach
    samples = SampleNames(config.data.train, manifest)
    order = StepSamples(manifest, start, plan.steps_per_epoch, excluded)
    audit_of_ledger = LedgerAudit(report, order, samples, spans[0].first, last_possible)
    for span in spans:
        audit_of_ledger.add_attempt(run_url, span, worlds[span.attempt])
    audit_of_ledger.close()
    return report


def _newest_checkpoint(run_url: str, attempts: Sequence[Attempt]) -> tuple[int, DataCursor | None]:
    """Return step and data cursor of the newest complete checkpoint of the lineage.

    Without one, return the first step of the newest attempt, which resumed from a checkpoint that was removed later.
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
