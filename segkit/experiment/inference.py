"""A trained model out of its checkpoint, ready to predict. Everything in the checkpoint is data, none of it code."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from segkit.config import instantiate
from segkit.contracts import LabelSpace, Prediction, Predictor
from segkit.engine import memory
from segkit.engine.strategy.single_device import Precision, SingleDevice
from segkit.errors import UserError, printable
from segkit.experiment.accepted_images import AcceptedImages, kind_of_training
from segkit.run import checkpoint
from segkit.run.stored_config import stored_config
from segkit.tasks.judging import judging


class TrainedModel(nn.Module):
    """A trained model with its predictor, precision and label space, and what it knows of its training images.

    `predict(image)` is the one-image way; called like a module it takes and gives what a Predictor does.
    """

    def __init__(
        self,
        model: nn.Module,
        predictor: Predictor,
        strategy: SingleDevice,
        labels: LabelSpace,
        images: AcceptedImages,
    ):
        super().__init__()
        self.model = model
        self.labels = labels
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
        labels = judging(self.labels).decide(self(images).logits, pixels.shape[:2])[0]
        if labels.ndim == 3:
            labels = labels.movedim(0, -1)
        return labels.cpu().contiguous().numpy()


@dataclass(frozen=True)
class TrainedRun:
    """A checkpoint's content: where it stood, the training config in it, and the step it was saved at."""

    path: Path
    content: Mapping[str, Any]
    config: dict[str, Any]
    labels: LabelSpace
    trust: tuple[str, ...]

    @property
    def step(self) -> int:
        return int(self.content["state"]["step"])

    @property
    def normalization(self) -> dict[str, Any]:
        """The mean and std that training decided on, of what the stored config leaves open."""
        decided = self.content.get("normalization")
        return {key: decided[key] for key in ("mean", "std")} if decided else {}

    def build(self, key: str, *, overrides: Mapping[str, Any] | None = None, supplied: Sequence[str] = ()) -> Any:
        """The object that `key` of the stored config describes, if all classes it names are allowed."""
        node = copy.deepcopy(self.config[key]) | dict(overrides or {})
        instantiate.check_trusted(node, key, self.trust)
        return instantiate.build(node, key, supplied=supplied)

    def build_model(self) -> nn.Module:
        """The model with the weights of this checkpoint: the averaged ones if the run averaged them."""
        node = copy.deepcopy(self.config["model"])
        _forget_pretrained_weights(node)
        model: nn.Module = self.build("model", overrides=node | self.normalization)
        ema = self.content.get("ema")
        weights = self.content["model"] if ema is None else ema["model"]
        try:
            model.load_state_dict(weights)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise UserError(f"{self.path}: the weights do not fit the model of the stored config: {error}") from None
        return model.eval()

    def model_on(self, strategy: SingleDevice) -> nn.Module:
        """The same, on its device. Raises RunFailure if it does not fit there."""
        with memory.shortage_told("loading the model", ["device=cpu"], strategy.device):
            return strategy.prepare(self.build_model(), channels_last=bool(self.config["trainer"]["channels_last"]))


def read_run(path: str | Path, *, trust: Sequence[str] = ()) -> TrainedRun:
    """The best checkpoint of a run folder (else its newest whole one), or the checkpoint file itself.

    Raises UserError when there is none, when it is damaged, or when its stored config is not a config.
    """
    file, content = checkpoint.resolve(Path(path), prefer="best.pt")
    try:
        config, labels = stored_config(content), content["labels"]
        space = LabelSpace(
            tuple(printable(str(name)) for name in labels["names"]),
            tuple((r, g, b) for r, g, b in labels["colors"]),
            int(labels["ignore_index"]),
            bool(labels.get("multilabel", False)),
        )
        if any(not isinstance(config[part], dict) for part in ("model", "dataset", "predictor", "trainer")):
            raise TypeError("its parts are no nodes")
        if missing := {"model", "precision", "state"} - content.keys():
            raise KeyError(*sorted(missing))
        run = TrainedRun(file, content, config, space, tuple(trust))
        if not all(isinstance(number, int | float) for numbers in run.normalization.values() for number in numbers):
            raise TypeError("mean and std are no numbers")
        return run
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: the checkpoint carries no usable config and label space ({error})") from None


def load_trained_model(
    path: str | Path,
    *,
    device: str = "auto",
    precision: Precision | None = None,
    predictor: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
) -> TrainedModel:
    """See `segkit.load`. `precision` and `predictor` (a config node) None are those of the training run."""
    return as_trained_model(read_run(path, trust=trust), device=device, precision=precision, predictor=predictor)


def as_trained_model(
    run: TrainedRun,
    *,
    device: str,
    precision: Precision | None = None,
    predictor: Mapping[str, Any] | None = None,
) -> TrainedModel:
    strategy = SingleDevice(device, precision or run.content["precision"])
    model = run.model_on(strategy)
    if predictor is None:
        make_predictor = run.build("predictor", supplied=["model"])
    else:
        make_predictor = instantiate.build(predictor, "predictor", supplied=["model"])
    return TrainedModel(model, make_predictor(model), strategy, run.labels, _accepted_images(run))


def _accepted_images(run: TrainedRun) -> AcceptedImages:
    dataset = run.config["dataset"]
    mean, std = ((run.config["model"] | run.normalization).get(key, [0.5]) for key in ("mean", "std"))
    kind = kind_of_training(run.content.get("images"), mean, std)
    return AcceptedImages(int(dataset.get("in_channels", 3)), kind)


WEIGHT_FILES = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")
"""Arguments of timm that name files and addresses to load."""


def _forget_pretrained_weights(node: Any) -> None:
    """The checkpoint brings all weights: nothing is to be fetched, and no file of the training machine is needed."""
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, dict | list):
            _forget_pretrained_weights(value)
    if isinstance(node, dict):
        if node.get("pretrained"):
            node["pretrained"] = False
        if "weights" in node:
            node["weights"] = None
        for name in WEIGHT_FILES:
            node.pop(name, None)
