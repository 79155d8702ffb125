"""The command after packing: it names the splits there are, with a batch that fits."""

from __future__ import annotations

from ivr_dist.packing.next_command import next_command
from ivr_dist.packing.pack import PackSummary, SplitSummary


def summary(empty: int = 0, **samples: int) -> PackSummary:
    nothing: dict[str, int] = {}
    return PackSummary(
        "films",
        tuple(
            SplitSummary(
                split=name,
                url=f"out/{name}",
                status="packed",
                manifest_id="",
                samples=count,
                shards=1,
                bytes=1,
                missing=nothing,
                replaced=nothing,
                rounded=nothing,
                empty=empty,
                unlabelled=nothing,
                placeholders=nothing,
            )
            for name, count in samples.items()
        ),
    )


def test_the_command_names_every_split() -> None:
    assert next_command(summary(train=900, valid=9, test=9), "my data/") == (
        "ivr-dist train configs/quickstart.yaml run.dir=runs/films "
        "'data.train=my data/train' 'data.valid=my data/valid' 'data.test=my data/test'"
    )


def test_a_small_corpus_gets_a_small_batch() -> None:
    command = next_command(summary(train=44, valid=9), "out")
    assert command.endswith("data.test= train.global_batch=8 loss.consistency.group=8")
    assert "train.global_batch=1 " in next_command(summary(train=2, valid=9), "out")


def test_what_cannot_be_trained_on_is_looked_at() -> None:
    assert next_command(summary(test=5), "out") == "ivr-dist inspect out"
    assert next_command(summary(empty=5, train=5, valid=5), "out") == "ivr-dist inspect out"
