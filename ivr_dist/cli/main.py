"""The command line: parses arguments, calls one function, turns errors into one line and an exit code."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ivr_dist import __version__
from ivr_dist.cli import data_commands, run_commands
from ivr_dist.cli.options import EXIT_FAILED, AsJson, Debug
from ivr_dist.cli.options import examples as _examples
from ivr_dist.cli.standard_streams import lasting_streams
from ivr_dist.common.library_errors import describe, explained, named, remedy_for
from ivr_dist.errors import IvrError, StorageError, UserError
from ivr_dist.sanitize import hide_secrets, say, say_lines

if TYPE_CHECKING:
    from ivr_dist.config.loading import Loaded
    from ivr_dist.packing.pack import PackSummary

EXIT_INTERRUPTED = 130
_LEAVE_SOMETHING = ("train", "pack", "index", "synth", "stop", "reshape", "import-release", "submit")
"""Commands whose work is in storage or on a cluster: where nothing of what they print can be written, it counts."""

app = typer.Typer(
    name="ivr-dist",
    help="Train invariant-representation fusion models with sequential variation regularization on a Ray cluster.",
    epilog=_examples(
        "ivr-dist synth --out data/quickstart",
        "ivr-dist train configs/quickstart.yaml",
        "ivr-dist train configs/quickstart.yaml train.lr=3e-4 --num-workers 4",
        "ivr-dist plan configs/quickstart.yaml --world-sizes 1,2,8,64",
        "ivr-dist pack corpora/mosi --card mosi_words --out s3://bucket/mosi",
        "ivr-dist verify s3://bucket/mosi --card mosi_words",
        "ivr-dist inspect s3://bucket/mosi --html mosi.html",
        "ivr-dist evaluate runs/quickstart/checkpoints/step-00000310.a01",
        "ivr-dist status runs/quickstart",
        "ivr-dist audit runs/quickstart",
        "ivr-dist doctor",
        "ivr-dist parity golden.npz",
        "ivr-dist import-release release.std --out checkpoints/release",
        "ivr-dist submit configs/quickstart.yaml --address http://127.0.0.1:8265",
    )
    + "\n\n\b\nExit codes: 0 done, 1 failed, 2 the command or config is wrong, 130 Ctrl-C, 143 stopped.",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file; configs/ has examples.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Config keys set here.")]
NumWorkers = Annotated[int | None, typer.Option("--num-workers", min=0, help="Same as run.num_workers=N.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Processes at a time; default: one a processor.")]
OnRay = Annotated[bool, typer.Option("--ray", help="Use the cluster that RAY_ADDRESS names instead.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(
    epilog=_examples(
        "ivr-dist train configs/quickstart.yaml",
        "ivr-dist train configs/quickstart.yaml run.dir=runs/wide model.hidden=256 --num-workers 4",
        "ivr-dist train configs/mosi_words.yaml --seeds 0,1,2",
    )
)
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    num_workers: NumWorkers = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and print the plan.")] = False,
    seeds: Annotated[
        str, typer.Option(help="Train once with each, as 0,1,2, below run.dir; then mean and deviation.")
    ] = "",
    resume: Annotated[
        str | None, typer.Option(help="auto: continue the newest complete checkpoint; never; or a checkpoint's path.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Train and evaluate; continue a run that has begun.

    Workers run on the cluster that RAY_ADDRESS names, or on this machine.
    """
    from ivr_dist.cli import model_commands
    from ivr_dist.config.loading import load
    from ivr_dist.orchestration.preflight import further_faults

    given = _all_overrides(overrides, num_workers, resume)
    loaded = load(config, given, further_faults)
    if dry_run:
        return _show_plans(loaded, loaded.config.run.world_sizes, as_json)
    if seeds:
        from ivr_dist.orchestration.multi_seed import parse_seeds, train_seeds

        return train_seeds(config, given, parse_seeds(seeds), loaded, json_output=as_json, debug=debug)
    return model_commands.train(loaded, as_json=as_json, debug=debug)


@app.command(epilog=_examples("ivr-dist plan configs/quickstart.yaml --world-sizes 1,2,8,64"))
def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    world_sizes: Annotated[str, typer.Option(help="Numbers of workers, separated by commas.")] = "",
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Show how a run would be split over workers.

    Starts nothing.
    """
    from ivr_dist.config.loading import load
    from ivr_dist.orchestration.preflight import further_faults

    loaded = load(config, overrides or (), further_faults)
    worlds = _parse_worlds(world_sizes) if world_sizes else loaded.config.run.world_sizes
    return _show_plans(loaded, worlds, as_json)


@app.command(epilog=_examples("ivr-dist pack corpora/mosi --card mosi_words --out s3://bucket/mosi"))
def pack(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Folder or URL with the corpus' own files.")],
    card: Annotated[str, typer.Option(help="Name of a known corpus, or path of a card; see shards/.")],
    out: Annotated[str, typer.Option(help="Folder or URL to pack into; each split gets a folder below it.")],
    seed: Annotated[int, typer.Option(help="Seed of the order in the shards.")] = 0,
    shard_samples: Annotated[
        int | None, typer.Option(min=1, help="Samples of a shard; default: those of about 64 MiB.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is packed there already.")] = False,
    jobs: Jobs = None,
    ray: OnRay = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Pack a corpus into shards for training.

    A command that was broken off goes on from what it has written when it is given again.
    """
    from ivr_dist.corpora.card import find_card
    from ivr_dist.orchestration.packing_jobs import Where, pack_card
    from ivr_dist.packing.pack import PackOptions

    options = PackOptions(shard_samples=shard_samples, seed=seed, overwrite=overwrite)
    return _show_packed(pack_card(source, find_card(card), out, options, Where(jobs, ray, debug)), as_json)


@app.command(
    epilog=_examples("ivr-dist index s3://bucket/corpus/train s3://bucket/corpus/valid --corpus mycorpus --scale mosi")
)
def index(
    splits: Annotated[list[str], typer.Argument(metavar="URL", help="Folders of tars, one for each split.")],
    corpus: Annotated[str, typer.Option(help="Name of the corpus, in metrics and logs.")],
    scale: Annotated[str, typer.Option(help="Metric conventions: mosi, sims, humor, emotion or none.")] = "none",
    jobs: Jobs = None,
    ray: OnRay = False,
    debug: Debug = False,
) -> int:
    """Index WebDataset tars made elsewhere.

    The last part of each URL is the split's name: train, valid or test.
    """
    from typing import cast, get_args

    from ivr_dist import storage
    from ivr_dist.orchestration.packing_jobs import Where, index_splits
    from ivr_dist.shards.specs import Scale

    known = get_args(Scale)
    if scale not in known:
        raise UserError(f"--scale {scale} is not known", remedy=f"use one of {', '.join(known)}")
    indexed, notes = index_splits(splits, corpus, cast(Scale, scale), Where(jobs, ray, debug))
    for note in notes:
        say(f"note: {note}", sys.stderr)
    for url, manifest in indexed.items():
        say(f"{storage.display(url)}: {manifest.samples} samples in {len(manifest.shards)} shards")
    return 0


app.command(epilog=data_commands.VERIFY_EXAMPLES)(data_commands.verify)
app.command(epilog=data_commands.INSPECT_EXAMPLES)(data_commands.inspect)


@app.command(epilog=_examples("ivr-dist synth --out data/quickstart --samples 2000"))
def synth(
    out: Annotated[str, typer.Option(help="Folder or URL to pack into.")],
    samples: Annotated[int, typer.Option(help="Samples over all splits.")] = 2000,
    seed: Annotated[int, typer.Option(help="Another seed makes another corpus.")] = 0,
    text: Annotated[str, typer.Option(help="Text as features (vectors) or tokens (word numbers).")] = "features",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is packed there already.")] = False,
    jobs: Jobs = None,
    ray: OnRay = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Make and pack a synthetic corpus."""
    from typing import cast

    from ivr_dist.corpora.synthetic import TextKind
    from ivr_dist.orchestration.packing_jobs import Where, pack_synth
    from ivr_dist.packing.pack import PackOptions

    options = PackOptions(seed=seed, overwrite=overwrite)
    summary = pack_synth(samples, seed, cast(TextKind, text), out, options, Where(jobs, ray, debug))
    return _show_packed(summary, as_json, show_gaps=False)


@app.command(
    epilog=_examples(
        "ivr-dist evaluate runs/quickstart/checkpoints/step-00000310.a01",
        "ivr-dist evaluate CHECKPOINT --shards s3://bucket/sims/test --json",
    )
)
def evaluate(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Path or URL of a checkpoint.")],
    shards: Annotated[str | None, typer.Option(help="Packed split to score; default: the run's own split.")] = None,
    split: Annotated[str, typer.Option(help="Which of the run's splits: train, valid, test.")] = "test",
    num_workers: NumWorkers = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Score a checkpoint on a split, each sample once."""
    from ivr_dist.cli import model_commands

    return model_commands.evaluate(checkpoint, shards, split, num_workers, as_json=as_json)


app.command(epilog=run_commands.AUDIT_EXAMPLES)(run_commands.audit)
app.command(epilog=run_commands.STATUS_EXAMPLES)(run_commands.status)
app.command(epilog=run_commands.STOP_EXAMPLES)(run_commands.stop)
app.command(epilog=run_commands.RESHAPE_EXAMPLES)(run_commands.reshape)
app.command(epilog=run_commands.DOCTOR_EXAMPLES)(run_commands.doctor)


@app.command(
    epilog=_examples("ivr-dist submit configs/quickstart.yaml --address http://head:8265 run.dir=s3://bucket/runs/1")
)
def submit(
    config: ConfigFile,
    overrides: Overrides = None,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's Jobs API.")
    ] = "http://127.0.0.1:8265",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return once the job is accepted.")] = False,
    debug: Debug = False,
) -> int:
    """Train as a job on a Ray cluster.

    Shows the job's output and returns its exit code; Ctrl-C stops the job.
    """
    from ivr_dist.orchestration.submit import submit as submit_job

    return submit_job(config, overrides or (), address=address, wait=not no_wait)


@app.command(epilog=_examples("ivr-dist parity golden.npz"))
def parity(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A .npz that the released code made; see docs/method.md.")
    ],
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Compare preset release with the released code.

    Prints the relative error of prediction, codes, losses and gradients; the exit code is 1 if one is above 1e-5.
    """
    from ivr_dist.display.tables import print_table
    from ivr_dist.parity.golden import TOLERANCE
    from ivr_dist.parity.golden import parity as compare

    report = compare(file)
    stream = sys.stderr if as_json else sys.stdout
    print_table(("quantity", "relative error", ""), report.rows(), stream)
    say(f"{', '.join(f'{name} {size}' for name, size in report.sizes.items())}", stream)
    worst, bound = report.worst(), f"{TOLERANCE:g}"
    verdict = f"all are within {bound}" if report.ok else f"NOT within {bound}"
    say(f"{verdict}; the largest is {worst.error:.2e} of {worst.name}", stream)
    if not report.ok:
        import torch

        exact = compare(file, torch.float64).worst()
        say(f"in float64 the largest is {exact.error:.2e} of {exact.name}; see docs/method.md", stream)
    if as_json:
        print(json.dumps(report.to_json()))
    return 0 if report.ok else EXIT_FAILED


@app.command("import-release", epilog=_examples("ivr-dist import-release release.std --out checkpoints/release"))
def import_release(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A state dict that the released code wrote.")],
    out: Annotated[str, typer.Option(help="Folder or URL of the checkpoint that is made.")],
    shards: Annotated[str | None, typer.Option(help="Packed split the model is for; default: MOSI's task.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Make a checkpoint from the released code's weights.

    `ivr-dist evaluate` scores it on shards whose text features are those of its language model.
    """
    from dataclasses import asdict

    from ivr_dist.display.tables import print_rows
    from ivr_dist.parity.import_weights import import_release as convert

    found = convert(file, out, shards)
    print_rows(found.rows(), sys.stderr if as_json else sys.stdout)
    if as_json:
        print(json.dumps(asdict(found)))
    return 0


def _show_packed(summary: PackSummary, as_json: bool, *, show_gaps: bool = True) -> int:
    from dataclasses import asdict

    from ivr_dist.display.tables import print_table
    from ivr_dist.units import format_bytes

    if as_json:
        print(json.dumps(asdict(summary)))
        return 0
    rows = [(s.split, str(s.samples), str(s.shards), format_bytes(s.bytes), s.status, s.url) for s in summary.splits]
    print_table((summary.corpus, "samples", "shards", "size", "", "place"), rows, sys.stdout)
    if show_gaps:
        for split in summary.splits:
            for warning in split.warnings:
                say(f"{split.split}: {warning}", sys.stderr)
        for warning in summary.warnings:
            say(warning, sys.stderr)
    return 0


def _all_overrides(overrides: Sequence[str] | None, num_workers: int | None, resume: str | None) -> list[str]:
    from ivr_dist.config.loading import override

    workers = [] if num_workers is None else [f"run.num_workers={num_workers}"]
    return [*(overrides or ()), *workers, *([] if resume is None else [override("run.resume", resume)])]


def _parse_worlds(text: str) -> list[int]:
    try:
        worlds = [int(part) for part in text.split(",")]
    except ValueError:
        worlds = [0]
    if min(worlds) < 1:
        raise UserError(f"--world-sizes {text} is not a list of worker numbers", remedy="write it like 1,2,8")
    return worlds


def _show_plans(loaded: Loaded, worlds: Sequence[int], as_json: bool) -> int:
    """Print one column a world size."""
    from dataclasses import asdict

    from ivr_dist.data.read_forecast import forecasts
    from ivr_dist.display.tables import print_rows, print_table
    from ivr_dist.orchestration.preflight import count_parameters, preflight
    from ivr_dist.planning.model_inputs import reading
    from ivr_dist.planning.plan import describe, make_plan

    config = loaded.config
    first, manifests = preflight(config, worlds[0], loaded)
    train = manifests["train"]
    read = reading(config, train)
    plans = [first, *(make_plan(config, train.samples, world, train.total_bytes) for world in worlds[1:])]
    parameters = count_parameters(config, manifests["train"])
    both = list(zip(plans, forecasts(config, train, plans), strict=True))
    if as_json:
        known = {"parameters": parameters, "modalities": list(read.used), "not_used": dict(read.unused)}
        print(json.dumps([{**asdict(made), **known, "reading": asdict(each)} for made, each in both]))
        return 0
    columns = [describe(made, config, parameters, read) + each.rows() for made, each in both]
    if len(plans) == 1:
        print_rows(columns[0], sys.stdout)
    else:
        lines = [(rows[0][0], *(value for _, value in rows)) for rows in zip(*columns, strict=True)]
        print_table(lines[0], lines[1:], sys.stdout)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: What comes after the program's name; `sys.argv[1:]` by default.

    Returns:
        The exit code: 0, 1 failed, 2 the user's mistake, 130 Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    with lasting_streams() as out:
        code = _run(given)
        sys.stdout.flush()
        if out is not None and out.error is not None:
            text = f"stdout could not be written: {describe(out.error)}"
            only_report = given[0] in _LEAVE_SOMETHING and "--json" not in given
            return _fail(StorageError(text, remedy=remedy_for(out.error)), code if only_report else code or EXIT_FAILED)
        return code


def _run(given: Sequence[str]) -> int:
    try:
        return int(app(given, prog_name="ivr-dist", standalone_mode=False) or 0)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "ivr-dist"
        return _fail(UserError(error.format_message().rstrip("."), remedy=f"see {command} --help"), error.exit_code)
    except IvrError as error:
        _show_traceback(given)
        return _fail(error, error.exit_code)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        _show_traceback(given)
        found = explained(error)
        if found is None:
            found = IvrError(f"internal error: {named(error)}", remedy="run again with --debug for the traceback")
        return _fail(found, found.exit_code)


def _show_traceback(given: Sequence[str]) -> None:
    if "--debug" in given:
        say_lines(hide_secrets(traceback.format_exc()).rstrip("\n"), sys.stderr)


def _fail(error: IvrError, code: int) -> int:
    say_lines(f"error: {error}", sys.stderr)
    return code
