"""Train a config with several seeds and print mean and standard deviation of every metric.

    python benchmarks/seeds.py configs/mosi_words.yaml --seeds 0,1,2 [key=value ...]

Each seed is a run of its own, RUN_DIR/seed-N; what is there is not trained again. `--json` ends with one JSON object on
the last line of stdout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

from ivr_dist import storage
from ivr_dist.config_file import load_config
from ivr_dist.report import print_table


def main() -> int:
    """Parse, train, summarise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_intermixed_args()
    run_dir = load_config(options.config, options.overrides).run.dir
    results = [
        _train(
            options.config, [*options.overrides, f"run.seed={seed}", f"run.dir={storage.join(run_dir, 'seed-' + seed)}"]
        )
        for seed in options.seeds.split(",")
    ]
    summary = summarise([result["metrics"] for result in results])
    rows = [
        (f"{split} {name}", f"{cell['mean']:.4f}", f"{cell['std']:.4f}", "  ".join(f"{v:.4f}" for v in cell["values"]))
        for split, metrics in summary.items()
        for name, cell in metrics.items()
    ]
    print_table(("metric", "mean", "std", "by seed"), rows, sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps({"config": options.config, "seeds": options.seeds.split(","), "metrics": summary}))
    return 0


def _train(config: str, overrides: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "ivr_dist", "train", config, *overrides, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def summarise(runs: list[dict[str, dict[str, float | None]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean and sample standard deviation over the runs, by split and metric; a metric must have a value in each."""
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for split, metrics in runs[0].items():
        summary[split] = {}
        for name in metrics:
            values = [value for run in runs if (value := run[split][name]) is not None]
            if len(values) == len(runs):
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                summary[split][name] = {"mean": statistics.mean(values), "std": spread, "values": values}
    return summary


if __name__ == "__main__":
    sys.exit(main())
