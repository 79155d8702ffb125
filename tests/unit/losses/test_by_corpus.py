"""Losses of a pool against a naive computation: corpora weigh by their samples, and do not see each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ivr_dist.config import Config, SvrConfig
from ivr_dist.data.batches.batch import Batch
from ivr_dist.losses.step_counts import StepCounts, StepLayout, local_counts
from ivr_dist.losses.terms import loss_terms
from ivr_dist.model.spec import IVROutput
from ivr_dist.planning.pool_layout import CorpusLayout
from tests.batches import TASKS, batch_of, make_model, mixed_samples, no_reduce

NUMBERS = [0, 1, 1, 0, 2, 0, 1, 0, 0, 1]
CORPORA = tuple(
    CorpusLayout(name=name, sets={}, tasks=tasks, heads={task: task for task in tasks}, loss_weight=weight)
    for name, tasks, weight in (
        ("a", TASKS, 1.0),
        ("b", {"sentiment": TASKS["sentiment"]}, 0.5),
        ("c", {"type": TASKS["type"]}, 2.0),
    )
)
LAYOUT = StepLayout(len(NUMBERS), 1, 5, CORPORA)
MODALITIES = ("text", "audio", "vision")


def batch() -> Batch:
    plain = batch_of(mixed_samples(len(NUMBERS)))
    corpus = torch.tensor(NUMBERS)
    masks = {
        "sentiment": plain.label_mask["sentiment"] & (corpus != 2),
        "type": plain.label_mask["type"] & (corpus != 1),
    }
    weights = {"type": torch.linspace(0.5, 2.0, len(NUMBERS))}
    return replace(plain, corpus=corpus, label_mask=masks, label_weight=weights)


def computed(own: Batch, config: Config) -> tuple[dict[str, float], StepCounts, IVROutput]:
    output = make_model()(own)
    vector = local_counts([own], LAYOUT, MODALITIES, list(TASKS))
    counts = StepCounts.from_vector(vector, LAYOUT, MODALITIES, list(TASKS))
    terms = loss_terms(output, own, counts, LAYOUT, config, 0, 1, no_reduce)
    return {name: float(value) for name, value in terms.values.items()}, counts, output


def test_counts_are_by_corpus() -> None:
    own = batch()
    _, counts, _ = computed(own, Config())
    assert counts.samples == 10 and counts.shares.tolist() == pytest.approx([0.5, 0.4, 0.1])
    for modality in MODALITIES:
        part = own.modalities[modality]
        for number in range(3):
            steps = own.corpus[part.sample] == number
            assert counts.steps[modality][number] == steps.sum()
            assert counts.pairs[modality][number] == steps[part.pairs].sum()
    assert list(counts.labels) == ["a/sentiment", "a/type", "b/sentiment", "c/type"]
    cells = counts.group_codes.view(2, 3, 3)
    for group in range(2):
        for number in range(3):
            rows = [row for row, corpus in enumerate(NUMBERS) if row // 5 == group and corpus == number]
            expected = [int(own.modalities[m].present[rows].sum()) for m in MODALITIES]
            assert cells[group, number].tolist() == expected


def test_padding_and_skipped_samples_are_by_corpus() -> None:
    """Each micro-batch is padded to its own longest sample; the two rows of counts are of the longest modality."""
    samples = mixed_samples(len(NUMBERS))
    vector, real, padded = torch.zeros(1), [0, 0, 0], [0, 0, 0]
    for first, last in ((0, 6), (6, 10)):
        own = replace(batch_of(samples[first:last], range(first, last)), corpus=torch.tensor(NUMBERS[first:last]))
        lengths = [max(len(steps) for steps in sample.features.values()) for sample in samples[first:last]]
        for number, length in zip(NUMBERS[first:last], lengths, strict=True):
            real[number] += length
            padded[number] += max(lengths) if length else 0
        vector = vector + local_counts([own], LAYOUT, MODALITIES, list(TASKS), skipped=[1, 2, 2] if first else [1])
    counts = StepCounts.from_vector(vector, LAYOUT, MODALITIES, list(TASKS))
    assert counts.real_steps.tolist() == real and counts.padded_steps.tolist() == padded
    assert sum(padded) > sum(real)
    assert counts.skipped.tolist() == [0, 2, 2]


def test_tasks_are_means_over_the_labels_of_a_corpus() -> None:
    own = batch()
    values, _, output = computed(own, Config())
    for corpus, task in (("a", "sentiment"), ("b", "sentiment"), ("a", "type"), ("c", "type")):
        number = "abc".index(corpus)
        rows = torch.nonzero(own.label_mask[task] & (own.corpus == number)).flatten()
        predicted, truth = output.predictions[task][rows], own.labels[task][rows]
        if task == "type":
            weights = own.label_weight["type"][rows]
            errors = F.cross_entropy(predicted, truth, reduction="none")
            expected = (errors * weights).sum() / weights.sum().clamp(min=1)
        else:
            expected = (predicted - truth).square().sum() / max(len(rows), 1)
        assert values[f"task/{corpus}/{task}"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("kind", ["tv_l1", "l2", "js"])
def test_reconstruction_and_variation_are_means_by_corpus_and_modality(kind: str) -> None:
    own = batch()
    config = Config(svr=SvrConfig(kind=kind))  # type: ignore[arg-type]
    values, counts, output = computed(own, config)
    reconstruction, variation = 0.0, 0.0
    for number in range(3):
        errors, changes = [], []
        for modality in MODALITIES:
            part = own.modalities[modality]
            steps = own.corpus[part.sample] == number
            error = (output.reconstructed[modality] - output.encoded[modality]).square().mean(dim=1)
            if steps.any():
                errors.append(float(error[steps].mean()))
            pairs = part.pairs[steps[part.pairs]]
            if len(pairs):
                changes.append(_variation(output, modality, pairs, kind))
        reconstruction += float(counts.shares[number]) * sum(errors) / max(len(errors), 1)
        variation += float(counts.shares[number]) * sum(changes) / max(len(changes), 1)
    assert values["reconstruction"] == pytest.approx(reconstruction, rel=1e-5)
    found = sum(value for name, value in values.items() if name.startswith("svr/"))
    assert found == pytest.approx(variation, rel=1e-5)


def _variation(output: IVROutput, modality: str, pairs: torch.Tensor, kind: str) -> float:
    codes = [output.private[modality], output.shared[modality]]
    if kind == "js":
        joined = torch.softmax(torch.cat(codes, dim=-1), dim=-1)
        p, q = joined[pairs] + 1e-10, joined[pairs + 1] + 1e-10
        middle = (p + q) / 2
        divergence = 0.5 * ((p * (p / middle).log()).sum(-1) + (q * (q / middle).log()).sum(-1))
        return float(divergence.mean())
    power = 1 if kind == "tv_l1" else 2
    return float(torch.stack([(code[pairs + 1] - code[pairs]).abs().pow(power).mean() for code in codes]).mean())


def test_gradients_of_weighted_variation_are_those_of_autograd() -> None:
    from ivr_dist.losses.svr import variation

    for kind in ("tv_l1", "l2"):
        code = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
        pairs, weights = torch.tensor([0, 2, 3, 5]), torch.tensor([0.2, 1.0, 3.0, 0.5], dtype=torch.float64)
        (found,) = torch.autograd.grad(variation([code], pairs, kind, 1.0, weights), code)
        change = code[pairs + 1] - code[pairs]
        plain = ((change.abs() if kind == "tv_l1" else change.square()) * weights[:, None]).sum() / 3
        (expected,) = torch.autograd.grad(plain, code)
        torch.testing.assert_close(found, expected)


def test_consistency_compares_modalities_within_a_corpus() -> None:
    """Codes that are equal in all modalities but differ between corpora: nothing to compare, whoever lacks what."""
    from ivr_dist.losses.consistency import consistency

    torch.manual_seed(0)
    corpus = torch.tensor([0] * 8 + [1] * 8)
    content = torch.randn(16, 4) + 5.0 * corpus[:, None]
    present = torch.ones(3, 16, dtype=torch.bool)
    present[2, 8:] = False
    pooled = content.expand(3, 16, 4)

    def term(group: torch.Tensor, cells: int) -> float:
        counts = torch.stack([torch.bincount(group[present[m]], minlength=cells).double() for m in range(3)], dim=1)
        share = consistency(pooled, present, group, counts, counts, 5, no_reduce)
        return float(share.value())

    assert term(torch.zeros(16, dtype=torch.long), 1) > 0.5
    assert term(corpus, 2) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("kind", ["tv_l1", "l2", "js"])
def test_a_pool_of_one_corpus_has_the_losses_of_that_corpus(kind: str) -> None:
    plain = batch_of(mixed_samples(len(NUMBERS)))
    config = Config(svr=SvrConfig(kind=kind))  # type: ignore[arg-type]
    output = make_model()(plain)
    found = []
    for corpora in ((), CORPORA[:1]):
        layout = StepLayout(len(NUMBERS), 1, 5, corpora)
        own = replace(plain, corpus=torch.zeros(len(NUMBERS), dtype=torch.long)) if corpora else plain
        vector = local_counts([own], layout, MODALITIES, list(TASKS))
        counts = StepCounts.from_vector(vector, layout, MODALITIES, list(TASKS))
        terms = loss_terms(output, own, counts, layout, config, 0, 1, no_reduce).values
        found.append({name.replace("task/a/", "task/"): float(value) for name, value in terms.items()})
    assert found[1] == pytest.approx(found[0], rel=1e-6)


def test_a_corpus_that_is_held_out_or_absent_leaves_the_losses_of_the_others() -> None:
    """More corpora in the layout change nothing, and their terms are 0."""
    own = batch()
    values, _, output = computed(own, Config())
    further = CorpusLayout(name="d", sets={}, tasks=TASKS, heads={task: task for task in TASKS})
    grown = replace(LAYOUT, corpora=(*CORPORA, further, replace(further, name="e", held_out=True)))
    vector = local_counts([own], grown, MODALITIES, list(TASKS))
    counts = StepCounts.from_vector(vector, grown, MODALITIES, list(TASKS))
    terms = loss_terms(output, own, counts, grown, Config(), 0, 1, no_reduce).values
    found = {name: float(value) for name, value in terms.items()}
    assert found.pop("task/d/sentiment") == found.pop("task/d/type") == 0.0
    assert found == pytest.approx(values, rel=1e-6)
