from __future__ import annotations

import pytest
import torch

from segkit.contracts import Prediction
from segkit.losses.focal import FocalLoss
from tests.losses.test_base import value_and_gradient


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_it_is_finite_where_the_prediction_is_certain(gamma: float) -> None:
    loss = FocalLoss(num_classes=2, ignore_index=255, gamma=gamma)
    certain = torch.tensor([500.0, -500.0]).view(1, 2, 1, 1)
    mask = torch.zeros(1, 1, 1, dtype=torch.uint8)
    value, gradient = value_and_gradient(lambda x: loss(Prediction(x), mask).total, certain)
    assert value == 0
    assert gradient.isfinite().all()


def test_by_hand() -> None:
    """p = 1/2 everywhere: 0.25 * (1/2)^2 * ln 2; multi-label a quarter of the pixels have the class."""
    mask = torch.tensor([[[1, 0], [0, 0]]], dtype=torch.uint8)
    ln2 = 0.6931472
    loss = FocalLoss(num_classes=2, ignore_index=255)
    assert loss(Prediction(torch.zeros(1, 2, 1, 1)), mask).total.item() == pytest.approx(ln2 / 16)
    loss = FocalLoss(num_classes=1, ignore_index=255, multilabel=True)
    expected = (0.25 * 1 + 0.75 * 3) / 4 * ln2 / 4
    assert loss(Prediction(torch.zeros(1, 1, 1, 1)), mask).total.item() == pytest.approx(expected)
