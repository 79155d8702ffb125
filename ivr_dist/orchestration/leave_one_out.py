"""Leave-one-out: trains a pool once without each of its corpora, and scores that corpus by the others' head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TextIO

from ivr_dist import storage
from ivr_dist.config import Config
from ivr_dist.config.corpora import trained
from ivr_dist.config.loading import Loaded
from ivr_dist.display.plain_output import say
from ivr_dist.errors import ConfigError, raise_together
from ivr_dist.evaluation.pool_metrics import HELD_OUT
from ivr_dist.orchestration.pool_preflight import caught
from ivr_dist.orchestration.preflight import absolute, preflight
from ivr_dist.orchestration.successive_runs import PlannedRun, train_each
from ivr_dist.planning.pool_layout import PoolLayout, pool_layout
from ivr_dist.run.paths import RunPaths


def train_without_each(
    path: str, overrides: Sequence[str], loaded: Loaded, stream: TextIO, *, debug: bool = False
) -> tuple[int, dict[str, Any] | None]:
    """Train the pool without each corpus whose head another one shares, in `run.dir/without-NAME`.

    Each is a run like any other: a complete one is not trained again, an interrupted one is continued. All configs are
    checked before the first one is trained.

    Args:
        path: The config file.
        overrides: Overrides of the file.
        loaded: The config of file and overrides.
        stream: Destination of the output of each run.
        debug: Print what Ray and the workers print.

    Returns:
        The exit code (0, or that of the first run that did not finish), and the content of `leave_one_out.json`: by
        corpus and split its scores, and the corpora that share no head; None if a run did not finish.

    Raises:
        UserError: The config or the data cannot work, or no two corpora share a head.
    """
    config = absolute(loaded.config)
    names, alone = _check(config, loaded)
    run_dir = loaded.config.run.dir
    if alone:
        say(f"not left out, because no other corpus shares their heads: {', '.join(alone)}", stream, flush=True)
    runs = [PlannedRun(f"without {name}", RunPaths(run_dir).run_without(name), [_held_out(name)]) for name in names]
    code, results = train_each(path, overrides, runs, stream, debug=debug)
    if results is None:
        return code, None
    scores = {
        name: {split: _own(metrics, name) for split, metrics in result["metrics"].items()}
        for name, result in zip(names, results, strict=True)
    }
    summary = {"corpora": scores, "share_no_head": alone}
    storage.write_json(RunPaths(run_dir).leave_one_out_summary, summary)
    return 0, summary


def sharing_corpora(layout: PoolLayout) -> tuple[list[str], list[str]]:
    """Divide the trained corpora into those of which another one shares a head, and the others."""
    own = {corpus.name: set(corpus.heads.values()) for corpus in layout.corpora if not corpus.held_out}
    shared = [
        name for name, heads in own.items() if any(heads & others for other, others in own.items() if other != name)
    ]
    return shared, [name for name in own if name not in shared]


def _held_out(name: str) -> str:
    return f'data.corpora.{name}.train=""'


def _check(config: Config, loaded: Loaded) -> tuple[list[str], list[str]]:
    """Check the whole pool and each one without a corpus; return the corpora to leave out, and those that cannot be."""
    worlds = config.run.world_sizes
    if len(trained(config)) < 2:
        raise ConfigError(
            "--leave-one-out needs a pool of two corpora or more",
            where="data.corpora",
            remedy="name several corpora with a training split",
        )
    _, manifests = preflight(config, worlds[-1], loaded, worlds[:-1])
    names, alone = sharing_corpora(pool_layout(config, manifests, 1 if config.model.text.pretrained else None))
    if not names:
        raise ConfigError(
            "no two corpora share a head, so none can score another",
            where="data.corpora",
            remedy="give tasks of the same form one head, such as heads: {polarity: sentiment}",
        )
    errors = []
    for name in names:
        entry = config.data.corpora[name]
        assert entry is not None, "null entries are resolved"
        corpora = {**config.data.corpora, name: replace(entry, train="")}
        without = replace(config, data=replace(config.data, corpora=corpora))
        errors += caught(preflight, without, worlds[-1], loaded, worlds[:-1])
    raise_together(errors, loaded.path)
    return names, alone


def _own(metrics: Mapping[str, float | None], name: str) -> dict[str, float | None]:
    """The scores of a corpus that is held out, by metric."""
    prefix = f"{HELD_OUT}/{name}/"
    return {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}
