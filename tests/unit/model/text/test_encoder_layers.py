"""Division of a text encoder: its first layers and the others, one after another, are the whole one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ivr_dist.data.batches.tokenization import word_batch
from ivr_dist.errors import ConfigError
from ivr_dist.model.text.encoder_layers import check_division, first_layers, layers_of
from ivr_dist.model.text.text_encoder import TextEncoder
from ivr_dist.model.text.word_encoder import WordEncoder, attention
from tests.encoders import KINDS, small_encoder, tiny_bert

TEXTS = (["the", "film", "was", "good"], ["bad"], [], ["so", "it", "was", "goodly", "then"])


@pytest.mark.parametrize("kind", [*KINDS, "distilbert", "electra"])
def test_the_layers_above_cached_states_end_as_the_whole_encoder(kind: str, tmp_path: Path) -> None:
    folder = KINDS[kind](tmp_path) if kind in KINDS else small_encoder(kind, tmp_path)
    text = TextEncoder(folder)
    depth = len(layers_of(text.module(0.0)))
    part = word_batch(TEXTS, text.tokenizer())
    assert part.pieces is not None
    for layers in range(1, depth + 1):
        encoder = WordEncoder(text.module(0.0).double(), depth - layers, layers)
        with torch.no_grad():
            lower = first_layers(encoder.encoder, layers)
            states = lower(input_ids=part.pieces.ids, **attention(part.pieces), return_dict=False)[0]
        cached = replace(part, pieces=replace(part.pieces, states=states))
        whole, upper = encoder(part), encoder(cached)
        torch.testing.assert_close(upper, whole, rtol=1e-10, atol=1e-10)
        names = [name for name, own in encoder.named_parameters() if own.requires_grad]
        assert len(names) == len({id(own) for own in encoder.parameters() if own.requires_grad})
        if layers < depth:
            found = torch.autograd.grad(upper.square().sum(), [encoder.get_parameter(name) for name in names])
            expected = torch.autograd.grad(whole.square().sum(), [encoder.get_parameter(name) for name in names])
            for name, one, other in zip(names, found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8, msg=name)


def test_an_empty_batch_of_states_runs_the_trained_layers(tmp_path: Path) -> None:
    text = TextEncoder(tiny_bert(tmp_path))
    encoder = WordEncoder(text.module(0.0), 1, 2)
    part = word_batch([(), ()], text.tokenizer())
    assert part.pieces is not None
    words = encoder(replace(part, pieces=replace(part.pieces, states=torch.zeros(0, 0, 16))))
    words.sum().backward()
    assert words.shape == (0, 16)
    assert all(own.grad is not None for own in encoder.parameters() if own.requires_grad)


def test_refusals_name_the_key(tmp_path: Path) -> None:
    module = TextEncoder(tiny_bert(tmp_path)).module(0.0)
    with pytest.raises(ConfigError, match=r"cache_states = 2, but 2 of 3 layers .* are trained .*trained_layers to 1"):
        WordEncoder(module, 2, 2)
    with pytest.raises(ConfigError, match="but all of 3 layers of the text encoder are trained"):
        WordEncoder(module, None, 1)
    with pytest.raises(ConfigError, match=r"cache_states = 3, but 1 of 3 .* set model\.text\.trained_layers to 0, or"):
        WordEncoder(module, 1, 3)
    with pytest.raises(ConfigError, match="cache_states = 9, but the text encoder has 3 layers"):
        WordEncoder(module, 1, 9)
    with pytest.raises(ConfigError, match=r"cache_states = 4, but the text encoder has 3 layers .* set it to 1\.\.3"):
        check_division(module, 4)


def test_an_encoder_that_does_more_than_run_its_layers_is_refused(tmp_path: Path) -> None:
    """A final normalization runs after the first layers, too, if these are run by themselves."""
    module = TextEncoder(small_encoder("roberta-prelayernorm", tmp_path)).module(0.0)
    with torch.no_grad():
        module.LayerNorm.weight += 1  # type: ignore[operator, union-attr]
    with pytest.raises(ConfigError, match="states within a text encoder of type roberta-prelayernorm cannot be kept"):
        check_division(module, 1)
