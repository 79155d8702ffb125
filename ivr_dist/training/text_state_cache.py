"""Computes the states that `model.text.cache_states` keeps: once for each text of a run, by all workers."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ivr_dist import storage
from ivr_dist.config import Config
from ivr_dist.config.corpora import split_urls
from ivr_dist.data.batches.tokenization import lay_out, words_before
from ivr_dist.data.exclusions import NOTHING, Exclusions
from ivr_dist.data.text_states import (
    UNFINISHED,
    Group,
    PartWriter,
    TextStates,
    complete,
    groups,
    key_of,
    remove_abandoned,
)
from ivr_dist.errors import ConfigError, IvrError
from ivr_dist.model.text.encoder_layers import first_layers
from ivr_dist.model.text.text_encoder import WordTokenizer
from ivr_dist.model.text.word_encoder import WordEncoder, attention
from ivr_dist.runtime import collectives
from ivr_dist.shards.decode import spaced_words
from ivr_dist.shards.manifest import TEXT_STATES, Manifest
from ivr_dist.shards.sample_columns import Samples
from ivr_dist.training.splits import open_reader

_FORMAT = 1
_READ_AT_ONCE = 256
_TEXTS_AT_ONCE = 64
_PROGRESS_S = 10.0


@dataclass(frozen=True)
class Observer:
    """What is told while states are computed."""

    say: Callable[[str], None]
    """Takes a sentence for the user, on rank 0."""
    working: Callable[[], None]
    """Called often: the worker does not hang."""


def cached_states(
    model: nn.Module,
    tokenizer: WordTokenizer,
    config: Config,
    manifests: Mapping[str, Manifest],
    excluded: Mapping[str, Exclusions],
    device: torch.device,
    observer: Observer,
) -> TextStates:
    """Open the states of all texts of a run, computed where they are not there yet; a collective call.

    Args:
        model: The unpartitioned model, whose text encoder is moved to the device.
        tokenizer: Of its text encoder.
        config: The run's config.
        manifests: Manifests of the splits whose text is read.
        excluded: Samples that are left out, by split.
        device: Where this worker trains.
        observer: Is told of the progress.

    Raises:
        ConfigError: A split is on remote storage, and `model.text.states_dir` is not set.
        StorageError: The states cannot be written.
        CorruptDataError: Stored states are damaged.
    """
    words = next(part for part in model.modules() if isinstance(part, WordEncoder))
    layers = config.model.text.cache_states
    lower = first_layers(words.encoder, layers).to(device).eval()
    identity = _identity(lower, layers, tokenizer)
    urls = split_urls(config)
    found: list[Group] = []
    for name, manifest in manifests.items():
        folder = _folder(config, name, urls[name], [identity, manifest.id])
        covers = excluded.get(name, NOTHING).digest
        stored = _groups(folder)
        if not any(group.covers == covers for group in stored):
            known = collectives.run_on_all_ranks(lambda stored=stored: TextStates(stored))  # type: ignore[misc]
            work = _Split(config, name, urls[name], manifest, excluded.get(name, NOTHING), lower, tokenizer, observer)
            work.write(folder, known, covers)
            stored = _groups(folder)
        found += stored
    return collectives.run_on_all_ranks(lambda: TextStates(found))


def _groups(folder: str) -> list[Group]:
    return collectives.on_rank_zero(lambda: groups(folder))


class _Split:
    """The texts of one split, of which each rank computes an equal part."""

    def __init__(
        self,
        config: Config,
        name: str,
        url: str,
        manifest: Manifest,
        excluded: Exclusions,
        lower: nn.Module,
        tokenizer: WordTokenizer,
        observer: Observer,
    ) -> None:
        self._config = config
        self._name = name
        self._url = url
        self._manifest = manifest
        self._excluded = excluded
        self._lower = lower
        self._tokenizer = tokenizer
        self._observer = observer
        self.width = int(lower.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def write(self, folder: str, known: TextStates, covers: str) -> None:
        """Compute the states of all texts that are not known; a collective call."""
        self._observer.say(
            f"computing the states after layer {self._config.model.text.cache_states} of the text encoder for "
            f"{self._manifest.samples:,} texts of {self._name}, kept in {storage.display(folder)}"
        )
        collectives.on_rank_zero(lambda: remove_abandoned(folder))
        written = storage.join(folder, collectives.broadcast(secrets.token_hex(4)) + UNFINISHED)
        world = collectives.world_size()
        try:
            collectives.run_on_all_ranks(lambda: self._write_part(written, known))
            collectives.on_rank_zero(lambda: complete(written, parts=world, width=self.width, covers=covers))
        except BaseException:
            # What cannot be deleted must not hide the error.
            with suppress(IvrError):
                if collectives.rank() == 0:
                    storage.delete_tree(written)
            raise

    def _write_part(self, folder: str, known: TextStates) -> None:
        rank, world = collectives.rank(), collectives.world_size()
        numbers = np.array_split(self._excluded.kept(self._manifest.samples), world)[rank]
        texts = {key: ids for ids in self._encoded(numbers) for key in [key_of(ids)] if key not in known}
        part = PartWriter(folder, rank, {key: len(ids) for key, ids in texts.items()}, self.width)
        # Texts of like length together, so that a batch of few long ones is no larger than one of many short ones.
        ordered = sorted(texts, key=lambda key: (len(texts[key]), key))
        done, said = 0, time.monotonic()
        for first in range(0, len(ordered), _TEXTS_AT_ONCE):
            keys = ordered[first : first + _TEXTS_AT_ONCE]
            self._observer.working()
            for key, states in zip(keys, self._states([texts[key] for key in keys]), strict=True):
                part.put(key, states)
            done += len(keys)
            if rank == 0 and time.monotonic() - said > _PROGRESS_S:
                said = time.monotonic()
                self._observer.say(f"text states of {self._name}: {done / len(ordered):.0%}")
        part.close()

    def _encoded(self, numbers: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Iterator[list[int]]:
        """Yield the pieces of each text."""
        reader = open_reader(self._config.data, self._url, self._manifest, lambda text: None)
        skips = self._config.data.on_error == "skip"
        try:
            requests = (numbers[first : first + _READ_AT_ONCE] for first in range(0, len(numbers), _READ_AT_ONCE))
            for result in reader.read_ahead(requests):
                self._observer.working()
                # What cannot be read is skipped, or refused, when it is trained on.
                samples: Samples = result.samples if skips else result.all_or_raise()
                before = words_before(samples, range(len(samples)), self._tokenizer.context) or [[]] * len(samples)
                for transcript, context in zip(samples.transcripts, before, strict=True):
                    ids, _ = self._tokenizer.encode(spaced_words(transcript), context)
                    if ids:
                        yield ids
        finally:
            reader.close()

    def _states(self, texts: Sequence[list[int]]) -> list[np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
        no_words: list[tuple[list[int], list[int | None]]] = [(ids, []) for ids in texts]
        pieces = lay_out(no_words, np.zeros((len(texts), 0), np.int64), self._tokenizer)
        device = next(self._lower.parameters()).device
        with torch.no_grad():
            moved = pieces.to(device)
            hidden = self._lower(input_ids=moved.ids, **attention(moved), return_dict=False)[0]
        flat = hidden.flatten(0, 1).float().cpu().numpy()
        text = pieces.text.flatten().numpy()
        order = np.argsort(text, kind="stable")[np.count_nonzero(text < 0) :]
        return np.split(flat[order], np.cumsum([len(ids) for ids in texts])[:-1])


def _identity(lower: nn.Module, layers: int, tokenizer: WordTokenizer) -> str:
    """Digest of all that the states of given pieces depend on, and of how texts become pieces."""
    digest = hashlib.sha256(json.dumps([_FORMAT, layers, tokenizer.context, tokenizer.limit]).encode())
    for name, parameter in lower.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _folder(config: Config, name: str, url: str, identity: Sequence[str]) -> str:
    """Directory of the states of a split."""
    own = hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16]
    if config.model.text.states_dir:
        return storage.join(config.model.text.states_dir, own)
    if not storage.is_local(url):
        raise ConfigError(
            f"model.text.cache_states keeps states beside the shards, but those of {name} are not on this machine",
            where=storage.display(url),
            remedy="set model.text.states_dir to a local directory that all workers share",
        )
    return storage.join(url, TEXT_STATES, own)
