from __future__ import annotations

import torch

from segkit.contracts import Prediction
from segkit.losses.combined import CombinedLoss
from segkit.losses.dice_bce import DiceBceLoss
from segkit.losses.focal import FocalLoss


def test_parts_are_logged_before_they_are_weighted() -> None:
    prediction, mask = Prediction(torch.randn(2, 4, 4, 4)), torch.randint(4, (2, 8, 8))
    terms = CombinedLoss(num_classes=4, ignore_index=255, ce_weight=2.0, dice_weight=0.5)(prediction, mask)
    torch.testing.assert_close(terms.total, 2 * terms.parts["ce"] + terms.parts["dice"] / 2)
    terms = DiceBceLoss(num_classes=4, ignore_index=255)(prediction, mask)
    torch.testing.assert_close(terms.total, 0.7 * terms.parts["dice"] + 0.3 * terms.parts["bce"])


def test_a_multiclass_mask_is_a_yes_or_no_question_for_each_class() -> None:
    prediction, mask = Prediction(torch.randn(2, 4, 4, 4)), torch.randint(4, (2, 8, 8))
    channels = torch.nn.functional.one_hot(mask, 4).movedim(-1, 1)
    one, other = (DiceBceLoss(num_classes=4, ignore_index=255, multilabel=x) for x in (False, True))
    torch.testing.assert_close(one(prediction, mask).total, other(prediction, channels).total)
    # A class more or less changes nothing for the others, as it does for a softmax.
    assert not torch.allclose(
        FocalLoss(num_classes=4, ignore_index=255)(prediction, mask).total,
        FocalLoss(num_classes=4, ignore_index=255, multilabel=True)(prediction, channels).total,
    )
