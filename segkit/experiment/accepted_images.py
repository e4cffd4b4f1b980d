"""Images as a caller has them, to those a model was trained on; what can be read in two ways is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from segkit.contracts import DataError, UserError
from segkit.data.files.bounded import UnusableError
from segkit.data.files.decode import read_image
from segkit.experiment.mean_and_std import ImageKind

AS_ARRAY = frozenset({"L", "RGB", "RGBA", "I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
"""Modes of Pillow's images whose values mean in an array what they mean in the image."""


@dataclass(frozen=True)
class AcceptedImages:
    """What one trained model takes.

    Args:
        in_channels: channels of its images.
        kind: that of its training images.
    """

    in_channels: int
    kind: ImageKind

    def read(self, path: str | Path) -> NDArray[Any]:
        """The image file (H, W, C) as training read its own. Raises DataError, also for values of another scale."""
        try:
            image = read_image(Path(path), self.in_channels)
        except UnusableError as error:
            raise DataError(f"{path}: {error}") from None
        if found := self._unlike_training(str(image.dtype), float(image.min()), float(image.max())):
            raise DataError(f"{path}: {found}")
        return image

    def array(self, image: Any, value_range: Sequence[float] | None = None) -> NDArray[Any]:
        """An array or a Pillow image as (H, W, C) uint8 or float32, as `read` gives the file that holds it.

        `value_range` are the two values that stand for black and white, where the type does not say. Raises
        UserError for what is no single image (H, W, C), or whose values can be read in two ways.
        """
        if isinstance(image, Tensor):
            raise UserError(
                "predict takes an array (H, W, C), not a tensor: give image.numpy(), its channels last, or call the "
                "model itself, model(images), with (B, C, H, W)"
            )
        values = _of_pillow(image) if isinstance(image, Image.Image) else np.asarray(image)
        values = self._with_channels(values)
        if values.dtype.kind not in "uif":
            hint = "; of a black and white image that is image.astype(np.uint8) * 255" * (values.dtype == np.bool_)
            raise UserError(f"predict was given {values.dtype} values; allowed: numbers, best uint8 in 0..255{hint}")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UserError("predict was given values that are not finite (NaN or infinite)")
        if value_range is not None:
            return self._stretched(values, value_range)
        if values.dtype.kind == "i" and self.kind.has_own_units:
            values = values.astype(np.float32)  # as files of such numbers are read
        if values.dtype == np.uint16 and self.kind.dtype != "uint8" and not self.kind.has_own_units:
            values = values.astype(np.float32) / np.float32(65535)  # likewise
        if found := self._unlike_training(str(values.dtype), float(values.min()), float(values.max())):
            raise UserError(f"predict was given {found}{self._hint(values)}")
        return values if values.dtype == np.uint8 else values.astype(np.float32)

    def check(self, images: Tensor) -> None:
        """Raise UserError for a batch that is not (B, C, H, W), or of another scale than the training images."""
        if images.ndim != 4 or images.shape[1] != self.in_channels or not images.numel():
            raise UserError(
                f"the model was given a tensor {tuple(images.shape)}; allowed: (B, {self.in_channels}, H, W)"
            )
        values = images if images.dtype == torch.uint8 or images.is_floating_point() else images.float()
        low, high = (float(value) for value in values.aminmax())
        if low != low:
            raise UserError("the model was given values that are not finite (NaN or infinite)")
        if found := self._unlike_training(str(images.dtype).removeprefix("torch."), low, high):
            raise UserError(f"the model was given {found}")

    def _unlike_training(self, dtype: str, low: float, high: float) -> str | None:
        """What is wrong with values of this type and range, or None."""
        found = f"{dtype} values in {low:g}..{high:g}"
        if self.kind.has_own_units:
            if dtype.startswith("float"):
                return None
            return (
                f"{found}, where the training images have units of their own ({self.kind.low:g}..{self.kind.high:g} "
                "in the first): give floats in these units"
            )
        if dtype == "uint8":
            return None
        # Of shares of a full range some run a little over it, such as reflectances; 8-bit images never do.
        spare = 0 if self.kind.dtype == "uint8" else 1
        if dtype.startswith("float") and low >= -spare and high <= 1 + spare:
            return None
        return f"{found}; the model takes uint8 in 0..255 or floats in 0..1, and normalises them itself"

    def _hint(self, values: NDArray[Any]) -> str:
        if self.kind.has_own_units or float(values.min()) < 0:
            return ""
        highest = 255 if values.max() <= 255 else np.iinfo(values.dtype).max if values.dtype.kind == "u" else "..."
        return f". Or say which values stand for black and white, as in value_range=(0, {highest})"

    def _with_channels(self, values: NDArray[Any]) -> NDArray[Any]:
        """(H, W, in_channels): for three channels grey is repeated and transparency dropped, as in files."""
        given, wanted = f"predict was given an array {values.shape}", self.in_channels
        if values.ndim == 4:
            raise UserError(f"{given}; allowed: one image (H, W, {wanted}). Call the model itself with (B, C, H, W)")
        if values.ndim == 2 and values.size and wanted in (1, 3):
            values = values[..., None]
        if values.ndim != 3 or not values.size:
            raise UserError(f"{given}; allowed: one image (H, W, {wanted})" + " or (H, W)" * (wanted in (1, 3)))
        found = values.shape[2]
        is_first = found != wanted and values.shape[0] == wanted
        if found == 4 and wanted == 3 and not is_first:
            return values[..., :3]
        if found in (1, 2) and wanted in (1, 3) and not is_first:
            return np.repeat(values[..., :1], wanted, axis=2)
        if found != wanted:
            hint = "; with the channels first, give image.transpose(1, 2, 0)" * (
                is_first or values.shape[0] in (1, 3, 4)
            )
            raise UserError(f"{given}; allowed: (H, W, {wanted}){hint}")
        return values

    def _stretched(self, values: NDArray[Any], value_range: Sequence[float]) -> NDArray[Any]:
        low, high = (float(value) for value in value_range)
        if self.kind.has_own_units:
            raise UserError(
                f"value_range={tuple(value_range)}, but the training images have units of their own "
                f"({self.kind.low:g}..{self.kind.high:g} in the first): give floats in these units, without a range"
            )
        if not (np.isfinite([low, high]).all() and low < high):
            raise UserError(f"value_range={tuple(value_range)}; allowed: two numbers, the lower one first")
        if float(values.min()) < low or float(values.max()) > high:
            raise UserError(
                f"value_range=({low:g}, {high:g}), but there are values in {values.min():g}..{values.max():g}"
            )
        if (low, high) == (0, 255) and self.kind.dtype == "uint8" and (values == np.rint(values)).all():
            return values.astype(np.uint8)
        return (values.astype(np.float32) - np.float32(low)) / np.float32(high - low)


def kind_of_training(stored: Any, mean: Sequence[float], std: Sequence[float]) -> ImageKind:
    """The kind of the training images that a checkpoint tells of.

    Older ones do not, and what they were normalised with has to do: shares of a full range are in 0..1.
    """
    try:
        return ImageKind(str(stored["dtype"]), float(stored["low"]), float(stored["high"]))
    except (TypeError, KeyError, ValueError):
        if all(0 <= value <= 1 for value in (*mean, *std)):
            return ImageKind("uint8", 0, 255)
        return ImageKind("float32", min(mean) - 2 * max(std), max(mean) + 2 * max(std))


def _of_pillow(image: Image.Image) -> NDArray[Any]:
    """Upright, as files are read; palettes and inks as their colours."""
    upright = ImageOps.exif_transpose(image)
    return np.asarray(
        upright if upright.mode in AS_ARRAY else upright.convert("L" if upright.mode in ("1", "LA") else "RGB")
    )
