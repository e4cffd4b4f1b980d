"""The whole image in one pass."""

from __future__ import annotations

from torch import Tensor

from segkit.contracts import Prediction, Predictor


class Whole:
    """Predicts each image in one pass at its own size, leaving the logits at the head's stride."""

    def __init__(self, model: Predictor):
        self.model = model

    def __call__(self, images: Tensor) -> Prediction:
        return self.model(images)
