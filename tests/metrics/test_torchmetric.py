"""Metrics a user lists: what they are given, and what their results are called."""

from __future__ import annotations

import pytest
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassCalibrationError,
    MulticlassJaccardIndex,
)

from segkit.contracts import LabelSpace, Metric
from segkit.metrics.torchmetric import ListedMetric
from segkit.tasks.kinds import task_of
from tests.composed import count

IGNORE = 255
TASK = task_of(LabelSpace(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), IGNORE))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 6, generator=generator)
    mask = torch.randint(3, (2, 6, 6), generator=generator, dtype=torch.uint8)
    mask[:, :2] = IGNORE
    return logits, mask


def test_labels_of_valid_pixels() -> None:
    logits, mask = batch()
    listed: Metric = ListedMetric(MulticlassJaccardIndex(3), name="jaccard", task=TASK)
    count(listed, logits, logits.argmax(1), mask)
    expected = MulticlassJaccardIndex(3, ignore_index=IGNORE)(logits.argmax(1), mask.long())
    assert listed.compute() == {"jaccard": pytest.approx(expected.item())}
    listed.reset()
    count(listed, logits[:, :, 2:], mask[:, 2:], mask[:, 2:])
    assert listed.compute() == {"jaccard": 1.0}


@pytest.mark.parametrize("kind", [MulticlassAUROC, MulticlassCalibrationError])
def test_probabilities_of_valid_pixels(kind: type) -> None:
    logits, mask = batch()
    listed = ListedMetric(kind(3), name="score", task=TASK, input="probabilities")
    count(listed, logits, logits.argmax(1), mask)
    expected = kind(3, ignore_index=IGNORE)(logits.softmax(1), mask.long())
    assert listed.compute() == {"score": pytest.approx(expected.item(), abs=1e-6)}


def test_names_of_several_numbers() -> None:
    logits, mask = batch()
    collection = MetricCollection({"mean": MulticlassAccuracy(3), "each": MulticlassAccuracy(3, average=None)})
    per_class = ListedMetric(MulticlassAccuracy(3, average=None), name="recall", task=TASK)
    grouped = ListedMetric(collection, name="accuracy", task=TASK)
    for listed in (per_class, grouped):
        count(listed, logits, logits.argmax(1), mask)
    assert list(per_class.compute()) == ["recall/0", "recall/1", "recall/2"]
    found = grouped.compute()
    assert sum(found[f"accuracy/each/{i}"] for i in range(3)) / 3 == pytest.approx(found["accuracy/mean"])


def test_a_batch_without_valid_pixels_changes_nothing() -> None:
    logits, mask = batch()
    listed = ListedMetric(MulticlassAccuracy(3), name="accuracy", task=TASK)
    count(listed, logits, logits.argmax(1), mask)
    before = listed.compute()
    count(listed, logits, logits.argmax(1), torch.full_like(mask, IGNORE))
    assert listed.compute() == before
