from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segkit.contracts import Prediction
from segkit.losses.cross_entropy import CrossEntropyLoss
from tests.losses.reference import IGNORE, cases


@settings(max_examples=25, deadline=None)
@given(case=cases(), smoothing=st.sampled_from([0.0, 0.1, 0.7]), weighted=st.booleans())
def test_it_equals_pytorch(case: tuple[Tensor, Tensor], smoothing: float, weighted: bool) -> None:
    _, mask = case
    if (mask == IGNORE).all():
        return  # PyTorch gives NaN
    logits = torch.randn(len(mask), 4, *mask.shape[-2:], dtype=torch.float64)
    weights = [0.5, 2.0, 1.0, 0.25] if weighted else None
    loss = CrossEntropyLoss(num_classes=4, ignore_index=IGNORE, label_smoothing=smoothing, class_weights=weights)
    expected = F.cross_entropy(
        logits,
        mask.long(),
        weight=torch.tensor(weights).double() if weights else None,
        ignore_index=IGNORE,
        label_smoothing=smoothing,
    )
    torch.testing.assert_close(loss(Prediction(logits), mask).total, expected)


@settings(max_examples=25, deadline=None)
@given(case=cases(multilabel=True), smoothing=st.sampled_from([0.0, 0.1]))
def test_multilabel_equals_pytorch(case: tuple[Tensor, Tensor], smoothing: float) -> None:
    _, mask = case
    logits = torch.randn(mask.shape, dtype=torch.float64)
    loss = CrossEntropyLoss(num_classes=4, ignore_index=IGNORE, multilabel=True, label_smoothing=smoothing)
    valid = mask != IGNORE
    if valid.any():
        softened = mask.double() * (1 - smoothing) + smoothing / 2
        expected = F.binary_cross_entropy_with_logits(logits[valid], softened[valid])
        torch.testing.assert_close(loss(Prediction(logits), mask).total, expected)


def test_by_hand() -> None:
    """Even logits of 4 classes: every pixel costs ln 4, whatever its weight."""
    loss = CrossEntropyLoss(num_classes=4, ignore_index=IGNORE, class_weights=[1.0, 0.0, 5.0, 0.5])
    total = loss(Prediction(torch.zeros(1, 4, 1, 1)), torch.tensor([[[0, 1], [2, IGNORE]]])).total
    assert total.item() == pytest.approx(1.3862944)
