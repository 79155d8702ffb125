"""Model options have the effect that their doc line in the config states."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ivr_dist.config import EncoderConfig, FusionConfig, ModelConfig
from tests.batches import Sample, batch_of, make_model, make_samples, model_config


def without_context(fusion: FusionConfig, **changes: float) -> ModelConfig:
    """No encoder mixes steps, so what the fusion does with them shows."""
    plain = EncoderConfig(kind="none")
    return model_config(text=plain, audio=plain, vision=plain, fusion=fusion, **changes)


def turned(samples: list[Sample]) -> list[Sample]:
    return [replace(s, features={name: part.flip(0) for name, part in s.features.items()}) for s in samples]


@pytest.mark.parametrize("positions", [True, False])
def test_without_positions_the_order_of_steps_does_not_matter(positions: bool) -> None:
    samples = make_samples([{"text": 4, "audio": 3, "vision": 5}] * 3)
    model = make_model(without_context(FusionConfig(positions=positions))).eval()
    forwards = model(batch_of(samples)).predictions["sentiment"]
    backwards = model(batch_of(turned(samples))).predictions["sentiment"]
    assert torch.allclose(forwards, backwards, atol=1e-5) is not positions


def test_pooling_first_reads_the_first_step_alone() -> None:
    """Without layers over the fused steps nothing else of the text can reach the prediction."""
    first = make_samples([{"text": 4, "audio": 2}] * 2, seed=1)
    other = [replace(s, features={**s.features, "text": s.features["text"].clone()}) for s in first]
    for sample in other:
        sample.features["text"][1:] += 1.0
    model = make_model(without_context(FusionConfig(pooling="first", layers=0))).eval()
    read = model(batch_of(first)).predictions["sentiment"]
    torch.testing.assert_close(model(batch_of(other)).predictions["sentiment"], read)
    assert (read != 0).all()


def test_pooling_max_is_the_largest_of_the_steps_width_by_width() -> None:
    """Nothing mixes the steps, so each step alone gives its part of the maximum; padding (of zeros) has none."""
    config = without_context(FusionConfig(pooling="max", layers=0, positions=False))
    model = make_model(config, ["text"]).eval()
    pooled: list[torch.Tensor] = []
    model.fusion.reduce.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0].detach()))
    long, short = make_samples([{"text": 4}, {"text": 1}], seed=3)
    steps = [Sample({"text": long.features["text"][place : place + 1]}, long.labels) for place in range(4)]
    model(batch_of([long, short]))
    model(batch_of(steps))
    model(batch_of([short]))
    torch.testing.assert_close(pooled[0][0], pooled[1].amax(dim=0))
    torch.testing.assert_close(pooled[0][1], pooled[2][0])


def test_pooling_first_reads_the_placeholder_where_there_is_no_text() -> None:
    samples = make_samples([{"audio": 2}, {"text": 3, "audio": 2}])
    model = make_model(without_context(FusionConfig(pooling="first"))).eval()
    together = model(batch_of(samples)).predictions["sentiment"]
    alone = model(batch_of(samples[:1])).predictions["sentiment"]
    torch.testing.assert_close(together[:1], alone)


def test_modality_dropout_hides_from_the_fusion_while_training() -> None:
    """Of 200 equal samples about half are predicted as if audio and vision, each by itself, were missing."""
    samples = make_samples([{"text": 2, "audio": 2, "vision": 2}]) * 200
    model = make_model(model_config(modality_dropout=0.5))
    torch.manual_seed(0)
    output = model.train()(batch_of(samples))
    for name in ("audio", "vision"):
        hidden = (output.gates[name][:, :2] == 0).all(dim=1).float().mean()
        assert 0.4 < hidden < 0.6
    assert len(output.predictions["sentiment"].round(decimals=4).unique()) == 4
    still = model.eval()(batch_of(samples)).predictions["sentiment"]
    assert len(still.round(decimals=4).unique()) == 1
