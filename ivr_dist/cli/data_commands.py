"""Commands that look at packed data."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from ivr_dist.cli.options import EXIT_FAILED, AsJson, Debug, examples
from ivr_dist.sanitize import say

VERIFY_EXAMPLES = examples(
    "ivr-dist verify s3://bucket/mosi --card mosi_words",
    "ivr-dist verify data/mosi data/mosei data/sims/train --json",
)
INSPECT_EXAMPLES = examples(
    "ivr-dist inspect data/mosi",
    "ivr-dist inspect s3://bucket/mosi/train --html mosi.html",
    "ivr-dist inspect data/mosi 03bSnISJMiM_1",
)


def verify(
    urls: Annotated[list[str], typer.Argument(metavar="URL", help="Packed splits, or folders of splits.")],
    card: Annotated[str | None, typer.Option(help="What the corpus must be: a known corpus, or a card's path.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Check packed data and list every fault.

    Reads all of it: sizes, checksums, indexes, the layout and values of each sample, labels, counts, ids that are there
    twice, videos in two splits, files that do not belong. Warns of videos that several corpora have. The exit code is 1
    if there is a fault.
    """
    from ivr_dist.corpora.card import find_card
    from ivr_dist.display.data_tables import print_verification
    from ivr_dist.display.progress import bars
    from ivr_dist.inspection.verify import verify as check

    expected = None if card is None else find_card(card)
    with bars() as progress:
        found = check(urls, expected, progress)
    print_verification(found, sys.stderr if as_json else sys.stdout)
    if as_json:
        print(json.dumps(found.to_json()))
    return 0 if found.ok else EXIT_FAILED


def inspect(
    url: Annotated[str, typer.Argument(metavar="URL", help="A packed split, or a folder of splits.")],
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="Show this sample only.")] = None,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write a page with plots to this file.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Read the values of all samples.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Show what packed data holds, or one sample.

    Splits, labels, lengths, missing modalities, features and their ranges, transcripts, provenance. Counts and lengths
    are those of all samples; values are read from 128 segments a split, about 128 MiB, unless --full is given.
    """
    from ivr_dist.shards.splits import find_splits

    places = find_splits(url)
    if key is not None:
        return _inspect_sample(places, key, html, as_json)
    from ivr_dist import storage
    from ivr_dist.display.data_tables import print_profile
    from ivr_dist.display.html_page import render_page
    from ivr_dist.display.progress import bars
    from ivr_dist.inspection.profile import profile

    with bars() as progress:
        splits = profile(places, full, progress)
    print_profile(splits, sys.stderr if as_json else sys.stdout)
    if html is not None:
        storage.write_bytes(storage.absolute(html), render_page(splits).encode("utf-8", "replace"))
        say(f"report: {storage.display(html)}", sys.stderr)
    if as_json:
        print(json.dumps({"splits": [split.to_json() for split in splits]}))
    return 0


def _inspect_sample(places: list[str], key: str, html: str | None, as_json: bool) -> int:
    from ivr_dist.display.data_tables import print_sample
    from ivr_dist.errors import UserError
    from ivr_dist.inspection.find_sample import find_sample

    if html is not None:
        raise UserError("--html is a page of splits, not of one sample", remedy="leave out KEY or --html")
    found = find_sample(places, key)
    print_sample(found, sys.stderr if as_json else sys.stdout)
    if as_json:
        print(json.dumps(found.to_json()))
    return 0
