"""Commands that make and examine packed data: pack, index, synth, verify, inspect."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from ivr_dist.cli.options import EXIT_FAILED, AsJson, Debug, Jobs, OnRay, Overwrite, Section, TrustCode, print_json
from ivr_dist.display.plain_output import say
from ivr_dist.errors import UserError

if TYPE_CHECKING:
    from ivr_dist.packing.pack import PackSummary

SECTION = Section("Data")


@SECTION.command("ivr-dist pack corpora/mosi --card mosi_words --out s3://bucket/mosi")
def pack(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Folder or URL of the corpus' own files.")],
    card: Annotated[str, typer.Option(metavar="CARD", help="Name of a known corpus, or path of a card; see shards/.")],
    out: Annotated[str, typer.Option(metavar="URL", help="Folder or URL to write to; each split gets a folder in it.")],
    seed: Annotated[int, typer.Option(metavar="N", help="Seed that shuffles the samples into shards.")] = 0,
    shard_samples: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Samples per shard; default: as many as make about 64 MiB.")
    ] = None,
    overwrite: Overwrite = False,
    jobs: Jobs = None,
    ray: OnRay = False,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Convert a corpus into WebDataset shards for training.

    An interrupted command continues from the shards it has written.
    """
    from ivr_dist.corpora.card import find_card
    from ivr_dist.orchestration.packing_jobs import Where, pack_card
    from ivr_dist.packing.pack import PackOptions

    options = PackOptions(shard_samples=shard_samples, seed=seed, overwrite=overwrite)
    where = Where(jobs, ray, debug)
    return _print_packed(pack_card(source, find_card(card), out, options, where, trust_code=trust_code), as_json)


@SECTION.command("ivr-dist index s3://bucket/corpus/train s3://bucket/corpus/valid --corpus mycorpus --scale mosi")
def index(
    splits: Annotated[list[str], typer.Argument(metavar="URL", help="Folders of tar files, one per split.")],
    corpus: Annotated[str, typer.Option(metavar="NAME", help="Name of the corpus, in metrics and logs.")],
    scale: Annotated[
        str, typer.Option(metavar="SCALE", help="Label scale of the metrics: mosi, sims, humor, emotion or none.")
    ] = "none",
    jobs: Jobs = None,
    ray: OnRay = False,
    debug: Debug = False,
) -> int:
    """Index existing WebDataset shards for training.

    Writes an index per shard and a manifest beside them. The last part of each URL names the split: train, valid or
    test.
    """
    from ivr_dist import storage
    from ivr_dist.orchestration.packing_jobs import Where, index_splits
    from ivr_dist.shards.specs import Scale

    scales = get_args(Scale)
    if scale not in scales:
        raise UserError(f"--scale {scale} does not exist", remedy=f"use one of {', '.join(scales)}")
    indexed, notes = index_splits(splits, corpus, cast(Scale, scale), Where(jobs, ray, debug))
    for note in notes:
        say(f"note: {note}", sys.stderr)
    for url, manifest in indexed.items():
        say(f"{storage.display(url)}: {manifest.samples} samples in {len(manifest.shards)} shards")
    return 0


@SECTION.command("ivr-dist synth --out data/quickstart --samples 2000")
def synth(
    out: Annotated[str, typer.Option(metavar="URL", help="Folder or URL to write to; each split gets a folder in it.")],
    samples: Annotated[int, typer.Option(metavar="N", help="Number of samples in all splits together.")] = 2000,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Random seed of the corpus and of its order in the shards.")
    ] = 0,
    text: Annotated[
        str, typer.Option(metavar="features|tokens", help="Text as feature vectors or as token ids.")
    ] = "features",
    overwrite: Overwrite = False,
    jobs: Jobs = None,
    ray: OnRay = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Generate a synthetic corpus as shards."""
    from ivr_dist.corpora.synthetic import TextKind
    from ivr_dist.orchestration.packing_jobs import Where, pack_synth
    from ivr_dist.packing.pack import PackOptions

    options = PackOptions(seed=seed, overwrite=overwrite)
    summary = pack_synth(samples, seed, cast(TextKind, text), out, options, Where(jobs, ray, debug))
    return _print_packed(summary, as_json, with_warnings=False)


@SECTION.command(
    "ivr-dist verify s3://bucket/mosi --card mosi_words",
    "ivr-dist verify data/mosi data/mosei data/sims/train --json",
)
def verify(
    urls: Annotated[list[str], typer.Argument(metavar="URL", help="Packed splits, or folders of splits.")],
    card: Annotated[
        str | None, typer.Option(metavar="CARD", help="Card that the corpus must match: a known corpus, or a path.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Check packed data and list every problem.

    Reads all of it: sizes, checksums, indexes, layout and values of each sample, labels, counts, duplicate ids,
    leakage (videos in two splits), sample hashes, and files that do not belong there. Counts ids, groups and texts
    that training splits and other splits share, also of several corpora, and warns where a pool of them would leak.
    The exit code is 1 if there is a problem.
    """
    from ivr_dist.corpora.card import find_card
    from ivr_dist.display.data_tables import print_verification
    from ivr_dist.display.progress import bars
    from ivr_dist.inspection.verify import verify as verify_splits

    expected = None if card is None else find_card(card)
    with bars() as progress:
        result = verify_splits(urls, expected, progress)
    print_verification(result, sys.stderr if as_json else sys.stdout)
    if as_json:
        print_json(result.to_json())
    return 0 if result.ok else EXIT_FAILED


@SECTION.command(
    "ivr-dist inspect data/mosi",
    "ivr-dist inspect s3://bucket/mosi/train --html mosi.html",
    "ivr-dist inspect data/mosi 03bSnISJMiM_1",
)
def inspect(
    url: Annotated[str, typer.Argument(metavar="URL", help="A packed split, or a folder of splits.")],
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="Id of a sample: show only this sample.")] = None,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write an HTML report with charts.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Read the values of all samples.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Profile packed data, or show one sample.

    Splits, labels, lengths, missing modalities, features and their ranges, transcripts, provenance. Counts and lengths
    cover all samples; values are read from 128 segments per split, about 128 MiB, unless --full is given.
    """
    from ivr_dist.shards.splits import find_splits

    split_urls = find_splits(url)
    if key is not None:
        return _inspect_sample(split_urls, key, html, as_json)
    from ivr_dist import storage
    from ivr_dist.display.data_tables import print_profile
    from ivr_dist.display.progress import bars
    from ivr_dist.inspection.profile import profile

    with bars() as progress:
        splits = profile(split_urls, full, progress)
    print_profile(splits, sys.stderr if as_json else sys.stdout)
    if html is not None:
        from ivr_dist.display.html_page import render_page

        storage.write_bytes(storage.absolute(html), render_page(splits).encode("utf-8", "replace"))
        say(f"report: {storage.display(html)}", sys.stderr)
    if as_json:
        print_json({"splits": [split.to_json() for split in splits]})
    return 0


def _inspect_sample(split_urls: Sequence[str], key: str, html: str | None, as_json: bool) -> int:
    from ivr_dist.display.data_tables import print_sample
    from ivr_dist.inspection.find_sample import find_sample

    if html is not None:
        raise UserError("--html is a report of splits, not of one sample", remedy="leave out KEY or --html")
    sample = find_sample(split_urls, key)
    print_sample(sample, sys.stderr if as_json else sys.stdout)
    if as_json:
        print_json(sample.to_json())
    return 0


def _print_packed(summary: PackSummary, as_json: bool, *, with_warnings: bool = True) -> int:
    from dataclasses import asdict

    from ivr_dist.display.tables import print_table
    from ivr_dist.units import format_bytes

    if as_json:
        print_json(asdict(summary))
        return 0
    rows = [(s.split, str(s.samples), str(s.shards), format_bytes(s.bytes), s.status, s.url) for s in summary.splits]
    header = (summary.corpus, "samples", "shards", "size", "status", "URL")
    print_table(header, rows, sys.stdout, text=("status", "URL"))
    if with_warnings:
        for split in summary.splits:
            for warning in split.warnings:
                say(f"{split.split}: {warning}", sys.stderr)
        for warning in summary.warnings:
            say(warning, sys.stderr)
    return 0
