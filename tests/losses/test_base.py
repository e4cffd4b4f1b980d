"""Laws that every loss keeps, against an independent float64 computation over one-hot masks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segkit.contracts import Prediction, UserError
from segkit.losses.base import SegmentationLoss
from segkit.losses.boundary import BoundaryLoss
from segkit.losses.combined import CombinedLoss
from segkit.losses.cross_entropy import CrossEntropyLoss
from segkit.losses.dice import DiceLoss
from segkit.losses.dice_bce import DiceBceLoss
from segkit.losses.focal import FocalLoss
from segkit.losses.focal_tversky import FocalTverskyLoss
from segkit.losses.generalised_dice import GeneralisedDiceLoss
from segkit.losses.iou import IouLoss
from segkit.losses.lovasz import LovaszLoss
from segkit.losses.ohem import OhemLoss
from segkit.losses.tversky import TverskyLoss
from tests.losses.reference import CLASSES, IGNORE, NAMES, WEIGHTS, cases, reference

LOSSES: dict[str, Callable[..., SegmentationLoss]] = dict(
    zip(
        NAMES,
        [
            CrossEntropyLoss,
            DiceLoss,
            GeneralisedDiceLoss,
            IouLoss,
            TverskyLoss,
            FocalTverskyLoss,
            FocalLoss,
            CombinedLoss,
            DiceBceLoss,
            LovaszLoss,
            OhemLoss,
            BoundaryLoss,
        ],
        strict=True,
    )
)
EVERY = pytest.mark.parametrize("name", LOSSES)


def built(name: str, **options: object) -> SegmentationLoss:
    return LOSSES[name](**{"num_classes": CLASSES, "ignore_index": IGNORE, **options})


def value_and_gradient(loss: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits)
    value.backward()
    assert logits.grad is not None
    return value.detach().double(), logits.grad.double()


@EVERY
@pytest.mark.parametrize("multilabel", [False, True], ids=["multiclass", "multilabel"])
@settings(max_examples=25, deadline=None)
@given(data=st.data(), weights=st.sampled_from([None, WEIGHTS]))
def test_equals_the_formula_and_its_gradient(
    name: str, multilabel: bool, data: st.DataObject, weights: list[float] | None
) -> None:
    logits, mask = data.draw(cases(multilabel=multilabel))
    loss = built(name, class_weights=weights, multilabel=multilabel)
    expected, slope = value_and_gradient(lambda x: reference(name, x, mask, weights), logits)
    value, gradient = value_and_gradient(lambda x: loss(Prediction(x), mask).total, logits)
    torch.testing.assert_close(value, expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(gradient, slope, atol=1e-10, rtol=1e-10)
    value, gradient = value_and_gradient(lambda x: loss(Prediction(x), mask).total, logits.float())
    torch.testing.assert_close(value, expected, atol=2e-6, rtol=1e-5)
    if name != "lovasz":  # errors that only differ beyond float32 may change places
        torch.testing.assert_close(gradient, slope, atol=2e-6, rtol=2e-5)


@EVERY
@pytest.mark.parametrize("multilabel", [False, True], ids=["multiclass", "multilabel"])
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_ignored_pixels_change_neither_loss_nor_gradient(name: str, multilabel: bool, data: st.DataObject) -> None:
    _, mask = data.draw(cases(multilabel=multilabel))
    logits = torch.randn(len(mask), CLASSES, *mask.shape[-2:])
    loss = built(name, multilabel=multilabel)
    ignored = mask == IGNORE if multilabel else (mask == IGNORE).unsqueeze(1)
    disturbed = torch.where(ignored, logits.flip(1) * 5 - 1, logits)
    value, gradient = value_and_gradient(lambda x: loss(Prediction(x), mask).total, logits)
    other, other_gradient = value_and_gradient(lambda x: loss(Prediction(x), mask).total, disturbed)
    assert torch.equal(value, other)
    assert torch.equal(gradient, other_gradient)
    assert not gradient.masked_select(ignored).any()


@EVERY
@pytest.mark.parametrize("multilabel", [False, True], ids=["multiclass", "multilabel"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_all_ignored_is_zero_with_zero_gradient(name: str, multilabel: bool, weights: list[float] | None) -> None:
    loss = built(name, class_weights=weights, multilabel=multilabel)
    mask = torch.full((2, CLASSES, 6, 6) if multilabel else (2, 6, 6), IGNORE, dtype=torch.uint8)
    value, gradient = value_and_gradient(lambda x: loss(Prediction(x), mask).total, torch.randn(2, CLASSES, 3, 3))
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("name", ["ce", "ohem", "lovasz", "combined"])
def test_a_batch_of_classes_of_no_weight_is_no_division_by_zero(name: str) -> None:
    options = {"label_smoothing": 0.1} if name in ("ce", "ohem", "combined") else {}
    loss = built(name, class_weights=[0.0, 1.0, 1.0, 1.0], **options)
    mask = torch.zeros(1, 4, 4, dtype=torch.uint8)
    value, gradient = value_and_gradient(lambda x: loss(Prediction(x), mask).total, torch.randn(1, CLASSES, 2, 2))
    assert value.isfinite()
    assert gradient.isfinite().all()
    if name != "combined":
        assert value == 0
        assert not gradient.any()


@EVERY
@pytest.mark.parametrize("multilabel", [False, True], ids=["multiclass", "multilabel"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(name: str, multilabel: bool, dtype: torch.dtype) -> None:
    loss = built(name, multilabel=multilabel)
    logits = torch.randn(2, CLASSES, 4, 4).to(dtype)
    mask = torch.randint(2, (2, CLASSES, 8, 8) if multilabel else (2, 8, 8), dtype=torch.uint8)
    expected, slope = value_and_gradient(lambda x: loss(Prediction(x), mask).total, logits.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = value_and_gradient(lambda x: loss(Prediction(x), mask).total, logits)
        assert loss(Prediction(logits), mask).total.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(gradient, slope.to(dtype).double())


@EVERY
def test_mask_types_and_ignore_ids_agree(name: str) -> None:
    logits, mask = torch.randn(1, CLASSES, 2, 2), torch.randint(CLASSES, (1, 4, 4))
    mask[0, 0] = 255
    small = built(name)(Prediction(logits), mask.to(torch.uint8)).total
    for ignored in (-1, 65535):
        wide = torch.where(mask == 255, ignored, mask).int()
        assert torch.equal(built(name, ignore_index=ignored)(Prediction(logits), wide).total, small)
    # A mask type that cannot hold the ignored id holds no ignored pixel.
    full = torch.randint(CLASSES, (1, 4, 4))
    for ignored in (-1, 65535):
        loss = built(name, ignore_index=ignored)
        assert torch.equal(loss(Prediction(logits), full.to(torch.uint8)).total, loss(Prediction(logits), full).total)


@EVERY
def test_a_single_class_takes_masks_with_and_without_a_channel(name: str) -> None:
    loss = built(name, num_classes=1, multilabel=True)
    logits, mask = torch.randn(2, 1, 4, 4), torch.randint(2, (2, 8, 8), dtype=torch.uint8)
    total = loss(Prediction(logits), mask).total
    assert torch.equal(total, loss(Prediction(logits), mask.unsqueeze(1)).total)
    logits = logits.double()
    expected = reference(name, logits, mask.unsqueeze(1))
    torch.testing.assert_close(loss(Prediction(logits), mask).total, expected)


@EVERY
@pytest.mark.parametrize("multilabel", [False, True], ids=["multiclass", "multilabel"])
def test_values_out_of_range_are_refused(name: str, multilabel: bool) -> None:
    mask = torch.full((1, CLASSES, 2, 2) if multilabel else (1, 2, 2), 7, dtype=torch.uint8)
    with pytest.raises((RuntimeError, IndexError), match="out of"):
        built(name, multilabel=multilabel)(Prediction(torch.randn(1, CLASSES, 2, 2)), mask)


@EVERY
def test_a_confident_model_has_a_finite_loss_and_gradient(name: str) -> None:
    for multilabel in (False, True):
        loss = built(name, multilabel=multilabel)
        logits = torch.full((1, CLASSES, 2, 2), -500.0)
        logits[:, 0] = 500
        mask = torch.randint(2, (1, CLASSES, 4, 4) if multilabel else (1, 4, 4), dtype=torch.uint8)
        value, gradient = value_and_gradient(lambda x, f=loss, m=mask: f(Prediction(x), m).total, logits)
        assert value.isfinite()
        assert gradient.isfinite().all()


@EVERY
def test_evaluation_gives_the_training_loss(name: str) -> None:
    loss, logits, mask = built(name), torch.randn(2, CLASSES, 4, 4), torch.randint(CLASSES, (2, 16, 16))
    learning = loss(Prediction(logits.clone().requires_grad_()), mask).total
    with torch.inference_mode():
        assert torch.equal(loss(Prediction(logits), mask).total, learning)


def test_auxiliary_heads_are_added_with_their_weight() -> None:
    loss = CrossEntropyLoss(num_classes=2, ignore_index=IGNORE, auxiliary_weight=0.25)
    mask = torch.zeros(1, 4, 4, dtype=torch.uint8)
    even, sure = torch.zeros(1, 2, 2, 2), torch.tensor([100.0, 0.0]).view(1, 2, 1, 1)
    terms = loss(Prediction(sure, {"auxiliary": even}), mask)
    ln2 = torch.tensor(2.0).log()
    torch.testing.assert_close(terms.total, ln2 / 4)
    torch.testing.assert_close(terms.parts, {"ce": torch.tensor(0.0), "auxiliary": ln2})


def test_auxiliary_heads_may_have_a_weight_each() -> None:
    loss = CrossEntropyLoss(num_classes=2, ignore_index=IGNORE, auxiliary_weight={"stage3": 0.5, "stage2": 0.125})
    mask = torch.zeros(1, 4, 4, dtype=torch.uint8)
    even, sure = torch.zeros(1, 2, 2, 2), torch.tensor([100.0, 0.0]).view(1, 2, 1, 1)
    ln2 = torch.tensor(2.0).log()
    terms = loss(Prediction(sure, {"stage2": even, "stage3": sure}), mask)
    torch.testing.assert_close(terms.total, ln2 / 8)
    assert loss(Prediction(sure), mask).total == 0
    with pytest.raises(UserError, match="given for stage3, stage2; the model's auxiliary heads are stage3"):
        loss(Prediction(sure, {"stage3": even}), mask)
    with pytest.raises(UserError, match=r"loss\.auxiliary_weight\.stage3=-1"):
        CrossEntropyLoss(num_classes=2, ignore_index=IGNORE, auxiliary_weight={"stage3": -1.0})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, "loss.class_weights has 2 entries for 4 classes"),
        ({"class_weights": [1.0, -2.0, 0.0, 0.0]}, "from 0 up"),
        ({"class_weights": [0.0] * 4}, "not all of them 0"),
        ({"class_weights": "enet"}, "loss.class_weights=enet: the method has not been applied"),
        ({"auxiliary_weight": -1.0}, "loss.auxiliary_weight=-1.0"),
        ({"label_smoothing": 1.5}, "loss.label_smoothing=1.5"),
        ({"num_classes": 1}, "loss.num_classes=1; allowed: from 2 up"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        built("ce", **arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("dice", {"smooth": 0.0}, r"loss\.smooth=0\.0"),
        ("tversky", {"alpha": -1.0}, r"loss\.alpha=-1\.0"),
        ("focal_tversky", {"gamma": 0.0}, r"loss\.gamma=0\.0"),
        ("focal", {"alpha": 2.0, "multilabel": True}, r"loss\.alpha=2\.0; allowed with loss\.multilabel=true"),
        ("combined", {"ce_weight": 0.0, "dice_weight": 0.0}, "both 0"),
        ("dice_bce", {"bce_weight": float("nan")}, r"loss\.bce_weight=nan"),
        ("ohem", {"threshold": 0.0}, r"loss\.threshold=0\.0"),
        ("ohem", {"min_kept": 2.0}, r"loss\.min_kept=2\.0"),
    ],
)
def test_bad_options_of_a_loss_are_named(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        built(name, **arguments)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, CLASSES, 4, 4), {}, r"the mask is \(1, 4, 4, 4\); with loss.multilabel=false .* \(1, height, width\)"),
        ((1, 4, 4), {"multilabel": True}, r"has to be \(1, 4, height, width\)"),
        ((2, 4, 4), {}, r"has to be \(1, height, width\)"),
        ((1, 4, 4), {"num_classes": 3}, r"the model gives 4 classes, but loss.num_classes=3"),
    ],
)
def test_shapes_that_do_not_fit_are_named(shape: tuple[int, ...], options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        built("ce", **options)(Prediction(torch.randn(1, CLASSES, 2, 2)), torch.zeros(shape, dtype=torch.uint8))
