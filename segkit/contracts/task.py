"""What depends on the kind of target, and what scores it.

Shape suffixes: B batch, C classes or channels, H W full-size pixels, h w pixels at a head's own stride.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from segkit.contracts.batch import Batch
from segkit.contracts.label_space import LabelSpace
from segkit.contracts.model_and_loss import Prediction


class Counts(Protocol):
    """Integer counts over an evaluation, from which scores are computed; the same for any order and batch size."""

    def update(self, predicted: Tensor, mask: Tensor) -> None:
        """Count labels as `Task.decide` gives them against a mask of the same shape."""
        ...

    def compute(self) -> Tensor:
        """The counts, int64. Raises DataError for masks that hold other values than they may."""
        ...

    def to(self, device: torch.device) -> Any: ...


class NamedScores(Protocol):
    """Scores of a task, NaN where undefined."""

    @property
    def iou(self) -> Sequence[float]:
        """Of each class, as are the others."""
        ...

    @property
    def dice(self) -> Sequence[float]: ...
    @property
    def accuracy(self) -> Sequence[float]: ...
    @property
    def pixels(self) -> Sequence[int]: ...

    def named(self, class_names: Sequence[str]) -> dict[str, float]:
        """All of them as flat names: `miou`, ..., and `iou/road` for the classes."""
        ...


class Task(Protocol):
    """What depends on the kind of target; nothing else in the code asks which kind it is.

    Attributes:
        labels: the classes.
    """

    labels: LabelSpace

    def decide(self, prediction: Prediction, size: Sequence[int]) -> Tensor:
        """Labels at `size` (H, W), as integers in the shape of a mask; of resized logits, which never are in memory."""
        ...

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of logits (B, C, H, W), in the same shape."""
        ...

    def counts(self) -> Counts:
        """What counts decided labels against targets, empty."""
        ...

    def count(self, counts: Counts, decided: Tensor, batch: Batch) -> None:
        """Count the decided labels of a batch."""
        ...

    def num_targets(self, batch: Batch) -> Tensor:
        """How much of a batch counts for the loss, an int64 scalar: its valid pixels. Nothing waits for the device."""
        ...

    def scores(self, counts: Tensor) -> NamedScores: ...

    def score_names(self) -> list[str]:
        """The names of the scores that every evaluation gives."""
        ...

    def example(self, batch: int, size: Sequence[int]) -> Tensor:
        """A mask int64 of `batch` images of `size` (H, W), to try with what a user has written."""
        ...

    def written(self, decided: Tensor) -> Tensor:
        """The decided labels of one image as predictions are given back and written, (H, W) or (H, W, C)."""
        ...


class Metric(Protocol):
    """Accumulates over an evaluation and gives named scores; built once, reset before each evaluation."""

    def reset(self) -> None: ...

    def update(self, prediction: Prediction, decided: Tensor, batch: Batch) -> None:
        """Take a prediction, the labels (B, [C,] H, W) that the task has decided on, and the batch they are of."""
        ...

    def compute(self) -> dict[str, float]:
        """Scores by name; NaN where undefined."""
        ...
