"""What models, predictors and losses take and give.

Shape suffixes: B batch, C classes or channels, H W full-size pixels, h w pixels at a head's own stride.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from segkit.contracts.batch import Batch


@dataclass(frozen=True)
class QueryPrediction:
    """A set of Q segments, each with a class and a mask, that a model finds in every image of a batch.

    Attributes:
        class_logits: (B, Q, C + 1), the last for "no segment".
        mask_logits: (B, Q, h, w), of a sigmoid.
    """

    class_logits: Tensor
    mask_logits: Tensor


@dataclass
class Prediction:
    """What a model, or a predictor wrapped around one, says of a batch of images.

    Attributes:
        logits: (B, C, h, w) at the head's own stride; predictors that merge views may give full size.
        auxiliary: the same from each auxiliary head, by name; empty in evaluation mode.
        queries: what a model of queries bases its logits on, last; before it, in training, what its earlier
            blocks say. Empty for other models, and from predictors that merge views.
    """

    logits: Tensor
    # torch.compile cannot trace dict[str, Tensor] as a factory.
    auxiliary: dict[str, Tensor] = field(default_factory=dict)  # pyright: ignore[reportUnknownVariableType]
    queries: Sequence[QueryPrediction] = ()


@dataclass
class LossTerms:
    """A loss: `total` (scalar, with gradient) and its named detached `parts`, which are what the log shows."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


class Loss(Protocol):
    """Logits at the head's stride with the full-size targets, to a LossTerms. Ignored pixels count for nothing."""

    def __call__(self, prediction: Prediction, batch: Batch) -> LossTerms: ...


class Predictor(Protocol):
    """Images (B, C, H, W) as in `Batch` to a Prediction. A model is one; wrappers take another and are one."""

    def __call__(self, images: Tensor) -> Prediction: ...


@runtime_checkable
class Recomputing(Protocol):
    """A module that, with gradient checkpointing, runs parts of its forward pass again in the backward pass.

    Batch norms in these parts count a batch again, which is undone: the buffers of the module are put back after the
    backward pass to what the forward pass had left.
    """

    gradient_checkpointing: bool


@runtime_checkable
class ProgressAware(Protocol):
    """A module, of the model or the loss, that changes with the progress of the run.

    It is a function of the progress alone, which a resumed run knows: nothing of it is saved.
    """

    def set_progress(self, done: float) -> None:
        """Before every optimizer step: the share of the run's steps that is done, from 0 up to, but not, 1."""
        ...
