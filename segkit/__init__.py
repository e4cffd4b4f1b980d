"""Semantic-segmentation experiments: Hydra configs, one plain PyTorch loop, MLflow records."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from segkit.experiment.inference import TrainedModel

__version__ = "0.1.0"


def load(path: str | Path, *, device: str = "cpu", trust: tuple[str, ...] = ()) -> TrainedModel:
    """The trained model of a run folder (its best checkpoint) or of one checkpoint file, ready to predict.

    `model = segkit.load("outputs/...")`, then `model.predict(image)` for a file or an (H, W, 3) uint8 RGB array gives
    the (H, W) class ids, or of a multi-label model (H, W, K) of 0 and 1, and `model(images)` for a (B, 3, H, W)
    uint8 tensor gives a Prediction with logits. Arrays of other types are refused unless their range is stated:
    `model.predict(image, value_range=(0, 65535))`.

    The config stored in the checkpoint is data: it may only name segkit's own classes and those of the
    libraries it builds on. `trust` adds module prefixes of your own, such as `("my_lab.",)`.

    Raises UserError when there is no whole checkpoint at `path`.
    """
    from segkit.experiment.inference import load_trained_model

    return load_trained_model(path, device=device, trust=trust)
