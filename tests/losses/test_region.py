"""Dice, IoU, Tversky, focal Tversky and generalised Dice by hand, and how they follow from each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from segkit.contracts import Prediction
from segkit.losses.dice import DiceLoss
from segkit.losses.focal_tversky import FocalTverskyLoss
from segkit.losses.generalised_dice import GeneralisedDiceLoss
from segkit.losses.iou import IouLoss
from segkit.losses.tversky import TverskyLoss
from tests.losses.reference import IGNORE, cases

SPACE = {"num_classes": 2, "ignore_index": IGNORE}
# Two pixels of class 0, both given p = 0.5: I = 1, P = 1, G = 2 for class 0 and I = 0, P = 1, G = 0 for class 1.
EVEN, ZEROS = Prediction(torch.zeros(1, 2, 1, 2)), torch.zeros(1, 1, 2, dtype=torch.uint8)


def test_dice_by_hand() -> None:
    assert DiceLoss(**SPACE)(EVEN, ZEROS).total.item() == pytest.approx(((1 - 3 / 4) + (1 - 1 / 2)) / 2)


def test_iou_by_hand() -> None:
    assert IouLoss(**SPACE)(EVEN, ZEROS).total.item() == pytest.approx(((1 - 2 / 3) + (1 - 1 / 2)) / 2)


def test_tversky_by_hand() -> None:
    """FP 0 and FN 1 for class 0; FP 1 and FN 0 for class 1."""
    loss = TverskyLoss(**SPACE, alpha=0.3, beta=0.7)
    assert loss(EVEN, ZEROS).total.item() == pytest.approx(((1 - 1.5 / 2.2) + (1 - 0.5 / 0.8)) / 2)
    focal = FocalTverskyLoss(**SPACE, alpha=0.3, beta=0.7, gamma=0.5)
    assert focal(EVEN, ZEROS).total.item() == pytest.approx(((1 - 1.5 / 2.2) ** 2 + (1 - 0.5 / 0.8) ** 2) / 2)


def test_generalised_dice_by_hand() -> None:
    """Three pixels of class 0 and one of class 1, all given p = 0.5: w = 1/9 and 1."""
    mask = torch.tensor([[[0, 0, 0, 1]]])
    loss = GeneralisedDiceLoss(**SPACE)(Prediction(torch.zeros(1, 2, 1, 1)), mask).total
    assert loss.item() == pytest.approx(1 - (2 * (1.5 / 9 + 0.5) + 1) / ((2 + 3) / 9 + (2 + 1) + 1))


@given(case=cases())
@settings(max_examples=25, deadline=None)
def test_even_tversky_is_dice_and_plain_focal_tversky_is_tversky(case: tuple[Tensor, Tensor]) -> None:
    logits, mask = case
    space = {"num_classes": 4, "ignore_index": IGNORE}
    even = {"alpha": 0.5, "beta": 0.5}
    dice = DiceLoss(**space)(Prediction(logits), mask).total
    torch.testing.assert_close(TverskyLoss(**space, **even)(Prediction(logits), mask).total, dice)
    torch.testing.assert_close(FocalTverskyLoss(**space, **even, gamma=1.0)(Prediction(logits), mask).total, dice)


@pytest.mark.parametrize("loss", [DiceLoss, IouLoss, TverskyLoss, FocalTverskyLoss, GeneralisedDiceLoss])
def test_a_perfect_prediction_costs_nothing_even_where_classes_are_absent(loss: type) -> None:
    mask = torch.tensor([[[0, 0], [1, IGNORE]]])
    logits = torch.full((1, 4, 2, 2), -50.0)
    logits[0, 0, 0], logits[0, 1, 1] = 50, 50
    total = loss(num_classes=4, ignore_index=IGNORE)(Prediction(logits), mask).total
    assert total.item() == pytest.approx(0, abs=1e-6)
