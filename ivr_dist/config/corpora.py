"""The corpora of a config and their splits, whether given by `data.corpora` or by `data.train`, `valid` and `test`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from ivr_dist.config.data_schema import CorpusConfig, MixConfig
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

    @classmethod
    def parse(cls, text: str) -> SplitKey:
        """Read what `str` has rendered."""
        corpus, _, split = text.rpartition("/")
        return cls(corpus, split)


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


def split_urls(config: Config) -> dict[str, str]:
    """Paths or URLs of all splits of a run, corpus by corpus, by the text of their `SplitKey`."""
    urls = {
        str(SplitKey(name, split)): url_of(entry, split) for name, entry in entries(config).items() for split in SPLITS
    }
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
    """Whether names, losses and records are by corpus: of a `data.corpora` that is more than `simplified` takes."""
    return bool(config.data.corpora)


def simplified(config: Config) -> Config:
    """Write a `data.corpora` of one corpus, of which nothing but its splits is set, as `data.train`, `valid`, `test`.

    So it is trained as without a pool, to the last bit.
    """
    corpora = entries(config)
    if not config.data.corpora or len(corpora) > 1 or config.data.mix.epoch_samples or config.loss.scale == "unit":
        return config
    (entry,) = corpora.values()
    plain = CorpusConfig(dir=entry.dir, train=entry.train, valid=entry.valid, test=entry.test)
    if replace(entry, share=None, passes=None, max_passes=None) != plain:
        return config
    train, valid, test = (url_of(entry, split) for split in SPLITS)
    data = replace(config.data, corpora={}, mix=MixConfig(), train=train, valid=valid, test=test)
    return replace(config, data=data)


def with_splits(entry: CorpusConfig, url: Callable[[str], str]) -> CorpusConfig:
    """Name all splits of a corpus, empty for those that it does not have.

    Args:
        entry: The corpus.
        url: Returns the path or URL of a split, by name.
    """
    return replace(entry, dir="", train=url("train"), valid=url("valid"), test=url("test"))


def config_key(name: str, split: str) -> str:
    """The key that names a split, for errors: `data.corpora.mosi.train` or `data.train`."""
    return f"data.corpora.{name}.{split}" if name else f"data.{split}"
