"""What every option of the loss group promises, found by glob: of ignored pixels, of masks' types, of batches."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from segkit.contracts import LossTerms, Prediction, QueryPrediction
from tests.composed import batch_of, experiment
from tests.harness.options import options

CLASSES, IGNORED = 7, 255
WEIGHTS = [1.0, 2.0, 0.5, 3.0, 1.0, 0.1, 4.0]

OVER_THE_BATCH = {
    "ohem": "which pixels are hard follows from all of the batch",
    "lovasz": "errors are sorted over the batch",
    "set_prediction": "the mean of masks is over all segments of the batch",
}
"""Losses whose value of a batch is not the mean of those of its samples, and why."""

OVER_PIXELS = ("ce", "focal")
"""Losses that are means over valid pixels."""


@functools.cache
def loss(name: str, weighted: bool = False) -> nn.Module:
    built = experiment(f"loss={name}", *[f"loss.class_weights={WEIGHTS}"] * weighted).loss()
    return built.eval()  # losses that draw at random draw the same every time


def has_weights(name: str) -> bool:
    return "class_weights:" in (Path(__file__).parents[2] / "conf" / "loss" / f"{name}.yaml").read_text()


EVERY = [
    (name, weighted) for name in options("loss") for weighted in (False, True) if not weighted or has_weights(name)
]
every = pytest.mark.parametrize(("name", "weighted"), EVERY)


def example(samples: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and a mask of one size, and logits of the classes of seven queries."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(samples, CLASSES, 16, 16, generator=random)
    mask = torch.randint(CLASSES, (samples, 16, 16), generator=random, dtype=torch.uint8)
    mask[:, :4] = IGNORED
    return logits, mask, torch.randn(samples, CLASSES, CLASSES + 1, generator=random)


def terms_of(criterion: nn.Module, logits: Tensor, mask: Tensor, classes: Tensor) -> LossTerms:
    return criterion(Prediction(logits, {}, [QueryPrediction(classes, logits)]), batch_of(mask))


@every
def test_ignored_pixels_change_neither_loss_nor_gradient(name: str, weighted: bool) -> None:
    criterion = loss(name, weighted)
    logits, mask, classes = example()
    other = torch.where((mask == IGNORED).unsqueeze(1), torch.full_like(logits, 9.0), logits)
    found: list[tuple[Tensor, Tensor]] = []
    for given in (logits, other):
        leaf = given.clone().requires_grad_()
        total = terms_of(criterion, leaf, mask, classes).total
        found.append((total.detach(), torch.autograd.grad(total, leaf)[0]))
    torch.testing.assert_close(found[0], found[1])
    assert found[0][1].abs().sum() > 0
    assert found[0][1][(mask == IGNORED).unsqueeze(1).expand_as(logits)].eq(0).all()


@every
def test_masks_of_any_integer_type_give_the_same_and_are_not_written_to(name: str, weighted: bool) -> None:
    logits, mask, classes = example()
    totals: list[Tensor] = []
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64):
        given = mask.to(dtype)
        before = given.clone()
        totals.append(terms_of(loss(name, weighted), logits, given, classes).total)
        assert torch.equal(given, before)
    assert all(torch.equal(total, totals[0]) for total in totals)


@every
def test_a_batch_of_nothing_but_ignored_pixels_is_zero_with_zero_gradient(name: str, weighted: bool) -> None:
    logits, mask, classes = example()
    leaves = [logits.requires_grad_(), classes.requires_grad_()]
    total = terms_of(loss(name, weighted), logits, torch.full_like(mask, IGNORED), classes).total
    assert float(total.detach()) == 0.0
    if total.requires_grad:
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
        assert all(gradient is None or gradient.eq(0).all() for gradient in gradients)


@pytest.mark.parametrize("name", [name for name in options("loss") if name not in OVER_THE_BATCH])
def test_a_batch_gives_the_mean_of_its_samples(name: str) -> None:
    logits, mask, classes = example(4)
    parts = [terms_of(loss(name), logits[part], mask[part], classes[part]).total for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(terms_of(loss(name), logits, mask, classes).total, torch.stack(parts).mean())


@pytest.mark.parametrize("name", OVER_PIXELS)
def test_samples_count_by_their_valid_pixels(name: str) -> None:
    logits, mask, classes = example(2)
    mask[1, :12] = IGNORED
    of_samples = [terms_of(loss(name), logits[i : i + 1], mask[i : i + 1], classes[i : i + 1]).total for i in (0, 1)]
    valid = (mask != IGNORED).sum(dim=(1, 2)).float()
    expected = (torch.stack(of_samples) * valid).sum() / valid.sum()
    torch.testing.assert_close(terms_of(loss(name), logits, mask, classes).total, expected)


@pytest.mark.parametrize("name", OVER_THE_BATCH)
def test_what_is_left_out_above_depends_on_the_batch_indeed(name: str) -> None:
    logits, mask, classes = example(4)
    mask[:2] = torch.where(mask[:2] == IGNORED, IGNORED, mask[:2] % 3).to(torch.uint8)
    logits[:2] *= 3
    parts = [terms_of(loss(name), logits[part], mask[part], classes[part]).total for part in (slice(0, 2), slice(2, 4))]
    whole = terms_of(loss(name), logits, mask, classes).total
    assert not torch.allclose(whole, torch.stack(parts).mean(), rtol=1e-5)
