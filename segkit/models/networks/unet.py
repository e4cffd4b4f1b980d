"""U-Net, from the image to logits at its own size.

Shape suffixes: B batch, C channels or classes, H W pixels of the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segkit.config.types import Positive
from segkit.contracts import Prediction, UserError
from segkit.models.layers.batch_norm import BatchNorm2d
from segkit.models.layers.head_blocks import initialize
from segkit.models.layers.normalization import Normalize


class UNet(nn.Module):
    """Images as in `contracts.Batch`, of any size, to a Prediction at their size.

    Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation"
    (arXiv 1505.04597), figure 1, with padded convolutions, so that nothing of the image is cut off, and batch
    norm after each. Pooling rounds up and what is upsampled is cropped to its skip: odd sizes need no padding.

    Args:
        mean: of each image channel, in the units `Normalize` states.
        std: of each image channel, in the same units.
        channels: of each level on the way down and up; the last is the bottleneck's.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        channels: Sequence[Positive] = (64, 128, 256, 512, 1024),
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise UserError(f"model.channels={list(channels)}; allowed: two numbers or more, the last the bottleneck's")
        self.input_channels = len(mean)
        self.normalize = Normalize(mean, std)
        self.down = nn.ModuleList(
            double_conv(above, here) for above, here in zip((len(mean), *channels[:-1]), channels, strict=True)
        )
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        steps = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(below, here, 2, stride=2) for below, here in steps)
        self.up = nn.ModuleList(double_conv(2 * here, here) for _, here in steps)
        self.classifier = nn.Conv2d(channels[0], num_classes, 1)
        initialize(self, self.classifier)

    def forward(self, images: Tensor) -> Prediction:
        values = self.down[0](self.normalize(images))
        skips: list[Tensor] = []
        for level in list(self.down)[1:]:
            skips.append(values)
            values = level(self.pool(values))
        for enlarge, level, skip in zip(self.enlarge, self.up, reversed(skips), strict=True):
            larger = enlarge(values)[..., : skip.shape[-2], : skip.shape[-1]]
            values = level(torch.cat([skip, larger], dim=1))
        return Prediction(self.classifier(values))


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Twice: 3x3 convolution that keeps the size, batch norm, ReLU."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [nn.Conv2d(channels, out_channels, 3, padding=1), BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
