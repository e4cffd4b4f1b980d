"""The confusion matrix and its scores, by hand and against torchmetrics and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_jaccard_index,
)

from segkit.contracts import DataError
from segkit.metrics.confusion import ConfusionMatrix, _scattered
from segkit.metrics.scores import Scores, scores

IGNORE = 255
CLASSES = 5


def matrix_of(predicted: Tensor, mask: Tensor, ignore_index: int = IGNORE) -> Tensor:
    metric = ConfusionMatrix(CLASSES, ignore_index)
    metric.update(predicted, mask)
    return metric.compute()


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Predictions and masks in which classes may be missing from either or both; some pixel counts."""
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))
    true = draw(st.lists(st.integers(0, CLASSES - 1), min_size=1))
    guessed = draw(st.lists(st.integers(0, CLASSES - 1), min_size=1))
    mask = generator.choice([*true, *draw(st.sampled_from([[], [IGNORE]]))], size=(2, 9, 7))
    mask[0, 0, 0] = true[0]
    predicted = generator.choice(guessed, size=mask.shape)
    return torch.from_numpy(predicted), torch.from_numpy(mask)


def test_scores_by_hand() -> None:
    """Class 0: 3 of 4 found, 1 too many. Class 1: 1 of 3 found, 1 too many. 2 only predicted, 3 absent."""
    matrix = torch.tensor([[3, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    matrix[1, 2] = 1
    found = scores(matrix)
    assert found.iou == pytest.approx((3 / 5, 1 / 4, 0.0, math.nan), nan_ok=True)
    assert found.miou == pytest.approx((3 / 5 + 1 / 4 + 0) / 3)
    assert found.dice == pytest.approx((6 / 8, 2 / 5, 0.0, math.nan), nan_ok=True)
    assert found.mean_dice == pytest.approx((6 / 8 + 2 / 5) / 3)
    assert found.accuracy == pytest.approx((3 / 4, 1 / 3, math.nan, math.nan), nan_ok=True)
    assert found.mean_accuracy == pytest.approx((3 / 4 + 1 / 3) / 2)
    assert found.pixel_accuracy == pytest.approx(4 / 7)
    assert found.fwiou == pytest.approx(4 / 7 * 3 / 5 + 3 / 7 * 1 / 4)


def test_nothing_counted_is_undefined() -> None:
    found = scores(matrix_of(torch.zeros(1, 2, 2), torch.full((1, 2, 2), IGNORE)))
    assert all(math.isnan(value) for value in found.named("abcde").values())


def test_names() -> None:
    named = scores(torch.eye(2, dtype=torch.int64)).named(["sky", "road"])
    means = ["miou", "mean_dice", "pixel_accuracy", "mean_accuracy", "fwiou"]
    per_class = ["iou/sky", "iou/road", "dice/sky", "dice/road", "accuracy/sky", "accuracy/road"]
    assert named == dict.fromkeys([*means, *per_class], 1.0)


@settings(max_examples=30, deadline=None)
@given(case=cases())
def test_agrees_with_torchmetrics(case: tuple[Tensor, Tensor]) -> None:
    predicted, mask = case
    matrix = matrix_of(predicted, mask)
    found = scores(matrix)
    assert torch.equal(matrix, multiclass_confusion_matrix(predicted, mask, CLASSES, ignore_index=IGNORE))
    valid = mask != IGNORE
    mean = multiclass_jaccard_index(predicted[valid], mask[valid], CLASSES)
    assert found.miou == pytest.approx(mean.item(), abs=1e-6)
    weighted = multiclass_jaccard_index(predicted[valid], mask[valid], CLASSES, average="weighted")
    assert found.fwiou == pytest.approx(weighted.item(), abs=1e-6)
    overall = multiclass_accuracy(predicted[valid], mask[valid], CLASSES, average="micro")
    assert found.pixel_accuracy == pytest.approx(overall.item(), abs=1e-6)
    dice = multiclass_f1_score(predicted[valid], mask[valid], CLASSES)
    assert found.mean_dice == pytest.approx(dice.item(), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(case=cases())
def test_agrees_with_scikit_learn(case: tuple[Tensor, Tensor]) -> None:
    predicted, mask = case
    found = scores(matrix_of(predicted, mask))
    valid = mask != IGNORE
    true, guessed = mask[valid].numpy(), predicted[valid].numpy()
    present = sorted({*true.tolist(), *guessed.tolist()})
    theirs = {"iou": sklearn.metrics.jaccard_score, "dice": sklearn.metrics.f1_score}
    for kind, function in theirs.items():
        per_class = function(true, guessed, labels=present, average=None, zero_division=0)
        assert [getattr(found, kind)[label] for label in present] == pytest.approx(per_class.tolist(), abs=1e-6)
        absent = [label for label in range(CLASSES) if label not in present]
        assert all(math.isnan(getattr(found, kind)[label]) for label in absent)
    recall = sklearn.metrics.recall_score(true, guessed, labels=sorted(set(true)), average="macro")
    assert found.mean_accuracy == pytest.approx(recall, abs=1e-6)
    assert found.pixel_accuracy == pytest.approx(sklearn.metrics.accuracy_score(true, guessed), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(case=cases())
def test_ignored_pixels_change_nothing_and_batches_add_up(case: tuple[Tensor, Tensor]) -> None:
    predicted, mask = case
    disturbed = torch.where(mask == IGNORE, (predicted + 1) % CLASSES, predicted)
    whole = matrix_of(predicted, mask)
    assert torch.equal(matrix_of(disturbed, mask), whole)
    apart = ConfusionMatrix(CLASSES, IGNORE)
    for image, truth in zip(predicted, mask, strict=True):
        apart.update(image[None], truth[None])
    assert torch.equal(apart.compute(), whole)
    wide = torch.where(mask == IGNORE, -1, mask).int()
    assert torch.equal(matrix_of(predicted, wide, ignore_index=-1), whole)


@pytest.mark.parametrize("stray", [CLASSES, 254, -3])
def test_ids_out_of_range_are_named(stray: int) -> None:
    with pytest.raises(DataError, match=f"{min(stray, 0)}..{max(stray, 0)}; allowed: 0..4"):
        matrix_of(torch.zeros(1, 1, 2), torch.tensor([[[0, stray]]]))


def test_scores_are_immutable() -> None:
    assert Scores.__dataclass_params__.frozen


def test_counts_scattered_as_on_a_gpu_are_those_of_bincount() -> None:
    places = torch.randint(0, 49, (1000,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    assert torch.equal(_scattered(places, 49), torch.bincount(places, minlength=49))


def test_ids_beyond_32_bits_are_not_taken_for_classes() -> None:
    with pytest.raises(DataError, match=r"0\.\.4294967296"):
        matrix_of(torch.zeros(1, 1, 2), torch.tensor([[[0, 2**32]]]))
