"""Laws every loss keeps, against an independent float64 computation over one-hot masks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segkit.contracts import Prediction, UserError
from segkit.losses.base import Pixels, SegmentationLoss
from segkit.losses.combined import CombinedLoss
from segkit.losses.cross_entropy import CrossEntropyLoss
from segkit.losses.dice import DiceLoss
from segkit.losses.focal import FocalLoss
from segkit.losses.region import class_sums
from segkit.losses.tversky import TverskyLoss

IGNORE = 255
WEIGHTS = [0.5, 2.0, 1.0, 0.0]
LOSSES: dict[str, Callable[..., SegmentationLoss]] = {
    "ce": CrossEntropyLoss,
    "dice": DiceLoss,
    "combined": CombinedLoss,
    "focal": FocalLoss,
    "tversky": TverskyLoss,
}


def reference(name: str, logits: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """The formulas as the literature prints them, over one-hot masks."""
    valid = (mask != IGNORE).unsqueeze(1).double()
    truth = F.one_hot(torch.where(mask == IGNORE, 0, mask.long()), 4).movedim(-1, 1) * valid
    p = logits.softmax(dim=1)
    weight = weights.view(1, -1, 1, 1)
    pixels = valid.sum().clamp_min(1)
    if name == "ce":
        weighed = (weight * truth).sum()
        return -(weight * truth * p.log()).sum() / (weighed if valid.any() else 1)
    if name == "focal":
        return -(0.25 * weight * truth * (1 - p) ** 2 * p.log()).sum() / pixels
    if name == "combined":
        return reference("ce", logits, mask, weights) + reference("dice", logits, mask, torch.ones(4).double())
    overlap, predicted, actual = ((x * valid).sum(dim=(2, 3)) for x in (p * truth, p, truth))
    if name == "dice":
        loss = 1 - (2 * overlap + 1) / (predicted + actual + 1)
    else:
        loss = 1 - (overlap + 0.5) / (overlap + 0.3 * (predicted - overlap) + 0.7 * (actual - overlap) + 0.5)
    return (loss * weights).mean(dim=0).sum() / weights.sum()


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    batch, height, width = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = 3 * torch.randn(batch, 4, height, width, generator=generator, dtype=torch.float64)
    present = torch.tensor(draw(st.lists(st.sampled_from([0, 1, 2, IGNORE]), min_size=1, max_size=4)))
    mask = present[torch.randint(len(present), (batch, height, width), generator=generator)]
    return logits, mask.to(torch.uint8)


def value_and_gradient(loss: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits)
    value.backward()
    assert logits.grad is not None
    return value.detach().double(), logits.grad.double()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_equals_the_formula_and_its_gradient(
    name: str, weights: list[float] | None, case: tuple[Tensor, Tensor]
) -> None:
    logits, mask = case
    ours = LOSSES[name](num_classes=4, ignore_index=IGNORE, class_weights=weights)
    plain = torch.tensor(weights or [1.0] * 4, dtype=torch.float64)
    value, gradient = value_and_gradient(lambda x: ours(Prediction(x), mask).total, logits.float())
    expected, slope = value_and_gradient(lambda x: reference(name, x, mask, plain), logits)
    torch.testing.assert_close(value, expected, atol=2e-6, rtol=2e-5)
    torch.testing.assert_close(gradient, slope, atol=2e-6, rtol=2e-4)


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=25, deadline=None)
@given(case=cases())
def test_ignored_pixels_change_neither_loss_nor_gradient(name: str, case: tuple[Tensor, Tensor]) -> None:
    logits, mask = case
    logits = logits.float()
    loss = LOSSES[name](num_classes=4, ignore_index=IGNORE)
    ignored = (mask == IGNORE).unsqueeze(1)
    disturbed = torch.where(ignored, logits.flip(1) * 5 - 1, logits)
    value, gradient = value_and_gradient(lambda x: loss(Prediction(x), mask).total, logits)
    other, other_gradient = value_and_gradient(lambda x: loss(Prediction(x), mask).total, disturbed)
    assert torch.equal(value, other)
    assert torch.equal(gradient, other_gradient)
    assert not gradient.masked_select(ignored).any()


@pytest.mark.parametrize("name", LOSSES)
def test_all_ignored_is_zero_with_zero_gradient(name: str) -> None:
    loss = LOSSES[name](num_classes=4, ignore_index=IGNORE, class_weights=WEIGHTS)
    mask = torch.full((2, 3, 3), IGNORE, dtype=torch.uint8)
    value, gradient = value_and_gradient(lambda x: loss(Prediction(x), mask).total, torch.randn(2, 4, 3, 3))
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    loss = LOSSES[name](num_classes=4, ignore_index=IGNORE)
    logits = torch.randn(2, 4, 8, 8).to(dtype)
    mask = torch.randint(4, (2, 8, 8), dtype=torch.uint8)
    expected = loss(Prediction(logits.float()), mask).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = loss(Prediction(logits), mask).total
    assert total.dtype == torch.float32
    assert torch.equal(total, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_mask_types_and_ignore_ids_agree(name: str) -> None:
    logits, mask = torch.randn(1, 4, 4, 4), torch.randint(4, (1, 4, 4))
    mask[0, 0] = 255
    small = LOSSES[name](num_classes=4, ignore_index=255)(Prediction(logits), mask.to(torch.uint8)).total
    for ignored in (-1, 65535):
        wide = torch.where(mask == 255, ignored, mask).int()
        assert torch.equal(LOSSES[name](num_classes=4, ignore_index=ignored)(Prediction(logits), wide).total, small)


def test_auxiliary_heads_are_added_with_their_weight() -> None:
    loss = CrossEntropyLoss(num_classes=2, ignore_index=IGNORE, auxiliary_weight=0.25)
    mask = torch.zeros(1, 4, 4, dtype=torch.uint8)
    even, sure = torch.zeros(1, 2, 2, 2), torch.tensor([100.0, 0.0]).view(1, 2, 1, 1)
    terms = loss(Prediction(sure, {"auxiliary": even}), mask)
    ln2 = torch.tensor(2.0).log()
    torch.testing.assert_close(terms.total, ln2 / 4)
    torch.testing.assert_close(terms.parts, {"ce": torch.tensor(0.0), "auxiliary": ln2})


def test_combined_logs_unweighted_parts() -> None:
    loss = CombinedLoss(num_classes=4, ignore_index=IGNORE, ce_weight=2.0, dice_weight=0.5)
    terms = loss(Prediction(torch.randn(2, 4, 4, 4)), torch.randint(4, (2, 8, 8)))
    torch.testing.assert_close(terms.total, 2 * terms.parts["ce"] + terms.parts["dice"] / 2)


@settings(max_examples=25, deadline=None)
@given(case=cases(), smoothing=st.sampled_from([0.0, 0.1, 0.7]), weighted=st.booleans())
def test_cross_entropy_equals_pytorch(case: tuple[Tensor, Tensor], smoothing: float, weighted: bool) -> None:
    logits, mask = case
    weights = [0.5, 2.0, 1.0, 0.25] if weighted else None
    loss = CrossEntropyLoss(num_classes=4, ignore_index=IGNORE, label_smoothing=smoothing, class_weights=weights)
    if (mask == IGNORE).all():
        return  # PyTorch gives NaN
    expected = F.cross_entropy(
        logits.float(),
        mask.long(),
        weight=torch.tensor(weights) if weights else None,
        ignore_index=IGNORE,
        label_smoothing=smoothing,
    )
    torch.testing.assert_close(loss(Prediction(logits), mask).total, expected)


def test_dice_by_hand() -> None:
    """Two pixels of class 0, both given p = 0.5: I = 1, P = 1, G = 2 and I = 0, P = 1, G = 0."""
    loss = DiceLoss(num_classes=2, ignore_index=IGNORE)
    total = loss(Prediction(torch.zeros(1, 2, 1, 2)), torch.zeros(1, 1, 2)).total
    assert total.item() == pytest.approx(((1 - 3 / 4) + (1 - 1 / 2)) / 2)


@given(case=cases())
@settings(max_examples=25, deadline=None)
def test_even_tversky_is_dice(case: tuple[Tensor, Tensor]) -> None:
    logits, mask = case
    tversky = TverskyLoss(num_classes=4, ignore_index=IGNORE, alpha=0.5, beta=0.5)
    dice = DiceLoss(num_classes=4, ignore_index=IGNORE)
    torch.testing.assert_close(tversky(Prediction(logits), mask).total, dice(Prediction(logits), mask).total)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_finite_where_the_prediction_is_certain(gamma: float) -> None:
    loss = FocalLoss(num_classes=2, ignore_index=IGNORE, gamma=gamma)
    certain = torch.tensor([500.0, -500.0]).view(1, 2, 1, 1)
    value, gradient = value_and_gradient(lambda x: loss(Prediction(x), torch.zeros(1, 1, 1)).total, certain)
    assert value == 0
    assert gradient.isfinite().all()


def test_sums_of_a_large_image_lose_nothing() -> None:
    """2 million pixels of p = 0.01 sum to 20,972; adding them up in float32 gives 20,580."""
    p = torch.tensor([0.01, 0.99]).log().view(1, 2, 1, 1).expand(1, 2, 1024, 2048)
    target = torch.zeros(1, 1024, 2048, dtype=torch.long)
    overlap = class_sums(Pixels(p, target, torch.ones_like(target, dtype=torch.bool))).overlap
    assert overlap[0, 0].item() == pytest.approx(0.01 * 2**21, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, "loss.class_weights has 2 entries for 4 classes"),
        ({"class_weights": [1.0, -2.0, 0.0, 0.0]}, "from 0 up"),
        ({"class_weights": [0.0] * 4}, "not all of them 0"),
        ({"auxiliary_weight": -1.0}, "loss.auxiliary_weight=-1.0"),
        ({"label_smoothing": 1.5}, "loss.label_smoothing=1.5"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CrossEntropyLoss(num_classes=4, ignore_index=IGNORE, **arguments)


def test_ids_out_of_range_are_refused() -> None:
    loss = CombinedLoss(num_classes=4, ignore_index=IGNORE)
    with pytest.raises((RuntimeError, IndexError), match="out of"):
        loss(Prediction(torch.randn(1, 4, 2, 2)), torch.full((1, 2, 2), 7, dtype=torch.uint8))
