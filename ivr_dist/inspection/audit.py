"""Audit of a run's sample ledger: each sample counted exactly once per epoch, over all attempts.

The expected content is known without the ledger: checkpoints and result tell which steps count, attempt records which
attempt trained a step, and the order of the data which samples a step contains. The ledger is compared with it step by
step, so that only one step of a correct ledger is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ivr_dist.checkpoint import store
from ivr_dist.config.corpora import SplitKey, is_pool, split_urls
from ivr_dist.data.build_order import build_order
from ivr_dist.data.cursor import DataCursor
from ivr_dist.data.exclusions import read_excluded
from ivr_dist.data.left_out import left_out_by
from ivr_dist.data.pool_cursor import PoolCursor
from ivr_dist.errors import IvrError, UserError
from ivr_dist.inspection.audit_ledger import LedgerAudit
from ivr_dist.inspection.audit_report import AuditReport
from ivr_dist.inspection.existing_run import read_record, read_result, recorded_config
from ivr_dist.inspection.recorded_ids import SampleNames
from ivr_dist.inspection.status import no_run
from ivr_dist.inspection.step_samples import StepSamples
from ivr_dist.planning.plan import plan_run
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
    record = read_record(run_url)
    config = recorded_config(run_url, record)
    # Read before the ledger, which may be growing: ledger lines are written before their checkpoint:
    # decision 005.
    result = read_result(run_url)
    ended = None if result is None else int(result["steps"])
    step, cursor = _newest_checkpoint(run_url, attempts)
    recorded = recorded_attempts(run_url, AUDIT)
    if not recorded and not config.run.audit:
        raise UserError("the run has no audit ledger", where=run_url, remedy="train with run.audit=true")

    urls = {key: url for key, url in split_urls(config).items() if SplitKey.parse(key).split == "train"}
    manifests = {key: Manifest.load(url) for key, url in urls.items()}
    excluded = {key: read_excluded(run_url, manifest.id) for key, manifest in manifests.items()}
    digests = {key: listed.digest for key, listed in excluded.items()}
    plan = plan_run(config, manifests, attempts[-1].world, digests)
    names = {key: SplitKey.parse(key).corpus or manifests[key].corpus for key in urls}
    numbers = {name: number for number, name in enumerate(names.values())}
    order = build_order(config, plan, manifests, numbers, digests, _first_uses(record, cursor))
    if cursor is not None:
        if type(cursor) is not type(order.start):
            raise UserError("the run's checkpoint is of other corpora than its config", where=run_url)
        order, _ = order.resumed(cursor, True)

    pooled = is_pool(config)
    total = sum(manifest.samples for manifest in manifests.values())
    left_out = sum(len(listed) for listed in excluded.values())
    report = AuditReport(run_url, total, len(attempts), max(step, ended or 0), left_out, left_out_by(config))
    worlds = {attempt.number: attempt.world for attempt in attempts}
    report.forged += [f"attempt {number} was never started" for number in recorded if number not in worlds]
    spans = lineage(attempts)
    last_possible = max(report.reach, plan.total_steps) if ended is None else report.reach
    samples = {names[key] if pooled else "": SampleNames(url, manifests[key]) for key, url in urls.items()}
    steps = StepSamples(
        order,
        {name: manifests[key].samples for key, name in names.items()},
        pooled,
        {name: excluded[key] for key, name in names.items()},
    )
    audit_of_ledger = LedgerAudit(report, steps, samples, spans[0].first, last_possible)
    for span in spans:
        audit_of_ledger.add_attempt(run_url, span, worlds[span.attempt])
    audit_of_ledger.close()
    return report


def _first_uses(record: Mapping[str, Any], cursor: DataCursor | PoolCursor | None) -> dict[str, int]:
    """Uses of an earlier run by corpus, whose passes the run goes on with: of its checkpoint, or recorded before it."""
    if isinstance(cursor, PoolCursor):
        return {name: position.first_use for name, position in cursor.corpora.items()}
    first_uses: dict[str, int] = record.get("init", {}).get("uses", {})
    return first_uses


def _newest_checkpoint(run_url: str, attempts: Sequence[Attempt]) -> tuple[int, DataCursor | PoolCursor | None]:
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
