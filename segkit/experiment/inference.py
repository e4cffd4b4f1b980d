"""A trained model out of its checkpoint, ready to predict. Everything in the checkpoint is data, none of it code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from segkit.config import instantiate
from segkit.contracts import Prediction, Predictor, Strategy, Task
from segkit.engine.strategy.single_device import Precision
from segkit.errors import UserError
from segkit.experiment.accepted_images import AcceptedImages, kind_of_training
from segkit.experiment.trained_experiment import TrainedExperiment, of_checkpoint


class TrainedModel(nn.Module):
    """A trained model with its predictor, precision and label space, and what it knows of its training images.

    `predict(image)` is the one-image way; called like a module it takes and gives what a Predictor does.
    """

    def __init__(
        self,
        model: nn.Module,
        predictor: Predictor,
        strategy: Strategy,
        task: Task,
        images: AcceptedImages,
    ):
        super().__init__()
        self.model = model
        self.task = task
        self.labels = task.labels
        self.images = images
        self._predictor = predictor
        self._strategy = strategy

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Prediction:
        """Images (B, C, H, W), uint8 RGB or what the model was trained on, to logits (B, K, h, w).

        Raises UserError for images of another scale.
        """
        self.images.check(images)
        with self._strategy.autocast():
            return self._predictor(images.to(self._strategy.device))

    def predict(
        self, image: NDArray[Any] | Image.Image | str | Path, *, value_range: Sequence[float] | None = None
    ) -> NDArray[Any]:
        """Class ids (H, W), uint8 (int32 beyond 256 classes), of one image at its own size.

        A multi-label model gives (H, W, K) uint8: 1 where a class is, 0 where it is not.

        Args:
            image: a file, which is read as in training and by `scripts/predict.py`; or an array (H, W, C), RGB, or
                grey (H, W), of uint8 in 0..255 or floats in 0..1, not normalised (a model of images in units of
                their own takes floats in these units); or an image of Pillow.
            value_range: the two values that stand for black and white in any other array: (0, 65535), (0, 4095).

        Raises:
            UserError: the array can be read in two ways, or is no such image.
            DataError: the same for a file, or one that cannot be read.
        """
        if isinstance(image, str | Path):
            if value_range is not None:
                raise UserError("value_range is for arrays; files are read as in training")
            pixels = self.images.read(image)
        else:
            pixels = self.images.array(image, value_range)
        images = torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())
        decided = self.task.decide(self(images), pixels.shape[:2])[0]
        return self.task.written(decided).cpu().contiguous().numpy()


def load_trained_model(
    path: str | Path,
    *,
    device: str = "auto",
    precision: Precision | None = None,
    predictor: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
) -> TrainedModel:
    """See `segkit.load`. `precision` and `predictor` (a config node) None are those of the training run."""
    experiment = of_checkpoint(path, device=device, precision=precision, trust=trust)
    model = experiment.trained_model()
    make = experiment.predictor if predictor is None else composed_predictor(predictor)
    return TrainedModel(model, make(model), experiment.strategy, experiment.task, _accepted_images(experiment))


def composed_predictor(node: Mapping[str, Any]) -> Callable[[nn.Module], Predictor]:
    """What makes a predictor of a model, from a config node that the user has composed."""
    make = instantiate.build(dict(node), "predictor", supplied=["model"])
    return lambda model: make(model=model)


def _accepted_images(experiment: TrainedExperiment) -> AcceptedImages:
    resolved, node = experiment.resolved, experiment.recipe.node("model")
    mean, std = (
        getattr(resolved.normalization, key) if resolved.normalization else node.get(key, [0.5])
        for key in ("mean", "std")
    )
    images = None if resolved.images is None else resolved.images._asdict()
    return AcceptedImages(experiment.in_channels, kind_of_training(images, mean, std))
