from __future__ import annotations

import pytest
import torch

from segkit.contracts import Prediction
from segkit.losses.ohem import OhemLoss

# Four pixels of class 0 with p = 0.9, 0.8, 0.6, 0.5.
P = torch.tensor([0.9, 0.8, 0.6, 0.5]).view(1, 1, 1, 4)
PREDICTION, ZEROS = Prediction(torch.cat([P, 1 - P], dim=1).log()), torch.zeros(1, 1, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("threshold", "min_kept", "kept"),
    [(0.7, 0.0, 2), (0.7, 0.75, 3), (0.55, 0.0, 1), (0.55, 0.26, 2), (0.1, 0.0, 0), (1.0, 0.0, 4), (0.1, 1.0, 4)],
)
def test_the_mean_is_over_the_hard_pixels(threshold: float, min_kept: float, kept: int) -> None:
    loss = OhemLoss(num_classes=2, ignore_index=255, threshold=threshold, min_kept=min_kept)
    hardest = -P.flatten().log()[4 - kept :]
    expected = hardest.mean().item() if kept else 0
    assert loss(PREDICTION, ZEROS).total.item() == pytest.approx(expected)


def test_ignored_pixels_are_not_among_the_hard_ones() -> None:
    mask = torch.tensor([[[0, 0, 0, 255]]], dtype=torch.uint8)
    loss = OhemLoss(num_classes=2, ignore_index=255, threshold=0.1, min_kept=1 / 3)
    assert loss(PREDICTION, mask).total.item() == pytest.approx(-torch.tensor(0.6).log().item())
