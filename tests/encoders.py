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


def _word_pieces() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    backend = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = BertPreTokenizer()
    marks = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    templates = {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B [SEP]"}
    backend.post_processor = TemplateProcessing(**templates, special_tokens=marks)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def tiny_bert(folder: Path, *, layers: int = 3, positions: int = 64) -> str:
    """Word pieces: `good` is two, `badly` is two, `the` is one."""
    return small_encoder("bert", folder, layers=layers, positions=positions)


def small_encoder(kind: str, folder: Path, *, layers: int = 3, positions: int = 64) -> str:
    """An encoder of any type of the library, with the pieces of `tiny_bert`."""
    from transformers import AutoConfig

    sizes = {
        "vocab_size": len(SPECIAL + WORDS),
        "hidden_size": 16,
        "embedding_size": 16,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": positions,
        "pad_token_id": 0,
        # DistilBERT's names of the same.
        "dim": 16,
        "n_layers": layers,
        "n_heads": 2,
        "hidden_dim": 32,
    }
    config = AutoConfig.for_model(kind)
    for name, value in sizes.items():
        if hasattr(config, name):
            setattr(config, name, value)
    return _save(folder, _word_pieces(), config)


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


def tiny_mpnet(folder: Path) -> str:
    """Reads one text a row: its positions are relative, by place in the row."""
    return small_encoder("mpnet", folder)


KINDS: dict[str, Callable[[Path], str]] = {"bert": tiny_bert, "roberta": tiny_roberta, "mpnet": tiny_mpnet}
