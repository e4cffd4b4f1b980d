from __future__ import annotations

import torch

from segkit.contracts import Prediction
from segkit.losses.boundary import BoundaryLoss, signed_distance


def test_distances_along_a_line() -> None:
    truth = torch.tensor([0, 0, 0, 1, 1, 1, 0]).bool().view(1, 1, 7)
    distances = signed_distance(truth, torch.ones_like(truth))
    assert distances.flatten().tolist() == [3, 2, 1, 0, -1, 0, 1]


def test_an_ignored_strip_makes_no_boundary() -> None:
    """The class fills what is valid to the left: there its boundary is the one far to the right."""
    mask = torch.tensor([1, 1, 255, 1, 0]).view(1, 1, 5)
    distances = signed_distance(mask == 1, mask != 255)
    assert distances.flatten().tolist() == [-3, -2, 0, 0, 1]


def test_a_class_that_a_sample_lacks_or_that_fills_it_has_no_boundary() -> None:
    loss = BoundaryLoss(num_classes=3, ignore_index=255)
    assert loss(Prediction(torch.randn(1, 3, 4, 4)), torch.ones(1, 4, 4, dtype=torch.uint8)).total == 0


def test_moving_the_prediction_towards_the_truth_lowers_it() -> None:
    loss = BoundaryLoss(num_classes=2, ignore_index=255)
    mask = torch.zeros(1, 1, 8, dtype=torch.uint8)
    mask[..., :4] = 1

    def predicted(width: int) -> Prediction:
        claimed = torch.arange(8).view(1, 1, 1, 8) < width
        return Prediction(torch.cat([~claimed, claimed], dim=1) * 20.0)

    values = [loss(predicted(width), mask).total.item() for width in (8, 6, 4)]
    assert values[0] > values[1] > values[2]
