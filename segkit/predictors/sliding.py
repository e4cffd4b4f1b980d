"""Overlapping windows whose logits are averaged.

Shape suffixes: B images, C classes or channels, H W full-size pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from segkit.contracts import Prediction, Predictor, UserError
from segkit.logits import resize_logits


class Sliding:
    """Predicts windows of a fixed size and averages their logits where they overlap, at full size.

    Windows stand on a regular grid; the last of each row and column is moved back inside the image, so all
    pixels are covered and none by padding. An image smaller than a window is padded on the right and bottom
    by repeating its edge, and the padding is cropped away. This is the averaging of logits that
    PSPNet (arXiv 1612.01105) and mmsegmentation's "slide" mode use.

    Args:
        model: what predicts a window, a model or another predictor.
        window: edge of the windows in pixels, or (height, width).
        overlap: share of a window that the next one covers too, in [0, 1).
        batch_size: windows that go through `model` together.
    """

    def __init__(
        self,
        model: Predictor,
        *,
        window: int | Sequence[int],
        overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        batch_size: Annotated[int, Field(gt=0)] = 4,
    ):
        self.model = model
        height, width = (window, window) if isinstance(window, int) else tuple(window)
        if min(height, width) < 1:
            raise UserError(f"predictor.window={window}; allowed: an edge of at least 1 pixel, or two of them")
        self.window = (height, width)
        self.overlap = overlap
        self.batch_size = batch_size

    def __call__(self, images: Tensor) -> Prediction:
        height, width = images.shape[-2:]
        window_height, window_width = self.window
        padded_BCHW = _pad(images, max(0, window_height - height), max(0, window_width - width))
        sum_BCHW: Tensor | None = None
        count_HW = torch.zeros(padded_BCHW.shape[-2:], device=images.device)
        for corners in self._batches(padded_BCHW.shape[-2:], len(images)):
            windows = torch.cat([padded_BCHW[:, :, y : y + window_height, x : x + window_width] for y, x in corners])
            # float32: sums of many half-precision logits lose their last digits.
            logits = resize_logits(self.model(windows).logits, self.window).float()
            if sum_BCHW is None:
                sum_BCHW = logits.new_zeros((len(images), logits.shape[1], *padded_BCHW.shape[-2:]))
            for (y, x), window_BCHW in zip(corners, logits.split(len(images)), strict=True):
                sum_BCHW[:, :, y : y + window_height, x : x + window_width] += window_BCHW
                count_HW[y : y + window_height, x : x + window_width] += 1
        assert sum_BCHW is not None, "there is at least one window"
        # In place: at full size a second copy is what memory is short of.
        return Prediction(sum_BCHW.div_(count_HW)[:, :, :height, :width])

    def _batches(self, size: Sequence[int], num_images: int) -> Iterator[list[tuple[int, int]]]:
        """Upper left corners of the windows, so many at once as make up a batch."""
        rows, columns = (
            list(_starts(edge, window, self.overlap)) for edge, window in zip(size, self.window, strict=True)
        )
        corners = list(product(rows, columns))
        at_once = max(1, self.batch_size // num_images)
        for start in range(0, len(corners), at_once):
            yield corners[start : start + at_once]


def _starts(edge: int, window: int, overlap: float) -> Iterator[int]:
    """Where windows begin along an edge of at least `window` pixels; the last one ends with it."""
    stride = max(1, round(window * (1 - overlap)))
    yield from range(0, edge - window, stride)
    yield edge - window


def _pad(images_BCHW: Tensor, bottom: int, right: int) -> Tensor:
    if bottom == right == 0:
        return images_BCHW
    # Replication is not implemented for integers.
    padded = F.pad(images_BCHW.float(), (0, right, 0, bottom), mode="replicate")
    return padded.to(images_BCHW.dtype)
