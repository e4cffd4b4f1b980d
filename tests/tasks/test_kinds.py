"""Labels, counts and scores of multi-label data, by hand and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MultilabelAUROC, MultilabelF1Score

from segkit.contracts import Batch, DataError, LabelSpace, Prediction, Targets
from segkit.metrics.confusion import LayerCounts
from segkit.metrics.scores import layer_scores
from segkit.metrics.torchmetric import ListedMetric
from segkit.tasks.kinds import task_of

IGNORE = 255
COLORS = ((0, 0, 0), (1, 1, 1), (2, 2, 2))
LAYERS = LabelSpace(("cell", "nucleus", "border"), COLORS, IGNORE, multilabel=True)
CLASSES = LabelSpace(("cell", "nucleus", "border"), COLORS, IGNORE)


def test_each_pixel_one_class_or_each_class_for_itself() -> None:
    logits = torch.tensor([-1.0, 2.0, 1.0]).view(1, 3, 1, 1)
    assert task_of(CLASSES).decide(Prediction(logits), (1, 1)).tolist() == [[[1]]]
    assert task_of(LAYERS).decide(Prediction(logits), (1, 1)).flatten().tolist() == [0, 1, 1]
    assert task_of(CLASSES).probabilities(logits).sum().item() == pytest.approx(1)
    assert task_of(LAYERS).probabilities(logits)[0, 0].item() == pytest.approx(1 / (1 + math.e))


def test_scores_by_hand() -> None:
    """Class 0: 2 TP, 1 FN, 1 FP, 4 TN. Class 1: 8 TN. Class 2: 2 FP, 6 TN."""
    counts = torch.tensor([[[4, 1], [1, 2]], [[8, 0], [0, 0]], [[6, 2], [0, 0]]])
    found = layer_scores(counts)
    assert found.iou == pytest.approx((2 / 4, math.nan, 0.0), nan_ok=True)
    assert found.miou == pytest.approx((2 / 4 + 0) / 2)
    assert found.dice == pytest.approx((4 / 6, math.nan, 0.0), nan_ok=True)
    assert found.accuracy == pytest.approx((2 / 3, math.nan, math.nan), nan_ok=True)
    assert found.mean_accuracy == pytest.approx(2 / 3)
    assert found.pixel_accuracy == pytest.approx((6 + 8 + 6) / 24)
    assert found.fwiou == pytest.approx(2 / 4)
    assert found.pixels == (3, 0, 0)
    assert list(found.named(LAYERS.names))[:6] == [
        *("miou", "mean_dice", "pixel_accuracy", "mean_accuracy", "fwiou", "iou/cell")
    ]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_agrees_with_scikit_learn_where_not_ignored_in_batches_or_at_once(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random.choice([0, 1, IGNORE], (4, 3, 5, 6), p=[0.5, 0.4, 0.1]).astype(np.uint8)
    predicted = random.integers(0, 2, mask.shape).astype(np.uint8)
    counts = LayerCounts(3, IGNORE)
    for part in (slice(0, 1), slice(1, 4)):
        counts.update(torch.from_numpy(predicted[part]), torch.from_numpy(mask[part]))
    found = layer_scores(counts.compute())
    for k in range(3):
        valid = mask[:, k] != IGNORE
        true, guessed = mask[:, k][valid], predicted[:, k][valid]
        assert torch.equal(counts.compute()[k], torch.from_numpy(sklearn.metrics.confusion_matrix(true, guessed)))
        assert found.iou[k] == pytest.approx(sklearn.metrics.jaccard_score(true, guessed))
        assert found.dice[k] == pytest.approx(sklearn.metrics.f1_score(true, guessed))
        assert found.accuracy[k] == pytest.approx(sklearn.metrics.recall_score(true, guessed))
    disturbed = np.where(mask == IGNORE, 1 - predicted, predicted)
    again = LayerCounts(3, IGNORE)
    again.update(torch.from_numpy(disturbed), torch.from_numpy(mask))
    assert torch.equal(again.compute(), counts.compute())


def test_values_that_are_neither_0_nor_1_are_named() -> None:
    counts = LayerCounts(1, IGNORE)
    counts.update(torch.zeros(1, 1, 1, 3), torch.tensor([0, 7, IGNORE]).view(1, 1, 1, 3))
    with pytest.raises(DataError, match=r"values 0\.\.7; allowed: 0, 1 and dataset\.ignore_index=255"):
        counts.compute()


def test_a_single_class_is_binary_segmentation() -> None:
    binary = LabelSpace(("tumour",), ((255, 0, 0),), IGNORE, multilabel=True)
    task = task_of(binary)
    counts = task.counts()
    decided = task.decide(Prediction(torch.tensor([1.0, -1, 1, 1]).view(1, 1, 2, 2)), (2, 2))
    counts.update(decided, torch.tensor([[[[1, 1], [0, 255]]]]))
    assert task.scores(counts.compute()).named(binary.names)["iou/tumour"] == pytest.approx(1 / 3)


def test_listed_metrics_get_a_label_or_probability_for_each_class() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=generator)
    mask = torch.randint(2, (2, 3, 4, 4), generator=generator, dtype=torch.uint8)
    mask[:, 1, :2] = IGNORE
    rows = (logits[:, :, 2:].movedim(1, -1).reshape(-1, 3), mask[:, :, 2:].movedim(1, -1).reshape(-1, 3).long())
    for metric, kind in ((MultilabelF1Score(3), "labels"), (MultilabelAUROC(3), "probabilities")):
        listed = ListedMetric(metric, name="score", task=task_of(LAYERS), input=kind)  # pyright: ignore[reportArgumentType]
        listed.update(
            Prediction(logits), (logits > 0).to(torch.uint8), Batch(torch.zeros(2, 3, 4, 4), Targets(mask), ("a", "b"))
        )
        expected = metric.clone()
        expected.reset()
        expected.update(rows[0].sigmoid(), rows[1])
        assert listed.compute()["score"] == pytest.approx(expected.compute().item())
