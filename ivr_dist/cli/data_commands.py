"""Commands that make and examine packed data: card, pack, index, synth, verify, inspect."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from ivr_dist.cli.options import EXIT_FAILED, AsJson, Debug, Jobs, OnRay, Overwrite, Section, TrustCode, print_json
from ivr_dist.display.plain_output import say
from ivr_dist.errors import UserError

if TYPE_CHECKING:
    from ivr_dist.packing.pack import PackSummary

SECTION = Section("Data")


@SECTION.command(
    "ivr-dist card labels.csv --audio 'audio/{clip_id}.npy' --label sentiment --group video --out films.yaml",
    "ivr-dist card labels.csv --label sentiment --group video --split-shares 70,10,20",
)
def card(
    table: Annotated[str, typer.Argument(metavar="FILE", help="Table with one sample a row: .csv, .tsv or .jsonl.")],
    audio: Annotated[
        str | None, typer.Option(metavar="TEMPLATE", help="Path of a row's .npy file, such as 'audio/{clip_id}.npy'.")
    ] = None,
    vision: Annotated[str | None, typer.Option(metavar="TEMPLATE", help="The same for vision.")] = None,
    text: Annotated[
        str | None, typer.Option(metavar="TEMPLATE", help="The same for text; default: made from the transcript.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Column of a label; may be given several times.")
    ] = None,
    id: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the id, or a template such as '{video}_{clip}'.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of what stays in one split (video); '' for none.")
    ] = None,
    transcript: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the transcript; '' for none.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column with train, valid (or dev) and test.")
    ] = None,
    split_shares: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Shares of train, valid, test instead; groups stay whole.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the splits by shares.")] = 0,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the corpus; default: that of --out or of FILE.")
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="CARD", help="File to write; default: NAME.yaml.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    debug: Debug = False,
) -> int:
    """Write a card for a table of your own by looking at it.

    What is not given is guessed from the names and values of the columns, and said. Paths of files are relative to the
    folder of FILE.
    """
    from ivr_dist.corpora.card_writer import parse_shares, write_card
    from ivr_dist.corpora.table_survey import Wishes

    paths = {"text": text, "audio": audio, "vision": vision}
    wishes = Wishes(
        id=id,
        group=group,
        transcript=transcript,
        split=split,
        labels=label or (),
        paths={modality: template for modality, template in paths.items() if template},
        shares=None if split_shares is None else parse_shares(split_shares),
        seed=seed,
    )
    for line in write_card(table, wishes, name=name, out=out, overwrite=overwrite):
        # The last lines hold a path and a command to copy.
        whole = line.startswith(("wrote ", "next: "))
        for part in [line] if whole else textwrap.wrap(line, 79, subsequent_indent="  ", break_on_hyphens=False):
            say(part)
    return 0


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
    from ivr_dist.packing.next_command import next_command
    from ivr_dist.packing.pack import PackOptions

    options = PackOptions(shard_samples=shard_samples, seed=seed, overwrite=overwrite)
    where = Where(jobs, ray, debug)
    summary = pack_card(source, find_card(card), out, options, where, trust_code=trust_code)
    _print_packed(summary, as_json)
    if not as_json:
        say(f"next: {next_command(summary, out)}")
    return 0


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
    dims: Annotated[
        str, typer.Option(metavar="LIST", help="Features of a time step by modality; others are left out.")
    ] = "text=32,audio=12,vision=8",
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the corpus.")] = "synth",
    task: Annotated[
        str, typer.Option(metavar="sentiment|mood", help="A regression in [-3, 3], or its three classes.")
    ] = "sentiment",
    overwrite: Overwrite = False,
    jobs: Jobs = None,
    ray: OnRay = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Generate a synthetic corpus as shards."""
    from ivr_dist.orchestration.packing_jobs import SynthCorpus, Where, pack_synth
    from ivr_dist.packing.pack import PackOptions

    options = PackOptions(seed=seed, overwrite=overwrite)
    corpus = SynthCorpus(samples, seed, text=text, dims=_parse_dims(dims), name=name, task=task)
    summary = pack_synth(corpus, out, options, Where(jobs, ray, debug))
    return _print_packed(summary, as_json, with_warnings=False)


def _parse_dims(text: str) -> dict[str, int]:
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {modality.strip(): int(width) for modality, width in pairs}
    except ValueError:
        raise UserError(f"--dims {text} is not a list of widths", remedy="write it as text=32,audio=12") from None


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
