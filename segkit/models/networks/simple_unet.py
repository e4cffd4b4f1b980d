"""A small U-Net: four levels down, four up, bilinear upsampling, optional dropout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.config.types import Positive, Share
from segkit.contracts import Prediction
from segkit.models.layers.head_blocks import conv_norm_relu, initialize
from segkit.models.layers.normalization import Normalize


class SimpleUNet(nn.Module):
    """Images as in `contracts.Batch`, of any size, to a Prediction at their size.

    The scheme of Ronneberger, Fischer and Brox (arXiv 1505.04597) at its plainest: four levels of one
    convolution and pooling, a bottleneck, four levels that upsample, join the skip and convolve.

    Args:
        mean: of each image channel, in the units `Normalize` states.
        std: of each image channel, in the same units.
        width: channels of the first level; each level down has twice as many.
        dropout: share of channels dropped after each level on the way down but the first; 0 is none.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        width: Positive = 32,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        self.input_channels = len(mean)
        self.normalize = Normalize(mean, std)
        widths = [width << level for level in range(5)]
        self.down = nn.ModuleList(
            conv_norm_relu(above, here, 3) for above, here in zip((len(mean), *widths[:-1]), widths, strict=True)
        )
        self.up = nn.ModuleList(
            conv_norm_relu(below + here, here, 3) for below, here in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        initialize(self, self.classifier)

    def forward(self, images: Tensor) -> Prediction:
        values = self.down[0](self.normalize(images))
        skips: list[Tensor] = []
        for level in list(self.down)[1:]:
            skips.append(values)
            values = self.dropout(level(F.max_pool2d(values, 2, ceil_mode=True)))
        for level, skip in zip(self.up, reversed(skips), strict=True):
            larger = F.interpolate(values, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            values = level(torch.cat([skip, larger], dim=1))
        return Prediction(self.classifier(values))
