from __future__ import annotations

import pytest
import torch

from segkit.contracts import Prediction
from segkit.losses.lovasz import LovaszLoss, lovasz_extension


def test_at_right_or_wrong_it_is_one_minus_the_intersection_over_union() -> None:
    """Truth 4 of 6 pixels; one of them missed and one other claimed: IoU = 3 / 5."""
    truth = torch.tensor([1, 1, 1, 1, 0, 0]).bool()
    errors = torch.tensor([0.0, 0, 0, 1, 1, 0], dtype=torch.float64)
    value, _ = lovasz_extension(errors, truth, torch.ones(6, dtype=torch.bool))
    assert value.item() == pytest.approx(2 / 5)


def test_the_gradient_tells_how_much_each_pixel_adds() -> None:
    """Missing the only pixel of a class takes its IoU from 1 to 0; claiming one more then adds nothing."""
    truth = torch.tensor([True, False])
    errors = torch.tensor([0.9, 0.5], dtype=torch.float64)
    value, slope = lovasz_extension(errors, truth, torch.ones(2, dtype=torch.bool))
    assert value.item() == pytest.approx(0.9)
    assert slope.tolist() == [1, 0]


def test_absent_classes_are_judged_only_where_each_class_is_a_question_of_its_own() -> None:
    logits = torch.tensor([3.0, 0.0, -2.0], dtype=torch.float64).view(1, 3, 1, 1)
    mask = torch.zeros(1, 1, 1, dtype=torch.uint8)
    p = logits.softmax(dim=1)[0, 0].item()
    assert LovaszLoss(num_classes=3, ignore_index=255)(Prediction(logits), mask).total.item() == pytest.approx(1 - p)
    channels = torch.tensor([1, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    loss = LovaszLoss(num_classes=3, ignore_index=255, multilabel=True)
    assert loss(Prediction(logits), channels).total.item() == pytest.approx((0 + 1 + 0) / 3)
