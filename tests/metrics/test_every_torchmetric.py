"""Every class of torchmetrics.classification and .segmentation: the score of the valid pixels, or refused by name."""

from __future__ import annotations

import copy
import inspect
import warnings
from typing import Any

import pytest
import torch
import torchmetrics
import torchmetrics.classification
import torchmetrics.image
import torchmetrics.segmentation
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.wrappers import BootStrapper, ClasswiseWrapper

from segkit.contracts import LabelSpace, UserError
from segkit.metrics.probing import check
from segkit.metrics.torchmetric import ListedMetric
from segkit.tasks.kinds import task_of
from tests.composed import count

IGNORE = 255
THREE, TWO, LAYERS = (
    LabelSpace(tuple("abc"[:classes]), ((0, 0, 0),) * classes, IGNORE, multilabel)
    for classes, multilabel in ((3, False), (2, False), (3, True))
)
ARGUMENTS: dict[str, Any] = {
    **dict.fromkeys(("min_precision", "min_recall", "min_sensitivity", "min_specificity"), 0.5),
    "beta": 2.0,
    "num_groups": 2,
    "data_range": 2.0,
}
FAMILIES = {"Multiclass": THREE, "Binary": TWO, "Multilabel": LAYERS}
# Those that take more than predictions and truth, and curves, of as many numbers as there are pixels.
REFUSED = {"BinaryFairness", "BinaryGroupStatRates", "HausdorffDistance"}
REFUSED |= {"MultilabelRankingLoss"}  # divides by other numbers of pixels in other batches
REFUSED |= {f"{family}{curve}" for family in FAMILIES for curve in ("ROC", "PrecisionRecallCurve")}
NAMES = [
    name
    for name in torchmetrics.classification.__all__ + torchmetrics.segmentation.__all__
    # Of what is left, each gives one of the others, by its `task`.
    if name.startswith(tuple(FAMILIES)) or name in torchmetrics.segmentation.__all__
]


def label_space(name: str) -> LabelSpace:
    return next((space for family, space in FAMILIES.items() if name.startswith(family)), THREE)


def made(name: str, **more: Any) -> Any:
    """The metric with whatever its constructor needs."""
    kind = getattr(torchmetrics.classification, name, None) or getattr(torchmetrics.segmentation, name)
    arguments = {**ARGUMENTS, "num_classes": 3, "num_labels": 3}
    parameters = inspect.signature(kind).parameters
    return kind(**{key: value for key, value in arguments.items() if key in parameters} | more)


def batches(labels: LabelSpace) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Logits, labels and masks of several sizes, tall and wide; in one all is ignored, in one there is one class."""
    generator = torch.Generator().manual_seed(3)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for number, size in enumerate([(9, 6), (5, 8), (4, 4), (7, 7)]):
        logits = torch.randn(2, labels.num_classes, *size, generator=generator)
        shape = logits.shape if labels.multilabel else (2, *size)
        mask = torch.randint(2 if labels.multilabel else labels.num_classes, shape, generator=generator)
        mask = mask.to(torch.uint8) if number != 3 else torch.zeros_like(mask, dtype=torch.uint8)
        mask[..., : size[0] if number == 2 else 2, :] = IGNORE
        predicted = (logits > 0).to(torch.uint8) if labels.multilabel else logits.argmax(dim=1).to(torch.uint8)
        found.append((logits, predicted, mask))
    return found


def expected(metric: Any, labels: LabelSpace, given: str) -> Any:
    """What the metric says itself of all valid pixels at once, or, of the segmentation ones, of one image at a time."""
    for_images = hasattr(metric, "input_format")
    pixels: list[tuple[Tensor, Tensor]] = []
    for logits, predicted, mask in batches(labels):
        probabilities = logits.sigmoid() if labels.multilabel else logits.softmax(dim=1)
        for p_C, ids, truth in zip(probabilities, predicted, mask, strict=True):
            valid = (truth != IGNORE).all(dim=0) if labels.multilabel else truth != IGNORE
            if for_images and valid.any():
                one_hot = [torch.nn.functional.one_hot(part.long() * valid, 3) for part in (ids, truth)]
                metric.update(*((part * valid.unsqueeze(-1)).permute(2, 0, 1).unsqueeze(0) for part in one_hot))
            preds = p_C if given == "probabilities" else ids.long()
            if given == "probabilities" and labels is TWO:
                preds = p_C[1]
            pixels.append((preds[..., valid].movedim(-1, 0), truth.long()[..., valid].movedim(-1, 0)))
    if not for_images:
        metric.update(*(torch.cat(parts) for parts in zip(*pixels, strict=True)))
    return metric.compute()


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [number for entry in value for number in numbers(entry)]
    return torch.as_tensor(value).flatten().tolist()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_it_scores_the_valid_pixels_or_is_refused_by_name(name: str) -> None:
    labels, works = label_space(name), False
    for given in ("labels", "probabilities"):
        listed = ListedMetric(made(name), name="mine", task=task_of(labels), input=given)
        try:
            check(listed)
        except UserError:  # what it says is tested below
            continue
        works = True
        for logits, predicted, mask in batches(labels):
            count(listed, logits, predicted, mask)
        found = listed.compute()
        assert list(found) == listed.names
        want = numbers(expected(made(name), labels, given))
        assert list(found.values()) == pytest.approx(want, nan_ok=True, abs=1e-6), given
    assert works == (name not in REFUSED)


def test_every_class_of_the_library_is_tried() -> None:
    general = {name for name in torchmetrics.classification.__all__ if f"Multiclass{name}" in NAMES}
    assert set(torchmetrics.classification.__all__) == general | (set(NAMES) - set(torchmetrics.segmentation.__all__))


@pytest.mark.parametrize("name", ["DiceScore", "GeneralizedDiceScore", "MeanIoU"])
@pytest.mark.parametrize("written_as", ["one-hot", "index", "mixed"])
def test_images_are_scored_alike_however_the_user_wants_them_written(name: str, written_as: str) -> None:
    listed = ListedMetric(made(name, input_format=written_as), name="mine", task=task_of(THREE))
    check(listed)
    for batch in batches(THREE):
        count(listed, *batch)
    assert listed.compute()["mine"] == pytest.approx(float(expected(made(name), THREE, "labels")), abs=1e-6)


def test_a_dice_score_by_hand() -> None:
    """Two pixels of class 0, both found; three of class 1, of which one is taken for class 0; one ignored."""
    mask = torch.tensor([[[0, 0], [1, 1], [1, IGNORE]]], dtype=torch.uint8)
    predicted = torch.tensor([[[0, 0], [1, 0], [1, 1]]], dtype=torch.uint8)
    listed = ListedMetric(torchmetrics.segmentation.DiceScore(2, average="none"), name="dice", task=task_of(TWO))
    count(listed, torch.zeros(1, 2, 3, 2), predicted, mask)
    # 2 * right / (predicted + true).
    assert listed.compute() == {"dice/0": pytest.approx(2 * 2 / (3 + 2)), "dice/1": pytest.approx(2 * 2 / (2 + 3))}


def test_nothing_valid_gives_nan_under_the_same_names() -> None:
    for metric in (made("DiceScore", average="none"), made("MulticlassAUROC", average=None)):
        given = "labels" if hasattr(metric, "input_format") else "probabilities"
        listed = ListedMetric(metric, name="mine", task=task_of(THREE), input=given)
        check(listed)
        logits, predicted, mask = batches(THREE)[2]
        count(listed, logits, predicted, torch.full_like(mask, IGNORE))
        found = listed.compute()
        assert list(found) == ["mine/0", "mine/1", "mine/2"]
        assert all(number != number for number in found.values())


def test_collections_and_wrappers_are_checked_too() -> None:
    wrapped = ClasswiseWrapper(made("MulticlassRecall", average=None), labels=["a", "b", "c"])
    drawn = BootStrapper(made("MulticlassF1Score"), num_bootstraps=3)
    for metric in (wrapped, drawn, MetricCollection({"dice": made("DiceScore"), "iou": made("MeanIoU")})):
        check(ListedMetric(metric, name="mine", task=task_of(THREE)))
    with pytest.raises(UserError, match=r"metrics\.mine: .*MetricCollection holds metrics of images and metrics of"):
        check(
            ListedMetric(
                MetricCollection([made("DiceScore"), made("MulticlassF1Score")]), name="mine", task=task_of(THREE)
            )
        )


@pytest.mark.parametrize(
    ("metric", "labels", "message"),
    [
        (made("DiceScore"), TWO, "DiceScore has num_classes=3, the data set 2 classes"),
        (made("BinaryAUROC"), THREE, "BinaryAUROC is for two classes, the data set has 3; allowed: MulticlassAUROC"),
        (made("MulticlassAUROC"), THREE, r"give it probabilities, with metrics\.mine\.input=probabilities"),
        (made("HausdorffDistance"), THREE, "wrong for images that are not square"),
        (torch.nn.ReLU(), THREE, r"'ReLU' object has no attribute 'reset'.*\n.*update\(preds, target\)"),
        (torchmetrics.image.StructuralSimilarityIndexMeasure(), THREE, r"BxCxHxW.*\n.*int64 \(N\) of ids 0\.\.2"),
        (torchmetrics.image.TotalVariation(), THREE, "takes 2 positional arguments but 3 were given"),
    ],
)
def test_a_refusal_says_what_is_wrong(metric: Any, labels: LabelSpace, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(ListedMetric(metric, name="mine", task=task_of(labels)))


def test_a_check_leaves_the_metric_as_it_was() -> None:
    metric = made("MulticlassAccuracy")
    before = copy.deepcopy(metric.state_dict()), metric.update_called
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nor does it say anything of classes without a pixel
        check(ListedMetric(metric, name="mine", task=task_of(THREE)))
    assert (metric.state_dict(), metric.update_called) == before
