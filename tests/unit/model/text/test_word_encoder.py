"""Word vectors from a pretrained encoder: pooling, trained layers, invariances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from ivr_dist.config import TextConfig
from ivr_dist.data.batches.batch import Batch, ModalityBatch
from ivr_dist.data.batches.tokenization import word_batch
from ivr_dist.engine.param_groups import parameter_groups, rate_of
from ivr_dist.errors import ConfigError
from ivr_dist.model.build import build_model
from ivr_dist.model.spec import ModelSpec
from ivr_dist.model.text import text_encoder
from ivr_dist.model.text.text_encoder import TextEncoder
from ivr_dist.model.text.word_encoder import WordEncoder, mean_over_pieces
from ivr_dist.planning.pool_layout import WORDS
from tests.batches import DIMS, TASKS, assert_close_gradients, batch_of, gradients, make_samples, model_config, total_of
from tests.encoders import KINDS, small_encoder, tiny_bert

TEXTS = (("the", "film", "was", "goodly"), ("bad",), (), ("so", "good", "and", "then", "it", "was", "x"))


class Cutter:
    """Cuts a word into as many pieces as it has letters, between two special ones."""

    padding = 0
    context = 0
    states = None

    def __init__(self, first_position: int | None) -> None:
        self.first_position = first_position

    def encode(self, words: Sequence[str], before: Sequence[str] = ()) -> tuple[list[int], list[int | None]]:
        pieces = [(ord(letter), number) for number, word in enumerate(words) for letter in word]
        return [1, *(id_ for id_, _ in pieces), 2], [None, *(number for _, number in pieces), None]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return KINDS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


def make(folder: str, layers: int | None = None, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    text = TextEncoder(folder)
    config = model_config(text=TextConfig(pretrained=folder, trained_layers=layers, dropout=dropout))
    spec = ModelSpec({"text": (WORDS, text.width), "audio": ("features", DIMS["audio"])}, TASKS, text)
    return build_model(config, spec)


def batch(folder: str, texts: Sequence[Sequence[str]], rows: Sequence[int] | None = None) -> Batch:
    """Texts with two steps of audio each; audio and labels are those of `rows`."""
    samples = make_samples([{"audio": 2}] * len(TEXTS))
    base = batch_of([samples[row] for row in (range(len(texts)) if rows is None else rows)], modalities=["audio"])
    return replace(base, modalities={"text": word_batch(texts, TextEncoder(folder).tokenizer()), **base.modalities})


def padded(part: ModalityBatch, more: int, fill: int) -> ModalityBatch:
    """The same words with more places for pieces, whose content must not matter."""
    assert part.pieces is not None
    old = part.pieces.ids.shape[1]
    position = torch.div(part.pieces.position, old, rounding_mode="floor") * (old + more) + part.pieces.position % old
    grown = replace(
        part.pieces,
        ids=F.pad(part.pieces.ids, (0, more), value=fill),
        text=F.pad(part.pieces.text, (0, more), value=-1),
        places=None if part.pieces.places is None else F.pad(part.pieces.places, (0, more), value=3),
        position=position,
    )
    return replace(part, pieces=grown)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.text("abc", max_size=3), max_size=5), max_size=9), st.integers(0, 999), st.booleans())
def test_pooling_is_the_mean_over_each_words_pieces(texts: list[list[str]], seed: int, packed: bool) -> None:
    part = word_batch(texts, Cutter(2 if packed else None))
    assert part.pieces is not None
    hidden = torch.randn(*part.pieces.ids.shape, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = []
    for number, words in enumerate(texts):
        own = part.pieces.text.flatten() == number
        assert part.pieces.ids.flatten()[own].tolist() == [1, *map(ord, "".join(words)), 2]
        if part.pieces.places is not None:
            assert part.pieces.places.flatten()[own].tolist() == list(range(2, 2 + int(own.sum())))
        text, place = hidden.flatten(0, 1)[own], 1
        for word in words:
            if word:  # a word without a piece is no step
                expected.append(text[place : place + len(word)].mean(dim=0))
            place += len(word)
    found = mean_over_pieces(hidden, part)
    torch.testing.assert_close(found, torch.stack(expected) if expected else found.new_zeros(0, 5))
    steps = [[number for number, word in enumerate(words) if word] for words in texts]
    assert [row.nonzero().flatten().tolist() for row in part.mask] == steps
    assert part.features[part.mask].tolist() == [len(word) for words in texts for word in words if word]


def test_one_step_is_one_word(folder: str) -> None:
    part = batch(folder, TEXTS).modalities["text"]
    assert part.mask.sum(dim=1).tolist() == [len(words) for words in TEXTS]
    assert part.pieces is not None
    assert len(part.pieces.position) > len(part.flat), "no word has two pieces, so nothing was pooled"


def test_padding_changes_nothing(folder: str) -> None:
    model = make(folder).double()
    plain = batch(folder, TEXTS)
    more = replace(plain, modalities={**plain.modalities, "text": padded(plain.modalities["text"], 9, 1)})
    for task in TASKS:
        torch.testing.assert_close(
            model(more).predictions[task], model(plain).predictions[task], rtol=1e-10, atol=1e-10
        )
    assert_close_gradients(gradients(model, more), gradients(model, plain), 1e-8)


def test_predictions_do_not_depend_on_order_or_other_samples(folder: str) -> None:
    model = make(folder).double()
    order = [2, 0, 3, 1]
    plain, permuted = batch(folder, TEXTS), batch(folder, [TEXTS[i] for i in order], order)
    whole = model(plain).predictions["sentiment"]
    torch.testing.assert_close(model(permuted).predictions["sentiment"], whole[order], rtol=1e-10, atol=1e-10)
    assert_close_gradients(gradients(model, permuted), gradients(model, plain), 1e-8)
    alone = torch.cat([model(batch(folder, [TEXTS[i]], [i])).predictions["sentiment"] for i in range(len(TEXTS))])
    torch.testing.assert_close(alone, whole, rtol=1e-10, atol=1e-10)


def test_the_words_around_a_word_matter(bert: str) -> None:
    model = make(bert).eval()
    one, other = (model.words(batch(bert, [text]).modalities["text"]) for text in (["so", "good"], ["so", "bad"]))
    assert (one[0] - other[0]).abs().max() > 1e-4


def test_an_empty_batch_and_one_without_words_run_every_layer(folder: str) -> None:
    model = make(folder)
    for texts in ([], [()], [(), ()]):
        found = gradients(model, batch(folder, texts))
        own = {name: part for name, part in found.items() if name.startswith("words.")}
        assert own and all((part == 0).all() for part in own.values())
        assert model.words(batch(folder, texts).modalities["text"]).shape == (0, 16)


def moved(model: nn.Module, folder: str) -> set[str]:
    """Names of the encoder's parameters that a few steps of the optimizer change."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        total_of(model(batch(folder, TEXTS)), batch(folder, TEXTS)).backward()
        optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(before[name], p)}
    assert any(not name.startswith("words.") for name in changed)
    return {name.removeprefix("words.encoder.") for name in changed if name.startswith("words.")}


def test_only_trained_layers_change(bert: str) -> None:
    assert moved(make(bert, 0), bert) == set()
    assert {name.split(".")[2] for name in moved(make(bert, 2), bert)} == {"1", "2"}
    assert {name.rpartition(".")[0].split(".")[0] for name in moved(make(bert, 2), bert)} == {"encoder"}
    every = {name.removeprefix("words.encoder.") for name, _ in make(bert).named_parameters() if "words." in name}
    # Biases of attention keys change nothing by symmetry; pads and position rows that no text reaches are in matrices.
    assert moved(make(bert), bert) >= {name for name in every if not name.endswith("key.bias")}


def test_untrained_layers_keep_their_dropout_off(bert: str) -> None:
    def noise(layers: int | None) -> Tensor:
        model = make(bert, layers, dropout=0.5).train()
        texts = batch(bert, TEXTS).modalities["text"]
        return (model.words(texts) - model.words(texts)).abs().max()

    assert noise(0) == 0
    assert noise(1) > 0
    assert noise(None) > 0
    model = make(bert, 1, dropout=0.5).train()
    layers = model.words.encoder.encoder.layer
    assert [layer.output.dropout.training for layer in layers] == [False, False, True]
    assert not model.eval().words.encoder.encoder.layer[2].training


def test_dropout_of_the_encoder_is_its_own_unless_set(bert: str) -> None:
    rates = {dropout: TextEncoder(bert).module(dropout).config.hidden_dropout_prob for dropout in (None, 0.0, 0.3)}
    assert rates == {None: 0.1, 0.0: 0.0, 0.3: 0.3}


def test_more_layers_than_there_are_cannot_be_trained(bert: str) -> None:
    with pytest.raises(ConfigError, match=r"trained_layers = 4, but the text encoder has 3 layers .*; set it to 0..3"):
        make(bert, 4)
    with pytest.raises(ConfigError, match="the text encoder has 0 layers"):
        WordEncoder(nn.Linear(2, 2), 1)


def test_parameter_groups_have_their_rates(bert: str) -> None:
    def sizes(layers: int | None) -> dict[str, int]:
        groups = parameter_groups(make(bert, layers), 0.1)
        assert all((group["weight_decay"] == 0.1) == (not group["name"].endswith("no_decay")) for group in groups)
        assert {group["name"]: rate_of(group) for group in groups} == {
            group["name"]: "text" if group["name"].startswith("text_") else "main" for group in groups
        }
        return {group["name"]: sum(p.numel() for p in group["params"]) for group in groups}

    assert list(sizes(None)) == ["decay", "no_decay", "text_decay", "text_no_decay"]
    assert list(sizes(0)) == ["decay", "no_decay"]
    assert 0 < sizes(1)["text_decay"] * 2 == sizes(2)["text_decay"] < sizes(None)["text_decay"]
    trainable = sum(p.numel() for p in make(bert, 2).parameters() if p.requires_grad)
    assert sum(sizes(2).values()) == trainable


def test_a_pretrained_encoder_leaves_the_other_weights_as_they_are(bert: str, tmp_path: Path) -> None:
    other = tiny_bert(tmp_path, layers=1)
    first, second = (dict(make(place).named_parameters()) for place in (bert, other))
    same = [name for name in first if not name.startswith("words.")]
    assert same and all(torch.equal(first[name], second[name]) for name in same)


@pytest.mark.parametrize("kind", [*text_encoder.PACKED_FROM_0, *text_encoder.PACKED_AFTER_PADDING])
def test_texts_in_one_row_are_read_as_if_each_had_its_own(kind: str, tmp_path: Path) -> None:
    """Every type of encoder that is given packed rows, by its library's own defaults but for sizes."""
    text = TextEncoder(small_encoder(kind, tmp_path))
    encoder = WordEncoder(text.module(0.0), None).double().eval()
    words = [["the", "film"], ["so"] * 9, [], ["good", "x", "bad"], ["it", "was"], ["then"]]
    packed = word_batch(words, text.tokenizer())
    assert packed.pieces is not None and packed.pieces.places is not None
    assert len(packed.pieces.ids) < len([each for each in words if each])
    alone = torch.cat([encoder(word_batch([each], text.tokenizer())) for each in words])
    plain_tokenizer = text.tokenizer()
    plain_tokenizer.first_position = None
    unpacked = encoder(word_batch(words, plain_tokenizer))
    torch.testing.assert_close(encoder(packed), unpacked, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(alone, unpacked, rtol=1e-9, atol=1e-9)
    assert (unpacked[1:] - unpacked[:-1]).abs().max() > 1e-3, "all words have one vector, which shows nothing"
