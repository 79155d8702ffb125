"""The corpora of a config and their splits, whether given by `data.corpora` or by `data.train`, `valid` and `test`."""

from __future__ import annotations

from typing import NamedTuple

from ivr_dist.config.data_schema import CorpusConfig
from ivr_dist.config.schema import Config

SPLITS = ("train", "valid", "test")


class SplitKey(NamedTuple):
    """A split of a run; its text is the key of records on disk."""

    corpus: str
    """Name of the corpus in `data.corpora`; empty for `data.train`, `data.valid` and `data.test`."""
    split: str
    """train, valid or test."""

    def __str__(self) -> str:
        """Render `train`, or `mosi/train`."""
        return f"{self.corpus}/{self.split}" if self.corpus else self.split


def entries(config: Config) -> dict[str, CorpusConfig]:
    """The corpora of a config by name; one without a name for `data.train`. Entries that are null are left out."""
    data = config.data
    if not data.corpora:
        return {"": CorpusConfig(train=data.train, valid=data.valid, test=data.test)}
    return {name: entry for name, entry in data.corpora.items() if entry is not None}


def url_of(entry: CorpusConfig, split: str) -> str:
    """Path or URL of a split of a corpus; empty if it has none.

    A split that only `dir` names may not exist, until `preflight.absolute` has looked.
    """
    url: str | None = getattr(entry, split)
    if url is not None:
        return url
    return f"{entry.dir.rstrip('/')}/{split}" if entry.dir else ""


def split_urls(config: Config) -> dict[SplitKey, str]:
    """Paths or URLs of all splits of a run, corpus by corpus."""
    urls = {SplitKey(name, split): url_of(entry, split) for name, entry in entries(config).items() for split in SPLITS}
    return {key: url for key, url in urls.items() if url}


def trained(config: Config) -> list[str]:
    """Names of the corpora that are trained on, in the order of the config."""
    return [name for name, entry in entries(config).items() if url_of(entry, "train")]


def held_out(config: Config) -> list[str]:
    """Names of the corpora that are scored only."""
    return [name for name, entry in entries(config).items() if not url_of(entry, "train")]


def has_split(config: Config, split: str) -> bool:
    """Whether a corpus that is trained on has a split."""
    return any(url_of(entries(config)[name], split) for name in trained(config))


def is_pool(config: Config) -> bool:
    """Whether there are several corpora, so that names and losses are by corpus."""
    return len(entries(config)) > 1


def config_key(name: str, split: str) -> str:
    """The key that names a split, for errors: `data.corpora.mosi.train` or `data.train`."""
    return f"data.corpora.{name}.{split}" if name else f"data.{split}"
