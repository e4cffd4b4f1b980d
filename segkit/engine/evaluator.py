"""One pass over a split: the scores of a model, with the same predictor that deploys it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import fsum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segkit.contracts import Batch, Counts, EvaluationData, Loss, Metric, Prediction, Predictor, Strategy, Task


@dataclass(frozen=True)
class PanelSample:
    """One evaluated sample as pictures: image (H, W, C), truth and predicted (H, W) ids, or (C, H, W) of 0 and 1."""

    id: str
    image: NDArray[Any]
    truth: NDArray[Any]
    predicted: NDArray[Any]


@dataclass(frozen=True)
class Evaluation:
    """Scores by name (NaN where undefined), the counts they derive from, and some samples.

    The counts are the confusion matrix (C, C) with truth in rows, or multi-label one of each class, (C, 2, 2).
    """

    split: str
    scores: dict[str, float]
    confusion: NDArray[np.int64]
    panels: list[PanelSample] = field(default_factory=list[PanelSample])


@dataclass
class Evaluator:
    """Evaluates models on one split, every prediction at the mask's own size.

    Nothing waits for the device before the pass is over, but metrics that wait of themselves, and the loss.

    Attributes:
        data: the split.
        predictor: makes a predictor of a model.
        task: decides labels and counts them; the built-in scores derive from these counts alone.
        metrics: further metrics by name.
        loss: logged as `loss` and its parts if given.
        panel_samples: how many samples to keep as pictures, spread evenly over the split.
    """

    data: EvaluationData
    predictor: Callable[[nn.Module], Predictor]
    task: Task
    metrics: Mapping[str, Metric] = field(default_factory=dict[str, Metric])
    loss: Loss | None = None
    panel_samples: int = 0

    @torch.inference_mode()
    def __call__(
        self, model: nn.Module, strategy: Strategy, *, on_batch: Callable[[int], None] = lambda done: None
    ) -> Evaluation:
        """Evaluate `model`, calling `on_batch` with the number of samples done. Leaves it in evaluation mode."""
        model.eval()
        predictor = self.predictor(model)
        confusion: Counts = self.task.counts().to(strategy.device)
        for metric in self.metrics.values():
            metric.reset()
        losses: list[tuple[int, dict[str, Tensor]]] = []
        shown = self._shown()
        panels: dict[str, tuple[Batch, Tensor]] = {}
        done = 0
        with _without_search():
            for host_batch in self.data:
                batch = host_batch.to(strategy.device)
                with strategy.autocast():
                    prediction = predictor(batch.images)
                predicted = self._count(prediction, batch, confusion)
                if self.loss is not None:
                    losses.append((len(batch), _losses(self.loss, prediction, batch, confusion)))
                for index, id in enumerate(batch.ids):
                    if id in shown:
                        panels[id] = _alone(host_batch, index), predicted[index].clone()
                done += len(batch)
                on_batch(done)
        counts = strategy.reduce(confusion.compute())
        scores = self.task.scores(counts).named(self.task.labels.names)
        for metric in self.metrics.values():
            scores |= metric.compute()
        scores |= _means(losses)
        if self.data.samples_skipped:
            scores["samples_skipped"] = float(self.data.samples_skipped)
        pictures = [_panel(*panels[id]) for id in shown if id in panels]
        return Evaluation(self.data.split, scores, counts.cpu().numpy(), pictures)

    def _shown(self) -> list[str]:
        """The ids of the samples to keep as pictures, in the order of the split."""
        places = np.linspace(0, len(self.data) - 1, self.panel_samples).round().astype(int).tolist()
        return list(dict.fromkeys(self.data.name(place) for place in places)) if len(self.data) else []

    def _count(self, prediction: Prediction, batch: Batch, confusion: Counts) -> Tensor:
        """Give the batch to confusion matrix and metrics; the labels decided on."""
        decided = self.task.decide(prediction, batch.mask.shape[-2:])
        self.task.count(confusion, decided, batch)
        for metric in self.metrics.values():
            metric.update(prediction, decided, batch)
        return decided


@contextmanager
def _without_search() -> Generator[None]:
    """cuDNN takes the algorithms it thinks fastest: trying all of them anew at each image size would take longer."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _losses(loss: Loss, prediction: Prediction, batch: Batch, confusion: Counts) -> dict[str, Tensor]:
    try:
        terms = loss(prediction, batch)
    except (RuntimeError, IndexError):
        confusion.compute()  # says so if the mask holds ids that are no class
        raise
    return {"loss": terms.total.detach(), **{f"loss/{name}": value.detach() for name, value in terms.parts.items()}}


def _means(losses: list[tuple[int, dict[str, Tensor]]]) -> dict[str, float]:
    """The mean over images of each loss of batches, whatever their order."""
    images = [number for number, _ in losses]
    means: dict[str, float] = {}
    for name in losses[0][1] if losses else ():
        # Weighted by images, so that a small last batch counts for what it holds.
        values = torch.stack([named[name] for _, named in losses]).cpu()
        means[name] = fsum(number * float(value) for number, value in zip(images, values, strict=True)) / sum(images)
    return means


def _alone(batch: Batch, index: int) -> Batch:
    """One sample of a batch, whose others need not stay in memory."""
    return batch[index : index + 1].clone()


def _panel(sample: Batch, predicted: Tensor) -> PanelSample:
    return PanelSample(
        sample.ids[0],
        sample.images[0].permute(1, 2, 0).numpy(),
        sample.mask[0].numpy(),
        predicted.to("cpu", torch.int32).numpy(),
    )
