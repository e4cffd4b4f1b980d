"""One pass over a split: the scores of a model, with the same predictor that deploys it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segkit.contracts import Batch, EvaluationData, Loss, Metric, Prediction, Predictor
from segkit.engine.strategy.base import SingleDevice
from segkit.resizing import resize_logits


class Confusion(Protocol):
    """Counts of (truth, prediction) over an evaluation, of labels as `Evaluator.decide` makes them."""

    def reset(self) -> None: ...
    def update(self, predicted: Tensor, mask: Tensor) -> None: ...
    def compute(self) -> Tensor: ...


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
    """Evaluates models on one split, every prediction resized to the mask's own size.

    Attributes:
        data: the split.
        predictor: makes a predictor of a model.
        decide: logits (B, C, H, W) to labels.
        confusion: what counts labels against masks; the built-in scores derive from it alone.
        scores: those scores, by name, of a confusion matrix.
        metrics: further metrics by name.
        loss: logged as `loss` and its parts if given.
        panel_samples: how many samples to keep as pictures, spread evenly over the split.
    """

    data: EvaluationData
    predictor: Callable[[nn.Module], Predictor]
    decide: Callable[[Tensor], Tensor]
    confusion: Confusion
    scores: Callable[[Tensor], dict[str, float]]
    metrics: Mapping[str, Metric] = field(default_factory=dict[str, Metric])
    loss: Loss | None = None
    panel_samples: int = 0

    @torch.inference_mode()
    def __call__(
        self, model: nn.Module, strategy: SingleDevice, *, on_batch: Callable[[int], None] = lambda done: None
    ) -> Evaluation:
        """Evaluate `model`, calling `on_batch` with the number of samples done. Leaves it in evaluation mode."""
        model.eval()
        predictor = self.predictor(model)
        self.confusion.reset()
        for metric in self.metrics.values():
            metric.reset()
        sums: dict[str, Tensor] = {}
        shown = set(np.linspace(0, len(self.data) - 1, self.panel_samples).round().astype(int).tolist())
        panels: list[PanelSample] = []
        done = 0
        for host_batch in self.data:
            batch = host_batch.to(strategy.device)
            with strategy.autocast():
                prediction = predictor(batch.images)
            predicted = self._score(prediction, batch)
            self._add_loss(sums, prediction, batch)
            wanted = [i for i in range(len(batch)) if done + i in shown]
            panels += [_panel(host_batch, predicted, i) for i in wanted]
            done += len(batch)
            on_batch(done)
        counts = self.confusion.compute()
        scores = self.scores(counts)
        for metric in self.metrics.values():
            scores |= metric.compute()
        scores |= {name: float(total) / max(done, 1) for name, total in sums.items()}
        if self.data.samples_skipped:
            scores["samples_skipped"] = float(self.data.samples_skipped)
        return Evaluation(self.data.split, scores, counts.cpu().numpy(), panels)

    def _score(self, prediction: Prediction, batch: Batch) -> Tensor:
        logits_BCHW = resize_logits(prediction.logits, batch.mask.shape[-2:])
        predicted = self.decide(logits_BCHW)
        self.confusion.update(predicted, batch.mask)
        for metric in self.metrics.values():
            metric.update(logits_BCHW, batch.mask)
        return predicted

    def _add_loss(self, sums: dict[str, Tensor], prediction: Prediction, batch: Batch) -> None:
        if self.loss is None:
            return
        terms = self.loss(prediction, batch.mask)
        for name, value in {"loss": terms.total, **{f"loss/{n}": v for n, v in terms.parts.items()}}.items():
            # Weighted by images, so that a small last batch counts for what it holds.
            sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value.detach() * len(batch)


def _panel(batch: Batch, predicted: Tensor, index: int) -> PanelSample:
    return PanelSample(
        batch.ids[index],
        batch.images[index].permute(1, 2, 0).numpy(),
        batch.mask[index].numpy(),
        predicted[index].to("cpu", torch.int32).numpy(),
    )
