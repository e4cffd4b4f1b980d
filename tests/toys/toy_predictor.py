"""A predictor of one's own that wraps a model: one class here, and conf/predictor/toy.yaml."""

from __future__ import annotations

from torch import Tensor

from segkit.contracts import Prediction, Predictor
from segkit.logits import resize_logits


class Mirrored:
    """The mean of the logits of an image and of its mirror image, at full size."""

    def __init__(self, model: Predictor, *, axis: int = -1) -> None:
        self.model = model
        self.axis = axis

    def __call__(self, images: Tensor) -> Prediction:
        size = images.shape[-2:]
        straight = resize_logits(self.model(images).logits, size)
        mirrored = resize_logits(self.model(images.flip(self.axis)).logits, size).flip(self.axis)
        return Prediction((straight + mirrored) / 2)
