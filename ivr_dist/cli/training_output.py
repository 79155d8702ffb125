"""Output of `ivr-dist train` and `ivr-dist evaluate`, as tables or JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ivr_dist import storage
from ivr_dist.cli.options import print_json
from ivr_dist.display.plain_output import say
from ivr_dist.errors import UserError

if TYPE_CHECKING:
    from ivr_dist.config.loading import Loaded
    from ivr_dist.run.results import Result


def train(loaded: Loaded, *, as_json: bool = False, debug: bool = False) -> int:
    """Train, evaluate, and print the result.

    Args:
        loaded: The config and the origins of its values.
        as_json: End with one JSON object on stdout; everything else goes to stderr.
        debug: Print what Ray and the workers print.

    Returns:
        The exit code: 0 done, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.

    Raises:
        UserError: The config, the data or the content of the run directory cannot work; nothing was started.
        IvrError: The run failed.
    """
    from ivr_dist.display.console import LocalConsole
    from ivr_dist.display.tables import print_result, print_rows
    from ivr_dist.orchestration import driver
    from ivr_dist.run import goodput
    from ivr_dist.run.paths import RunPaths

    stream = sys.stderr if as_json else sys.stdout
    outcome = driver.train(
        loaded.config,
        LocalConsole(stream),
        loaded=loaded,
        debug=debug,
        on_plan=lambda rows: print_rows(rows, stream),
    )
    run = storage.display(outcome.run_url)
    if outcome.time_spent is not None:
        print_rows(goodput.rows(outcome.time_spent), stream)
    if outcome.by_stop_file:
        stop_file = storage.display(RunPaths(outcome.run_url).stop_file)
        say(f"stopped by {stop_file}; the same command continues this run", stream)
        if as_json:
            print_json(_json(driver.stopped_result(outcome.run_url)))
        return outcome.exit_code
    if outcome.result is None:
        say(f"stopped; the same command continues this run: {run}", stream)
        return outcome.exit_code
    if not outcome.result.trained:
        remedy = "choose another run.dir, or start over with run.resume=never"
        say(f"this run is complete already ({outcome.result.steps} steps); {remedy}", stream)
    print_result(outcome.result.to_record(), stream)
    if as_json and not outcome.exit_code:
        print_json(_json(outcome.result))
    return outcome.exit_code


def evaluate(
    checkpoint: str,
    shards: str | None,
    split: str,
    num_workers: int | None,
    *,
    as_json: bool = False,
    trust_code: bool = False,
    corpus: str = "",
    head: str = "",
    statistics: str = "",
) -> int:
    """Score a checkpoint on a packed split, and print its metrics.

    Args:
        checkpoint: Path or URL of a checkpoint, or of a run: the one that it selected, else its newest.
        shards: The packed split; None: the run's own.
        split: Which of the run's own splits.
        num_workers: Processes of this machine that share the work; None: one.
        as_json: Print one JSON object instead of a table.
        trust_code: Whether classes outside the package that the checkpoint names may be imported.
        corpus: The corpus of the model that the split is of; empty: the one that fits, or all of the run.
        head: Head that scores a corpus which the model has not seen.
        statistics: Training split of such a corpus, whose statistics standardize its features.

    Returns:
        The exit code.
    """
    from ivr_dist.data.exclusions import excluded_by_run_of
    from ivr_dist.display.tables import print_metrics
    from ivr_dist.evaluation.score_checkpoint import (
        metrics_of_own_code,
        score_checkpoint,
        score_own_splits,
        zero_shot_notes,
    )
    from ivr_dist.evaluation.split_predictions import Target
    from ivr_dist.inference.load import choose_checkpoint
    from ivr_dist.shards.manifest import Manifest

    url, chosen = choose_checkpoint(checkpoint)
    workers = num_workers or 1
    if chosen:
        say(f"note: {chosen}", sys.stderr)
    if shards is None:
        if head or statistics:
            raise UserError("--head and --statistics need --shards", remedy="name the packed split to score")
        metrics, scored = score_own_splits(url, split, workers, trust_code=trust_code, corpus=corpus)
    else:
        target = Target(corpus, head, storage.absolute(statistics) if statistics else "")
        scored = [storage.absolute(shards)]
        metrics = score_checkpoint(url, scored[0], workers, trust_code=trust_code, target=target)
        for note in zero_shot_notes(url, scored[0], target):
            say(f"note: {note}", sys.stderr)
    split_url = ", ".join(storage.display(each) for each in scored)
    left_out = [] if trust_code else metrics_of_own_code(url)
    if left_out:
        text = f"metrics outside the package are left out: {', '.join(left_out)}; --trust-code computes them"
        say(f"note: {text}", sys.stderr)
    if excluded := sum(len(excluded_by_run_of(url, Manifest.load(each).id)) for each in scored):
        say(f"note: {excluded} samples are not scored, because the run leaves them out", sys.stderr)
    if as_json:
        shown = {"checkpoint": storage.display(url), "shards": split_url, "metrics": metrics}
        print_json(shown | ({"excluded": excluded} if excluded else {}))
    else:
        print_metrics({split: metrics}, sys.stdout)
    return 0


def _json(result: Result) -> dict[str, Any]:
    return {**result.to_record(), "trained": result.trained, "loss": result.loss_curve}


def train_seeds(
    path: str, overrides: Sequence[str], seeds: str, loaded: Loaded, *, as_json: bool = False, debug: bool = False
) -> int:
    """Train once per seed, and print mean and standard deviation of the metrics.

    Args:
        path: The config file.
        overrides: Overrides of the file.
        seeds: The seeds, such as `0,1,2`.
        loaded: The config of file and overrides.
        as_json: End with one JSON object on stdout; everything else goes to stderr.
        debug: Print what Ray and the workers print.

    Returns:
        The exit code: 0, or that of the first seed that did not finish.

    Raises:
        UserError: As `orchestration.multi_seed.train_seeds`.
    """
    from ivr_dist.orchestration import multi_seed
    from ivr_dist.run.paths import RunPaths

    stream = sys.stderr if as_json else sys.stdout
    code, summary = multi_seed.train_seeds(path, overrides, multi_seed.parse_seeds(seeds), loaded, stream, debug=debug)
    if summary is not None:
        rows = [
            (f"{split} {name}", *map(_score, (cell["mean"], cell["std"], *cell["values"])))
            for split, metrics in summary["metrics"].items()
            for name, cell in metrics.items()
        ]
        header = ("metric", "mean", "std", *(f"seed {seed}" for seed in summary["seeds"]))
        _print_study(header, rows, summary, RunPaths(loaded.config.run.dir).seeds_summary, as_json)
    return code


def train_without_each(
    path: str, overrides: Sequence[str], loaded: Loaded, *, as_json: bool = False, debug: bool = False
) -> int:
    """Train a pool once without each corpus, and print how the others score it.

    Args:
        path: The config file.
        overrides: Overrides of the file.
        loaded: The config of file and overrides.
        as_json: End with one JSON object on stdout; everything else goes to stderr.
        debug: Print what Ray and the workers print.

    Returns:
        The exit code: 0, or that of the first run that did not finish.

    Raises:
        UserError: As `orchestration.leave_one_out.train_without_each`.
    """
    from ivr_dist.orchestration import leave_one_out
    from ivr_dist.run.paths import RunPaths

    stream = sys.stderr if as_json else sys.stdout
    code, summary = leave_one_out.train_without_each(path, overrides, loaded, stream, debug=debug)
    if summary is not None:
        corpora = summary["corpora"]
        # A corpus may lack a split, and tasks have different metrics.
        splits = list(dict.fromkeys(split for own in corpora.values() for split in own))
        rows = [
            (name, metric, *(_score(own.get(split, {}).get(metric)) for split in splits))
            for name, own in corpora.items()
            for metric in dict.fromkeys(metric for scores in own.values() for metric in scores)
        ]
        header = ("left out", "metric", *splits)
        _print_study(header, rows, summary, RunPaths(loaded.config.run.dir).leave_one_out_summary, as_json)
    return code


def _print_study(
    header: Sequence[str], rows: Sequence[Sequence[str]], summary: Mapping[str, Any], url: str, as_json: bool
) -> None:
    """Print the scores of several runs as a table, and where they are kept."""
    from ivr_dist.display.tables import print_rows, print_table

    stream = sys.stderr if as_json else sys.stdout
    print_table(header, rows, stream)
    print_rows([("summary", storage.display(url))], stream)
    if as_json:
        print_json(summary)


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
