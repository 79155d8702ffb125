"""The parts of the model against independent references."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from ivr_dist.config import EncoderConfig, FusionConfig
from ivr_dist.model import attention as attention_module
from ivr_dist.model.attention import Attention
from ivr_dist.model.codes import Discriminator
from ivr_dist.model.encoder import GruContext, ModalityEncoder
from ivr_dist.model.fusion import Gate
from ivr_dist.model.numerics import unit_norm
from ivr_dist.model.padded_steps import SequenceLayout, query_steps, with_positions
from ivr_dist.model.transformer import TransformerLayer
from tests.batches import batch_of, make_model, make_samples, mixed_samples, model_config, terms_of

LENGTHS = (3, 5, 0, 1)


def layout(*lengths: int) -> SequenceLayout:
    return SequenceLayout.of(batch_of(make_samples([{"text": n} for n in lengths])).modalities["text"])


def test_a_transformer_layer_is_pytorchs() -> None:
    steps = layout(3, 5, 1)
    torch.manual_seed(0)
    ours = TransformerLayer(8, 2, 16, 0.0)
    theirs = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
    with torch.no_grad():
        attention = ours.attention
        theirs.self_attn.in_proj_weight.copy_(
            torch.cat([attention.query_weight, attention.key_weight, attention.value_weight])
        )
        theirs.self_attn.in_proj_bias.zero_()
    pairs = [
        (theirs.self_attn.out_proj, attention.output),
        (theirs.norm1, ours.norm_attention),
        (theirs.norm2, ours.norm_feedforward),
    ]
    for target, source in pairs:
        target.load_state_dict(source.state_dict())
    inner = ours.feedforward
    theirs.linear1.load_state_dict({"weight": inner.widen_weight, "bias": inner.widen_bias})
    theirs.linear2.load_state_dict({"weight": inner.narrow_weight, "bias": inner.narrow_bias})
    values = torch.randn(9, 8)
    expected = theirs(steps.pad(values), src_key_padding_mask=~steps.mask)
    torch.testing.assert_close(ours(values, steps), steps.unpad(expected), rtol=1e-5, atol=1e-5)


def test_a_gru_sees_each_sample_alone() -> None:
    steps = layout(*LENGTHS)
    torch.manual_seed(0)
    context = GruContext(8, 2, 0.0)
    values = torch.randn(9, 8)
    alone = [context.gru(part)[0] for part in values.split([3, 5, 1])]
    torch.testing.assert_close(context(values, steps), torch.cat(alone), rtol=1e-5, atol=1e-6)


def test_steps_go_to_their_places_and_back() -> None:
    steps = layout(*LENGTHS)
    values = torch.randn(9, 2)
    padded = steps.pad(values)
    assert padded.shape == (4, 5, 2)
    assert torch.equal(padded[1], values[3:8])
    assert (padded[0, 3:] == 0).all() and (padded[2] == 0).all()
    assert torch.equal(steps.unpad(padded), values)
    assert steps.position.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0]
    torch.testing.assert_close(steps.mean(values)[1], values[3:8].mean(dim=0))
    assert (steps.mean(values)[2] == 0).all()


def test_each_sample_has_exactly_one_query_step_more_and_it_counts_only_without_text() -> None:
    query_layout = query_steps({"text": layout(*LENGTHS)})
    assert query_layout.mask.sum(dim=1).tolist() == [3, 5, 1, 1]
    assert query_layout.mask[2].tolist() == [False] * 5 + [True]
    assert len(query_layout.flat_index.unique()) == len(query_layout.flat_index) == 9 + 4
    assert query_layout.counted.tolist() == [True] * 9 + [False, False, True, False]


def test_positions_follow_the_formula() -> None:
    found = with_positions(torch.zeros(9, 4), layout(*LENGTHS))[7]
    position = 4.0
    angles = torch.tensor([position, position / 10_000.0 ** (2 / 4)])
    torch.testing.assert_close(found, torch.stack([angles.sin(), angles.cos()], dim=1).flatten())


def test_attention_carries_the_only_step_along_unchanged() -> None:
    text, audio = layout(3, 5, 2), layout(1, 1, 0)
    torch.manual_seed(0)
    attention = Attention(8, 2, 0.0)
    carried = torch.rand(2, 8)
    answer, along = attention(torch.randn(10, 8), text, torch.randn(2, 8), audio, carried)
    torch.testing.assert_close(along[:3], carried[0].expand(3, 8))
    torch.testing.assert_close(along[3:8], carried[1].expand(5, 8))
    assert (along[8:] == 0).all()
    torch.testing.assert_close(answer[8:], attention.output.bias.expand(2, 8))


def test_attention_carries_with_the_weights_of_each_head() -> None:
    text, audio = layout(4), layout(6)
    torch.manual_seed(1)
    attention = Attention(8, 2, 0.0).double()
    query, source, carried = torch.randn(4, 8).double(), torch.randn(6, 8).double(), torch.rand(6, 8).double()
    _, along = attention(query, text, source, audio, carried)
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        scores = (query @ attention.query_weight.T)[:, part] @ (source @ attention.key_weight.T)[:, part].T / 2.0
        torch.testing.assert_close(along[:, part], torch.softmax(scores, dim=1) @ carried[:, part])


def test_long_sequences_attend_as_short_ones_do() -> None:
    text, audio = layout(*LENGTHS), layout(4, 2, 6, 0)
    torch.manual_seed(0)
    attention = Attention(8, 2, 0.0)
    query, source, carried = torch.randn(9, 8), torch.randn(12, 8), torch.rand(12, 8)
    for arguments in ((query, text, query, text), (query, text, source, audio, carried)):
        short = attention(*arguments)
        with patch.object(attention_module, "_SHORT", 0):
            long = attention(*arguments)
        torch.testing.assert_close(long, short)


def test_the_gate_is_half_open_at_first_and_follows_its_kind() -> None:
    torch.manual_seed(0)
    other, text = torch.rand(200, 16), torch.rand(200, 16)
    soft = Gate(16, 0.0, "sigmoid")
    values = soft(other, text)
    assert ((values > 0.2) & (values < 0.8)).all()
    product = (soft.other(other) * soft.text(text)).view(200, 32, 2).sum(dim=2)
    expected = torch.sigmoid(soft.score(product / product.norm(dim=1, keepdim=True))).squeeze(1)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)
    for kind, learns in (("hard", False), ("straight_through", True)):
        gate = Gate(16, 0.0, kind)
        gate.load_state_dict(soft.state_dict())
        rounded = gate(other, text)
        assert torch.equal(rounded, (values > 0.5).float())
        rounded.sum().backward()
        assert bool(gate.score.weight.grad.any()) is learns  # type: ignore[union-attr]


@pytest.mark.parametrize("gate", ["sigmoid", "straight_through", "hard", "none"])
def test_gates_are_zero_where_there_is_nothing_to_let_in(gate: Any) -> None:
    output = make_model(model_config(fusion=FusionConfig(gate=gate)))(batch_of(mixed_samples(9)))
    samples = mixed_samples(9)
    for name in ("audio", "vision"):
        gates = output.gates[name]
        assert gates.shape == output.query_mask.shape
        assert ((gates >= 0) & (gates <= 1)).all()
        assert (gates[~output.query_mask] == 0).all()
        missing = torch.tensor([name not in sample.features for sample in samples])
        assert (gates[missing] == 0).all()
        if gate == "none":
            assert (gates[~missing][output.query_mask[~missing]] == 1).all()


def test_the_discriminator_gives_cosines_in_float32_also_under_autocast() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(16, 0.0)
    pooled = torch.rand(50, 16)
    cosines, penalty = discriminator(pooled)
    features = torch.relu(discriminator.hidden(pooled))
    expected = nn.functional.cosine_similarity(features[:, None], discriminator.classes[None], dim=2)
    torch.testing.assert_close(cosines, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(penalty, discriminator.classes.norm() ** 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = discriminator(pooled)
    assert mixed.dtype == torch.float32
    assert not torch.equal(mixed, mixed.bfloat16().float()), "the product itself ran in half precision"


def test_the_gradient_is_reversed_for_shared_codes_only() -> None:
    model = make_model()
    batch = batch_of(make_samples([{"text": 3, "audio": 2, "vision": 4}] * 4))
    output = model(batch)
    seen: list[Tensor] = []
    names = [*output.pooled_shared]
    judged = torch.cat([output.logits_shared[n] for n in names]), torch.cat([output.logits_private[n] for n in names])
    for logits, codes in zip(judged, (output.shared, output.private), strict=True):
        seen += torch.autograd.grad(logits.sum(), [codes["text"]], retain_graph=True)
    layouts = SequenceLayout.of(batch.modalities["text"])
    for found, codes, sign in ((seen[0], output.shared, -1.0), (seen[1], output.private, 1.0)):
        free = codes["text"].detach().requires_grad_()
        plain = torch.autograd.grad(model.discriminator(layouts.mean(free))[0].sum(), [free])[0]
        torch.testing.assert_close(found, sign * plain, rtol=1e-4, atol=1e-6)


def test_the_branches_alone_feed_the_fusion() -> None:
    model = make_model()
    batch = batch_of(mixed_samples(6))
    output = model(batch)
    branches = [code for pair in output.branch.values() for code in pair]
    task = terms_of(output, batch).family("task", {"task": 1.0}, 1)
    by_branch = torch.autograd.grad(task, branches, retain_graph=True)
    codes = [code for name in output.branch for code in (output.shared[name], output.private[name])]
    by_code = torch.autograd.grad(task, codes, retain_graph=True)
    for one, other in zip(by_branch, by_code, strict=True):
        torch.testing.assert_close(one, other)
    others = [terms_of(output, batch).family(name, {name: 1.0}, 1) for name in ("svr", "adversary", "reconstruction")]
    reached = torch.autograd.grad(torch.stack(others).sum(), branches, allow_unused=True)
    assert all(gradient is None for gradient in reached)


def test_input_dropout_takes_whole_steps_and_only_in_training() -> None:
    torch.manual_seed(0)
    config = EncoderConfig(kind="none")
    encoder = ModalityEncoder({"": ("features", 5)}, 8, config, dropout=0.0, input_dropout=0.5, feature_dropout=0.0)
    features, steps = torch.randn(1, 5).expand(400, 5), layout(400)
    whole, zeroed = encoder.eval()([torch.stack([features[0], torch.zeros(5)])], layout(2))
    found = encoder.train()([features], steps)
    kept = (found - whole).norm(dim=1) < 1e-4
    assert 150 < kept.sum() < 250
    torch.testing.assert_close(found[~kept], zeroed.expand_as(found[~kept]), rtol=1e-4, atol=1e-5)
    encoder.eval()
    torch.testing.assert_close(encoder([features], steps), whole.expand_as(found), rtol=1e-4, atol=1e-5)


def test_feature_dropout_takes_single_values_and_only_in_training() -> None:
    torch.manual_seed(0)
    encoder = ModalityEncoder(
        {"": ("features", 64)}, 64, EncoderConfig(kind="none"), dropout=0.0, input_dropout=0.0, feature_dropout=0.25
    )
    seen: list[torch.Tensor] = []
    encoder.project.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    ones = torch.ones(100, 64)
    encoder.train()([ones], layout(100))
    encoder.eval()([ones], layout(100))
    kept = seen[0] != 0
    torch.testing.assert_close(seen[0][kept], torch.full((int(kept.sum()),), 4 / 3))
    assert 0.73 < kept.float().mean() < 0.77
    assert 0 < kept.float().mean(dim=1).min() < kept.float().mean(dim=1).max() < 1, "steps differ: not whole ones"
    assert seen[1].equal(ones)


def test_the_norm_of_zero_has_a_finite_gradient() -> None:
    zero = torch.zeros(2, 3, requires_grad=True)
    unit_norm(zero).sum().backward()
    assert zero.grad is not None and torch.isfinite(zero.grad).all()
    torch.testing.assert_close(unit_norm(torch.tensor([[3.0, 4.0]])), torch.tensor([[0.6, 0.8]]))


def test_predictions_have_the_shape_of_their_task() -> None:
    output = make_model()(batch_of(mixed_samples(5)))
    assert output.predictions["sentiment"].shape == (5,)
    assert output.predictions["type"].shape == (5, 3)
    single = make_model()(batch_of(mixed_samples(1)))
    assert single.predictions["sentiment"].shape == (1,)


def test_the_forward_pass_keeps_nothing_on_the_module() -> None:
    model = make_model()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    model(batch_of(mixed_samples(4)))
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert all(not isinstance(v, Tensor) for m in model.modules() for v in vars(m).values())
