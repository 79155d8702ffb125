"""Checks of single sections of a card, beyond the types of their keys; each raises a `ConfigError` with a remedy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ivr_dist.corpora.card_mappings import ArraysMapping, Column, TableMapping, TranscriptText, UtterancesMapping
from ivr_dist.corpora.card_parser import suggest
from ivr_dist.errors import ConfigError
from ivr_dist.shards.manifest import MAX_WIDTH

if TYPE_CHECKING:
    from ivr_dist.corpora.card import Card


def check_shares(card: Card, path: str) -> None:
    """Check that shares are given for every split, and that nothing else assigns samples to splits.

    Raises:
        ConfigError: The card breaks this rule.
    """
    shares = card.split_shares
    if shares is None:
        return
    where = f"{path}, key splits.shares"
    if card.format != "table":
        raise ConfigError(f"shares are not for format {card.format}", where=where, remedy="remove them")
    if card.splits_by_group() or (card.table is not None and card.table.split is not None):
        remedy = "keep one of shares, groups and table.split"
        raise ConfigError("the split of a sample is defined in two ways", where=where, remedy=remedy)
    if set(shares) != set(card.splits):
        (name, *_) = set(card.splits) - set(shares)
        raise ConfigError(f"split {name} has no share", where=where, remedy="give every split a share, or none")
    if not 0 <= card.split_seed < 2**64:
        what, remedy = f"the seed is {card.split_seed}", "choose 0 or more, below 2^64"
        raise ConfigError(what, where=f"{path}, key splits.seed", remedy=remedy)
    for name, share in shares.items():
        if not share > 0:
            raise ConfigError(f"the share of {name} is {share:g}", where=where, remedy="give a number above 0")


def check_table(card: Card, mapping: TableMapping, path: str) -> None:
    """Check the mapping of format `table`.

    Raises:
        ConfigError: The card breaks this rule.
    """
    check_labels(card, mapping.labels or (), "table.labels", path)
    for name in mapping.paths():
        if name not in card.features:
            remedy = f"describe features.{name}, or remove it"
            raise ConfigError(
                f"the card describes no features of {name}", where=f"{path}, key table.{name}", remedy=remedy
            )


def check_transcript_text(card: Card, text: TranscriptText, path: str) -> None:
    """Check the section that makes text from transcripts.

    Raises:
        ConfigError: The card breaks this rule.
    """
    where = f"{path}, key text"
    if "text" in card.features:
        remedy = "remove features.text, or text"
        raise ConfigError("text is made from the transcript and described as features", where=where, remedy=remedy)
    if text.vectors is not None:
        check_file(card, text.vectors, "text.vectors", path)
        if text.vocabulary is not None:
            raise ConfigError("text has a vocabulary and vectors", where=where, remedy="keep one of the two")
    elif text.vocabulary is None:
        remedy = "set vocabulary to the largest number of words, such as 5000"
        raise ConfigError("text from the transcript needs a vocabulary or vectors", where=where, remedy=remedy)
    if isinstance(text.vocabulary, int) and not 1 <= text.vocabulary < MAX_WIDTH:
        remedy = "give the largest number of words, 1 or more"
        raise ConfigError(f"the vocabulary is {text.vocabulary}", where=where, remedy=remedy)
    if text.min_count < 1:
        raise ConfigError(f"min_count is {text.min_count}", where=where, remedy="give 1 or more")


def check_arrays(card: Card, mapping: ArraysMapping, path: str) -> None:
    """Check the mapping of format `arrays`.

    Raises:
        ConfigError: The card breaks this rule.
    """
    check_file(card, mapping.file, "arrays.file", path)
    check_mapped(card, set(mapping.modalities()), path)
    if (mapping.split is not None) == card.splits_by_group():
        remedy = "set arrays.split, or list the groups of every split"
        raise ConfigError("the split of a sample must be defined in exactly one way", where=path, remedy=remedy)
    if mapping.group is None and (mapping.context is not None or card.splits_by_group()):
        raise ConfigError("context and splits by group need arrays.group", where=path, remedy="set it")
    if mapping.context is not None and mapping.context.before < 1:
        raise ConfigError("must be 1 or more", where=f"{path}, key arrays.context.before")
    check_labels(card, mapping.labels, "arrays.labels", path)
    columns = {f"labels.{task}": column for task, column in mapping.labels.items()} | mapping.modalities()
    if mapping.transcript is not None:
        columns["transcript"] = mapping.transcript
    for name, column in columns.items():
        _check_column(card, mapping, column, f"arrays.{name}", path)


def check_labels(card: Card, labels: Iterable[str], key: str, path: str) -> None:
    """Check that labels are those of tasks.

    Raises:
        ConfigError: The card breaks this rule.
    """
    for task in labels:
        if task not in card.tasks:
            raise ConfigError(f"unknown key {key}.{task}", where=path, remedy=suggest(task, card.tasks))


def check_mapped(card: Card, mapped: set[str], path: str) -> None:
    """Check that the same modalities are described and mapped.

    Raises:
        ConfigError: The card breaks this rule.
    """
    if mapped != set(card.features):
        what = f"features are described for {', '.join(card.features)} and mapped for {', '.join(sorted(mapped))}"
        raise ConfigError(what, where=path, remedy="describe and map the same")


def _check_column(card: Card, mapping: ArraysMapping, column: Column, key: str, path: str) -> None:
    other_file = column.file is not None and column.file != mapping.file
    if column.file is not None:
        check_file(card, column.file, f"{key}.file", path)
    if column.lookup is not None and column.lookup.file is not None:
        check_file(card, column.lookup.file, f"{key}.lookup.file", path)
    if other_file != (column.join is not None):
        remedy = (
            "set join to the array of sample ids of that file" if other_file else "remove join, or name another file"
        )
        raise ConfigError("join is for another file than the main one", where=f"{path}, key {key}", remedy=remedy)


def check_file(card: Card, name: str, key: str, path: str) -> None:
    """Check that a mapping names a key of files.

    Raises:
        ConfigError: The card breaks this rule.
    """
    if name not in card.files:
        raise ConfigError(f"{name} is not a key of files", where=f"{path}, key {key}", remedy=suggest(name, card.files))


def check_utterances(card: Card, mapping: UtterancesMapping, path: str) -> None:
    """Check the section `utterances`.

    Raises:
        ConfigError: A task is unknown, modalities are described and mapped differently, or the tables, the splits or
            the context are defined in no way or in two.
    """
    check_labels(card, mapping.labels, "utterances.labels", path)
    check_mapped(card, set(mapping.modalities()), path)
    if mapping.nearest is not None:
        check_labels(card, mapping.nearest.labels, "utterances.nearest.labels", path)
        check_labels(card, mapping.nearest.same, "utterances.nearest.same", path)
    where = f"{path}, key utterances"
    if bool(mapping.tables) == (mapping.table is not None):
        raise ConfigError("give tables by split, or one table", where=where, remedy="keep tables, or table")
    if mapping.tables and set(mapping.tables) != set(card.splits):
        what = f"there are tables for {', '.join(mapping.tables)} and splits {', '.join(card.splits)}"
        raise ConfigError(what, where=where, remedy="give one table for each split")
    ways = [bool(mapping.tables), bool(mapping.hashed), mapping.fold is not None, card.splits_by_group()]
    if sum(ways) != 1:
        remedy = "keep one of tables, hashed, fold, and the groups of splits"
        raise ConfigError("the split of a sample must be defined in exactly one way", where=where, remedy=remedy)
    if mapping.fold is not None and mapping.folds is None:
        raise ConfigError("fold needs folds", where=where, remedy="name the file of folds")
    digits = [digit for each in mapping.hashed.values() for digit in each]
    if mapping.hashed and (sorted(digits) != list(range(10)) or set(mapping.hashed) != set(card.splits)):
        remedy = "give each digit 0 to 9 to one split, and every split at least one"
        raise ConfigError("hashed does not divide the digits among the splits", where=where, remedy=remedy)
    context = mapping.context
    if context is not None:
        sources = (context.previous, context.texts, context.unlabeled)
        if sum(source is not None for source in sources) != 1 or (context.speakers and not context.texts):
            remedy = "give previous, or texts with or without speakers, or unlabeled"
            raise ConfigError("the context has no source, or several", where=f"{where}.context", remedy=remedy)
        if context.previous is not None and not (context.previous > 0 and mapping.turn and mapping.group):
            remedy = "set group and turn, and 1 or more previous utterances"
            raise ConfigError("previous utterances need group and turn", where=f"{where}.context", remedy=remedy)
