"""Pretrained text encoders: the only module that imports Hugging Face transformers, an optional extra.

Everything is loaded on demand, so that importing this module is cheap. A name is looked up on the hub or, with
HF_HUB_OFFLINE=1, in its cache; code of a model is never run, and weights are read from safetensors, or from pickles
without running their code.
"""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ivr_dist.common.library_errors import describe
from ivr_dist.common.word_segmentation import finer_words
from ivr_dist.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from ivr_dist.data.text_states import TextStates

T = TypeVar("T")

_KEY = "model.text.pretrained"
# Encoders whose positions start after the padding id, so that they take fewer pieces than they have position rows.
_OFFSET_POSITIONS = ("roberta", "camembert", "mpnet", "longformer", "data2vec-text")
# Types of encoders that read several texts in one row right, if they are given position ids and a mask [R, 1, S, S]:
# their attention is PyTorch's, over all pieces, and depends on positions through the embeddings alone.
PACKED_FROM_0 = ("bert", "distilbert", "electra", "ernie", "albert")
PACKED_AFTER_PADDING = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "data2vec-text",
    "roberta-prelayernorm",
)
_NO_LIMIT = 1 << 20


def local_folder(source: str) -> Path | None:
    """Return the folder of an encoder; None if it is a name on the hub, or the folder does not exist."""
    folder = Path(source).expanduser()
    return folder if source and folder.is_dir() else None


def check_source(source: str) -> None:
    """Check, without loading anything, that a pretrained encoder can be loaded.

    Args:
        source: Name on the hub, or a folder.

    Raises:
        ConfigError: The extra is not installed, or there is no such folder.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError(
            "a pretrained text encoder needs the package transformers, which is not installed",
            where=_KEY,
            remedy="pip install 'ivr_dist[text]'",
        )
    folder = local_folder(source)
    if folder is not None:
        if not (folder / "config.json").is_file():
            raise ConfigError(
                "the folder of the text encoder has no config.json",
                where=source,
                remedy="give a folder that save_pretrained wrote, with its tokenizer",
            )
    elif source.startswith(("/", ".", "~")) or source.count("/") > 1:
        raise ConfigError(
            "there is no folder of a text encoder", where=source, remedy=f"set {_KEY} to a folder or a name on the hub"
        )


class WordTokenizer:
    """Splits words into the pieces of one encoder; thread-safe.

    Args:
        backend: A tokenizer of the library tokenizers; its truncation and padding are changed.
        limit: Most pieces of a text, special ones included; None for any number.
        padding: Id of the piece that fills up a batch.
        first_position: See the attribute.
        context: See the attribute.
        note: Called once, when the first text is truncated.
    """

    def __init__(
        self,
        backend: Any,
        limit: int | None,
        padding: int,
        first_position: int | None = None,
        context: int = 0,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.padding = padding
        """Id of the piece that fills up a batch."""
        self.first_position = first_position
        """Position id of the first piece of a text, where the encoder can read several texts in one row; else None."""
        self.limit = limit
        """Most pieces of a text."""
        self.context = context
        """Number of utterances before a sample whose text is read with it."""
        self.states: TextStates | None = None
        """States of all texts after the encoder's first layers, where they are cached."""
        self._backend = backend
        self._with_context: Any = None
        self._note = note
        self._noted = False
        # A saved tokenizer may have its own limits and padding. Set once, so that concurrent reads need no lock.
        backend.no_padding()
        backend.no_truncation()
        if limit is not None:
            backend.enable_truncation(max_length=limit)
        if context:
            self._with_context = copy.deepcopy(backend)
            if limit is not None:
                # The farthest utterances go first.
                self._with_context.enable_truncation(max_length=limit, strategy="only_first", direction="left")

    def with_states(self, states: TextStates) -> WordTokenizer:
        """Copy it with the cached states of all texts."""
        copied = copy.copy(self)
        copied.states = states
        return copied

    def encode(self, words: Sequence[str], before: Sequence[str] = ()) -> tuple[list[int], list[int | None]]:
        """Split one text into pieces.

        Args:
            words: Its words.
            before: Words of the utterances before it: a first text, of which the end is read as far as it fits.

        Returns:
            Their ids, and for each the number of its word; None for special pieces and those of `before`.
        """
        if before and words:
            return self._encode_pair(words, before)
        encoding = self._backend.encode(list(words), is_pretokenized=True)
        if encoding.overflowing and not self._noted:
            self._noted = True
            self._note(f"texts of more than {self.limit} word pieces are truncated to the text encoder's limit")
        return encoding.ids, finer_words(words, encoding.word_ids, encoding.offsets)

    def _encode_pair(self, words: Sequence[str], before: Sequence[str]) -> tuple[list[int], list[int | None]]:
        alone = self.encode(words)
        special = self._backend.num_special_tokens_to_add
        room = _NO_LIMIT if self.limit is None else self.limit - (len(alone[0]) - special(False)) - special(True)
        if room < 1:
            return alone
        encoding = self._with_context.encode(list(before), list(words), is_pretokenized=True)
        word_of = [
            word if sequence == 1 else None
            for word, sequence in zip(encoding.word_ids, encoding.sequence_ids, strict=True)
        ]
        return encoding.ids, finer_words(words, word_of, encoding.offsets)


@dataclass(frozen=True)
class TextEncoder:
    """A pretrained text encoder that can be loaded."""

    source: str
    """Name on the hub, or a folder with config, tokenizer and weights."""
    weights: bool = True
    """False: its architecture only, for a checkpoint's own weights."""
    context: int = 0
    """Number of utterances before a sample whose text is read with it."""

    @property
    def width(self) -> int:
        """Features of an encoded piece."""
        return int(self._config.hidden_size)

    @cached_property
    def _config(self) -> Any:
        check_source(self.source)
        from transformers import AutoConfig

        config = self._loaded(lambda: AutoConfig.from_pretrained(self._origin, trust_remote_code=False))
        if getattr(config, "is_encoder_decoder", False) or getattr(config, "hidden_size", None) is None:
            raise ConfigError(
                f"a model of type {config.model_type} is not a text encoder",
                where=self.source,
                remedy=f"set {_KEY} to an encoder such as BERT or RoBERTa",
            )
        return config

    @cached_property
    def _tokenizer(self) -> Any:
        config = self._config
        from transformers import AutoTokenizer

        # Byte-level tokenizers recognize the start of a word by the space before it, which single words lack.
        tokenizer = self._loaded(
            lambda: AutoTokenizer.from_pretrained(
                self._origin, config=config, add_prefix_space=True, trust_remote_code=False
            )
        )
        if not tokenizer.is_fast:
            raise ConfigError(
                "the text encoder has no fast tokenizer, which maps pieces to words",
                where=self.source,
                remedy="give a folder with a tokenizer.json",
            )
        return tokenizer

    @property
    def _origin(self) -> str:
        return str(local_folder(self.source) or self.source)

    def tokenizer(self, note: Callable[[str], None] = lambda text: None) -> WordTokenizer:
        """Return its tokenizer, which truncates at the encoder's limit only.

        Args:
            note: Called once, when the first text is truncated.
        """
        tokenizer, config = self._tokenizer, self._config
        rows = getattr(config, "max_position_embeddings", None) or _NO_LIMIT
        if any(kind in config.model_type for kind in _OFFSET_POSITIONS) and config.pad_token_id is not None:
            rows -= config.pad_token_id + 1
        limit = min(rows, tokenizer.model_max_length)
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        # A copy: the tokenizer that is saved with a checkpoint keeps its own settings.
        backend = copy.deepcopy(tokenizer.backend_tokenizer)
        most = limit if limit < _NO_LIMIT else None
        return WordTokenizer(backend, most, padding, self._first_position, self.context, note)

    @property
    def _first_position(self) -> int | None:
        kind, padding = self._config.model_type, self._config.pad_token_id
        if kind in PACKED_FROM_0:
            return 0
        return padding + 1 if kind in PACKED_AFTER_PADDING and padding is not None else None

    def module(self, dropout: float | None) -> nn.Module:
        """Build the encoder in float32, without the pooler, which is not used.

        Args:
            dropout: Rate of each of its dropouts; None leaves them as they were trained.

        Raises:
            ConfigError: It cannot be loaded, or its files lack some of its weights.
        """
        config = copy.deepcopy(self._config)
        import torch
        from transformers import AutoModel

        for name, value in config.to_dict().items():
            if "drop" in name and isinstance(value, int | float) and not isinstance(value, bool):
                # Layer dropout would skip different layers on each worker.
                setattr(config, name, 0.0 if "layer" in name else value if dropout is None else dropout)
        # The attention that reads a mask of packed rows as it is meant.
        attention = {} if self._first_position is None else {"attn_implementation": "sdpa"}
        if self.weights:
            model, loading_info = self._loaded(
                lambda: AutoModel.from_pretrained(
                    self._origin,
                    config=config,
                    dtype=torch.float32,
                    output_loading_info=True,
                    trust_remote_code=False,
                    **attention,
                )
            )
            self._check_complete(loading_info)
        else:
            model = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False, **attention)
        if hasattr(model, "pooler"):
            model.pooler = None
        module: nn.Module = model
        return module

    def files(self) -> Mapping[str, bytes]:
        """Serialize config and tokenizer as files, which `TextEncoder(folder, weights=False)` reads back."""
        # decision 016
        with tempfile.TemporaryDirectory(prefix="ivr-text-") as scratch:
            self._config.save_pretrained(scratch)
            self._tokenizer.save_pretrained(scratch)
            return {path.name: path.read_bytes() for path in sorted(Path(scratch).iterdir()) if path.is_file()}

    def _check_complete(self, loading_info: Mapping[str, Any]) -> None:
        missing = sorted(name for name in loading_info["missing_keys"] if not name.startswith("pooler."))
        if missing:
            raise ConfigError(
                f"the text encoder's files lack {len(missing)} of its weights, such as {missing[0]}",
                where=self.source,
                remedy="give the folder or name of a complete encoder",
            )

    def _loaded(self, load: Callable[[], T]) -> T:
        """Call a loader of the library without its output; any of its errors becomes a ConfigError."""
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        try:
            return load()
        except Exception as error:  # tokenizers raises bare Exception for a damaged file
            raise ConfigError(
                f"the text encoder cannot be loaded: {describe(error)}",
                where=self.source,
                remedy=f"set {_KEY} to a folder with its files, or a name on the hub (HF_HUB_OFFLINE=1: in its cache)",
            ) from error
