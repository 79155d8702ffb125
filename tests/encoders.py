"""Small text encoders with random weights, in the folder layout of save_pretrained."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before transformers is imported: no test may ask the hub.
os.environ["HF_HUB_OFFLINE"] = "1"

import torch

WORDS = ("the", "film", "was", "so", "it", "and", "they", "there", "then", "with", "goo", "bad", "##d", "##ly", "x")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def _save(folder: Path, tokenizer: Any, config: Any) -> str:
    from transformers import AutoModel

    torch.manual_seed(5)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def tiny_bert(folder: Path, *, layers: int = 3, positions: int = 64) -> str:
    """Word pieces: `good` is two, `badly` is two, `the` is one."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    backend = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = BertPreTokenizer()
    marks = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    backend.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
    )
    return _save(folder, tokenizer, config)


def tiny_roberta(folder: Path) -> str:
    """Byte-level pieces, positions that begin after the padding's number."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(["the film was so good and they said it"] * 9, 300, special_tokens=special)
    trained.save_model(str(folder))
    tokenizer = RobertaTokenizerFast.from_pretrained(str(folder))
    config = RobertaConfig(
        vocab_size=trained.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=34,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        type_vocab_size=1,
    )
    return _save(folder, tokenizer, config)


KINDS: dict[str, Callable[[Path], str]] = {"bert": tiny_bert, "roberta": tiny_roberta}
