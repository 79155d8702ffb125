"""Writes a card for a table of the user's own, commented so that it can be edited."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import yaml

from ivr_dist import storage
from ivr_dist.corpora.card import load_card
from ivr_dist.corpora.registry import open_source
from ivr_dist.corpora.table_survey import Features, Survey, Wishes, survey_table
from ivr_dist.errors import UserError
from ivr_dist.shards.specs import TaskSpec

VOCABULARY = 5000
"""Largest number of words of a new card's vocabulary."""
_PLAIN = re.compile(r"[A-Za-z][A-Za-z_]*( [A-Za-z_]+)*")
_NOT_TEXT = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))
_SHOWN_CLASSES = 8
_SPLITS = ("train", "valid", "test")


def write_card(path: str, wishes: Wishes, *, name: str | None, out: str | None, overwrite: bool) -> list[str]:
    """Look at a table, write a card for it, and check that its corpus opens.

    Args:
        path: The table; its folder is the one to pack.
        wishes: What the user named.
        name: Name of the corpus; None: the stem of `out`, else of `path`.
        out: File to write; None: NAME.yaml in the current folder.
        overwrite: Whether it may exist.

    Returns:
        What was found and guessed, and the next command, a line each.

    Raises:
        UserError: The table cannot be described; see `survey_table`. Or the file exists.
    """
    folder, _, file = path.rpartition("/")
    root = (folder or "/") if "/" in path else "."
    stem = Path(out or file).stem
    corpus = name or re.sub(r"\W+", "_", stem, flags=re.ASCII).strip("_") or "corpus"
    target = Path(out or f"{corpus}.yaml")
    if target.exists() and not overwrite:
        raise UserError("the file exists", where=str(target), remedy="name another with --out, or give --overwrite")
    survey = survey_table(root, file, wishes)
    if not survey.features and survey.transcript is None:
        remedy = "name a transcript, or files such as --audio 'audio/{id}.npy'"
        raise UserError("the table names neither a transcript nor features", where=path, remedy=remedy)
    packing = f"ivr-dist pack {shlex.quote(root)} --card {shlex.quote(str(target))} --out data/{corpus}"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(render_card(survey, corpus, packing), encoding="utf-8")
    source = open_source(root, load_card(str(target)))
    counts = {split: len(refs) for split, refs in source.splits().items()}
    return [
        *describe(survey, counts),
        f"wrote {storage.display(str(target))}; description, citation and licence are for you to fill in",
        f"next: {packing}",
    ]


def parse_shares(text: str) -> dict[str, float]:
    """Parse shares such as `70,10,20`: of train, valid and test, or of train and valid.

    Raises:
        UserError: They are not two or three numbers above 0.
    """
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) not in (2, 3) or not all(0 < share < float("inf") for share in shares):
        remedy = "give numbers above 0, such as 70,10,20 for train, valid and test"
        raise UserError(f"--split-shares {text} are not two or three shares", remedy=remedy)
    return dict(zip(_SPLITS, shares, strict=False))


def describe(survey: Survey, counts: Mapping[str, int]) -> list[str]:
    """Describe what a survey found and guessed, a line each.

    Args:
        survey: The survey.
        counts: Samples by split.
    """
    parts = [f"{survey.rows} rows"]
    parts += [_width(name, features) for name, features in survey.features.items()]
    parts += [f"{name}: {_labels(task)}" for name, task in survey.tasks.items()]
    parts.append(f"splits {' / '.join(map(str, counts.values()))} ({', '.join(counts)})")
    if survey.group is not None:
        parts.append(f"{survey.groups} group{'' if survey.groups == 1 else 's'}, none in two splits")
    lines = ["; ".join(parts)]
    lines += [
        f"{name} has no file in {features.missing} of {survey.rows} rows, which are packed without it; the first is "
        f"{features.first_missing}"
        for name, features in survey.features.items()
        if features.missing
    ]
    if survey.guessed:
        guessed = [f"{what}: {value}" for what, value in survey.guessed.items()]
        lines.append(f"guessed: {'; '.join(guessed)}; the options of the same names set others")
    return lines


def render_card(survey: Survey, name: str, packing: str) -> str:
    """Render the YAML text of a card.

    Args:
        survey: The table.
        name: Name of the corpus.
        packing: Command that packs it.
    """
    key = "samples"
    lines = [
        f"# Card of {name}, written by `ivr-dist card`; edit it as you like. shards/README.md explains every key.",
        "#",
        f"#   {packing}",
        "",
        f"name: {name}",
        'description: "FILL IN: what the samples are, their language, who labeled them"',
        'citation: "FILL IN: the publication, or none"',
        'licence: "FILL IN: the terms of use"',
        "format: table",
        "files:",
        f"  {key}: {{path: {_scalar(survey.path)}}}    # sha256: ... here refuses another file of this name",
        *_render_features(survey, name),
        "tasks:",
        *(f"  {task}: {_render_task(spec)}" for task, spec in survey.tasks.items()),
        *_render_splits(survey),
    ]
    if survey.transcript is not None and "text" not in survey.features:
        lines += [
            "# Text is the ids of the most frequent words of train, for which the model learns an embedding. A",
            "# pretrained encoder (model.text.pretrained) reads the transcript itself instead.",
            f"text: {{from: transcript, vocabulary: {VOCABULARY}}}",
        ]
    return "\n".join([*lines, *_render_mapping(survey, key)]) + "\n"


def _render_features(survey: Survey, name: str) -> list[str]:
    if not survey.features:
        return ["features: {}"]
    lines = ["features:    # name a set after its extractor: features of one set are comparable across corpora"]
    for modality, features in survey.features.items():
        kind = ", kind: tokens" if features.kind == "tokens" else ""
        lines.append(f"  {modality}: {{set: {name}_{modality}, dim: {features.dim}{kind}}}")
    return lines


def _render_task(task: TaskSpec) -> str:
    if task.type == "regression":
        note = "the smallest and largest label of the table; write the ends of the scale if they are wider"
        return f"{{type: regression, low: {_number(task.low)}, high: {_number(task.high)}}}    # {note}"
    names = "" if task.names is None else f", names: [{', '.join(map(_scalar, task.names))}]"
    return f"{{type: classification, classes: {task.classes}{names}}}"


def _render_splits(survey: Survey) -> list[str]:
    if survey.shares is not None:
        shares = ", ".join(f"{split}: {share:g}" for split, share in survey.shares.items())
        whole = "samples" if survey.group is None else "whole groups"
        return [
            f"splits:    # {whole} are assigned by a hash of the seed, whatever the order of the rows",
            f"  shares: {{{shares}}}",
            f"  seed: {survey.seed}",
        ]
    called = {
        split: "{}" if value == split else f"{{called: {_scalar(value)}}}" for split, value in survey.splits.items()
    }
    return ["splits:    # samples: N in the braces refuses another number", *(f"  {s}: {v}" for s, v in called.items())]


def _render_mapping(survey: Survey, key: str) -> list[str]:
    lines = ["table:    # columns; several are joined by a template such as '{video}_{clip}'", f"  file: {key}"]
    columns = {"id": survey.id, "split": survey.split, "group": survey.group, "transcript": survey.transcript}
    lines += [f"  {name}: {_scalar(column)}" for name, column in columns.items() if column is not None]
    lines.append("  labels:")
    lines += [f"    {task}: {_scalar(column)}" for task, column in survey.labels.items()]
    lines += [f"  {name}: {_scalar(features.template)}" for name, features in survey.features.items()]
    if survey.others:
        lines.append("  provenance:    # other columns, which are kept with the samples; remove those you do not need")
        lines += [f"    - {_scalar(column)}" for column in survey.others]
    return lines


def _scalar(text: str) -> str:
    """Write a text as a YAML scalar, quoted where it could be read as something else."""
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXT:
        return text
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=1 << 30).strip()


def _number(value: float | None) -> str:
    """Write a bound with all its digits, so that the label it was taken from stays within."""
    return repr(value).removesuffix(".0")


def _width(name: str, features: Features) -> str:
    kind = "token ids" if features.kind == "tokens" else f"{features.dim} wide"
    steps = (
        f"{features.shortest}"
        if features.shortest == features.longest
        else f"{features.shortest} to {features.longest}"
    )
    return f"{name}: {kind}, {steps} step{'' if steps == '1' else 's'}"


def _labels(task: TaskSpec) -> str:
    if task.type == "regression":
        return f"regression, {task.low:g} to {task.high:g}"
    if task.names is None:
        return f"{task.classes} classes, 0 to {(task.classes or 0) - 1}"
    more = ", ..." if len(task.names) > _SHOWN_CLASSES else ""
    return f"{task.classes} classes ({', '.join(task.names[:_SHOWN_CLASSES])}{more})"
