"""Output of `ivr-dist plan` and of `ivr-dist train --dry-run`, as tables or JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ivr_dist.cli.options import print_json
from ivr_dist.display.plain_output import say

if TYPE_CHECKING:
    from ivr_dist.config.loading import Loaded
    from ivr_dist.data.read_forecast import Forecast
    from ivr_dist.planning.plan import Plan
    from ivr_dist.planning.pool_table import CorpusRow


def print_plans(loaded: Loaded, worlds: Sequence[int], as_json: bool) -> int:
    """Print the plan; of several world sizes a column each, for what differs between them.

    Args:
        loaded: The config and the origins of its values.
        worlds: Numbers of workers.
        as_json: Print a JSON array with an object for each of them instead.

    Returns:
        The exit code.

    Raises:
        UserError: The config or its data cannot work.
    """
    from ivr_dist.data.left_out import find_left_out
    from ivr_dist.data.read_forecast import forecasts
    from ivr_dist.display.tables import left_out_rows
    from ivr_dist.orchestration.preflight import count_parameters, preflight, resolved
    from ivr_dist.planning.model_inputs import run_inputs
    from ivr_dist.planning.plan import describe, plan_run
    from ivr_dist.planning.pool_layout import pool_layout
    from ivr_dist.planning.pool_table import corpus_rows, held_out_notes, pool_notes

    config = resolved(loaded.config)
    first, manifests = preflight(config, worlds[0], loaded)
    inputs = run_inputs(config, manifests)
    plans = [first, *(plan_run(config, manifests, world) for world in worlds[1:])]
    parameters = count_parameters(config, manifests)
    # The preflight has found the same, but returns errors only.
    left_out = find_left_out(config, manifests, check=False)
    readings = forecasts(config, manifests, plans, left_out.splits)
    excluded = {key: len(listed) for key, listed in left_out.splits.items()}
    layout = pool_layout(config, manifests, 1 if config.model.text.pretrained else None)
    corpora = [
        corpus_rows(config, plan, layout, reading.corpora, excluded)
        for plan, reading in zip(plans, readings, strict=True)
    ]
    if as_json:
        shared = {"parameters": parameters, "modalities": list(inputs.used), "not_used": dict(inputs.unused)}
        shared |= {"excluded": excluded} if excluded else {}
        print_json([_to_json(*each, shared) for each in zip(plans, readings, corpora, strict=True)])
        return 0
    rows = [describe(plan, config, parameters, inputs) + left_out_rows(excluded) for plan in plans]
    _print_columns([own + reading.rows() for own, reading in zip(rows, readings, strict=True)])
    for caution in dict.fromkeys(caution for manifest in manifests.values() for caution in manifest.cautions):
        say(f"caution: {caution}", sys.stdout)
    _print_corpora(corpora[0], worlds)
    for note in (*held_out_notes(layout, manifests), *left_out.notes, *pool_notes(config, first)):
        say(f"note: {note}", sys.stdout)
    return 0


def _print_columns(columns: Sequence[Sequence[tuple[str, str]]]) -> None:
    """Print the rows of each world size, which have the same labels."""
    from ivr_dist.display.tables import print_rows, print_table

    if len(columns) == 1:
        print_rows(columns[0], sys.stdout)
        return
    lines = [(rows[0][0], *(value for _, value in rows)) for rows in zip(*columns, strict=True)]
    # Values that do not depend on the workers are printed once, so that the table fits a terminal.
    print_rows([(label, values[0]) for label, *values in lines[1:] if len(set(values)) == 1], sys.stdout)
    print_table(lines[0], [line for line in lines[1:] if len(set(line[1:])) > 1], sys.stdout)


def _print_corpora(rows: Sequence[CorpusRow], worlds: Sequence[int]) -> None:
    """Print the mix of a pool, with the padding at the first world size."""
    from ivr_dist.display.tables import print_table
    from ivr_dist.planning.pool_table import CorpusRow

    if not rows:
        return
    header: tuple[str, ...] = CorpusRow.header
    if len(worlds) > 1:
        workers = f"{worlds[0]} worker{'s' if worlds[0] > 1 else ''}"
        header = tuple(f"{name}, {workers}" if name == "padding" else name for name in header)
    print_table(header, [row.cells() for row in rows], sys.stdout, text=("heads",))


def _to_json(plan: Plan, reading: Forecast, corpora: Sequence[CorpusRow], shared: dict[str, Any]) -> dict[str, Any]:
    """Convert a plan to JSON values; of a pool without the shards of its corpora."""
    content = {**asdict(replace(plan, pool=None)), **shared, "reading": reading.to_json()}
    if plan.pool is None:
        del content["pool"]
        return content
    phases = [{"first_step": phase.first_step, "quotas": dict(phase.quotas)} for phase in plan.pool.phases]
    return {**content, "pool": {"phases": phases}, "corpora": [row.to_json() for row in corpora]}
