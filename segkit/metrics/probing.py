"""Whether a listed metric takes what an evaluation will give it, found by trying before the first step."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from segkit.contracts import Batch, Prediction, Targets, Task, UserError
from segkit.metrics.torchmetric import ListedMetric

SIZES = (6, 7), (9, 4), (5, 5), (3, 3)
Example = tuple[Tensor, Tensor, Tensor]


def check(listed: ListedMetric) -> None:
    """Note the names of the scores of a metric. Raises UserError unless it gives scores of every kind of mask.

    It is a copy that is tried. Draws random numbers if the metric does.
    """
    for part in listed.parts():
        _check_part(listed, part)
    _check_members(listed)
    if listed.takes_images and listed.input == "probabilities":
        raise UserError(
            f"metrics.{listed.name}.input=probabilities: {_kind(listed)} compares labels; allowed: input=labels"
        )
    fault = _fault(listed)
    if fault is None:
        return
    if not listed.takes_images and listed.input == "labels":
        other = ListedMetric(listed.metric, name=listed.name, task=listed.task, input="probabilities")
        if _fault(other) is None:
            raise UserError(
                f"metrics.{listed.name}: {_kind(listed)} does not take labels ({fault}); give it probabilities, with "
                f"metrics.{listed.name}.input=probabilities"
            )
    raise UserError(
        f"metrics.{listed.name}: {_kind(listed)} cannot be used here: {fault}.\nExpected is a torchmetrics.Metric "
        f"whose compute() gives numbers and which is called as update(preds, target), {_given(listed)}"
    )


def _check_part(listed: ListedMetric, part: Any) -> None:
    """Refuse what torchmetrics would compute without a word, and wrongly."""
    classes, name = listed.labels.num_classes, type(part).__name__
    for key in ("num_classes", "num_labels"):
        number = getattr(part, key, None)
        if isinstance(number, int) and number != classes:
            raise UserError(
                f"metrics.{listed.name}: {name} has {key}={number}, the data set {classes} classes; "
                f"allowed: {key}=${{dataset.num_classes}}"
            )
    if name.startswith("Binary") and classes > 2 and not listed.labels.multilabel:
        raise UserError(
            f"metrics.{listed.name}: {name} is for two classes, the data set has {classes}; "
            f"allowed: Multiclass{name.removeprefix('Binary')}, or task=multiclass"
        )
    if hasattr(part, "distance_metric"):
        raise UserError(
            f"metrics.{listed.name}: the {name} of torchmetrics cannot be used: it is wrong for images that are not "
            "square, fails where a class is missing, and needs memory for pixels times outline. Allowed: a metric of "
            "overlap, such as DiceScore; or distances computed from what predict.py writes"
        )


def _check_members(listed: ListedMetric) -> None:
    members = list(getattr(listed.metric, "values", list)())  # of a MetricCollection
    kinds = {ListedMetric(member, name="", task=listed.task).takes_images for member in members}
    if len(kinds) > 1:
        raise UserError(
            f"metrics.{listed.name}: {_kind(listed)} holds metrics of images and metrics of pixels, which are given "
            "different things; allowed: a name of its own for each, metrics.NAME.metric"
        )


def _fault(listed: ListedMetric) -> str | None:
    """What is wrong with the metric when it is given its input, or None."""
    fault = _fault_as_it_is(listed)
    if fault and listed.input == "probabilities" and listed.labels.num_classes == 2 and not listed.labels.multilabel:
        listed.second_class_only = True
        return fault if _fault_as_it_is(listed) else None
    return fault


def _fault_as_it_is(listed: ListedMetric) -> str | None:
    examples = [_example(listed.task, size, number) for number, size in enumerate(SIZES)]
    try:
        one, several = _scores(listed, examples[:1]), _scores(listed, examples)
        if list(one) != list(several):
            return (
                f"it gives {len(one)} numbers for one evaluation and {len(several)} for another, as curves do; "
                "allowed: as many for every data set, such as with a number of thresholds"
            )
        depends_on_batches = not listed.takes_images and _differ(several, _scores(listed, [_pooled(examples)]))
        draws_random_numbers = depends_on_batches and _differ(several, _scores(listed, examples))
        if depends_on_batches and not draws_random_numbers:
            return "its scores depend on how pixels are divided into batches"
    except Exception as error:  # whatever a metric raises when it is given what it was not made for
        said = " ".join(str(error).split())
        return f"{type(error).__name__}{said and ': ' + said}".rstrip(".")
    listed.names = list(one)
    return None


def _scores(listed: ListedMetric, examples: Sequence[Example]) -> dict[str, float]:
    trial = copy.copy(listed)
    trial.metric = copy.deepcopy(listed.metric)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes without a pixel and the like
        trial.reset()
        for logits, decided, mask in examples:
            images = torch.zeros(len(mask), 3, *mask.shape[-2:], dtype=torch.uint8)
            trial.update(Prediction(logits), decided, Batch(images, Targets(mask), tuple(map(str, range(len(mask))))))
        return trial.compute()


def _differ(found: Mapping[str, float], other: Mapping[str, float]) -> bool:
    pair = [torch.tensor(list(scores.values())) for scores in (found, other)]
    return not torch.allclose(*pair, rtol=1e-3, atol=1e-4, equal_nan=True)


def _pooled(examples: Sequence[Example]) -> Example:
    """The pixels of all examples as one image of one row."""
    logits, decided, mask = (
        torch.cat([part.movedim(0, -3).flatten(-3) for part in parts], dim=-1) for parts in zip(*examples, strict=True)
    )
    return logits[None, :, None], decided[None, ..., None, :], mask[None, ..., None, :]


def _example(task: Task, size: Sequence[int], number: int) -> Example:
    """Logits, labels decided on and mask of two images, ignored in two rows; all of it in the fourth example.

    In the first all classes are there, in the third class 0 alone, which is what is predicted too.
    """
    generator = torch.Generator().manual_seed(number)
    logits = torch.randn(2, task.labels.num_classes, *size, generator=generator)
    mask = task.example(2, size)
    if number == 2:
        mask.zero_()
        logits[:, 0] = 10
    mask[..., : size[0] if number == 3 else 2, :] = task.labels.ignore_index
    return logits, task.decide(Prediction(logits), size), mask


def _kind(listed: ListedMetric) -> str:
    return f"{type(listed.metric).__module__}.{type(listed.metric).__qualname__}"


def _given(listed: ListedMetric) -> str:
    """The arguments of `update`, for people to read."""
    classes = listed.labels.num_classes
    if listed.takes_images:
        return f"both uint8 (1, {classes}, height, width) of 0 and 1, one image at a time, 0 where ignored"
    labels = f"int64 (N, {classes}) of 0 and 1" if listed.labels.multilabel else f"int64 (N) of ids 0..{classes - 1}"
    if listed.input == "labels":
        return f"both {labels}, of the N valid pixels of some images"
    return f"preds float32 (N, {classes}), target {labels}, of the N valid pixels of some images"
