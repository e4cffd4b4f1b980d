"""Layers that several heads are built of."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from segkit.models.layers.atrous import AtrousConv2d
from segkit.models.layers.batch_norm import BatchNorm2d


def conv_norm_relu(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> nn.Sequential:
    """Convolution of stride 1 that keeps the size, batch norm, ReLU."""
    if dilation == 1:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    else:
        conv = AtrousConv2d(in_channels, out_channels, kernel_size, dilation, bias=False)
    return nn.Sequential(conv, BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def initialize(head: nn.Module, classifier: nn.Conv2d) -> None:
    """Give convolutions He's normal initialisation, and the classifier near-zero weights.

    Training thus starts from nearly equal class probabilities, whatever the backbone's scale.
    """
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    nn.init.normal_(classifier.weight, std=0.01)
    if classifier.bias is not None:
        nn.init.zeros_(classifier.bias)


def resize_like(maps: Tensor, other: Tensor) -> Tensor:
    """Maps (B, C, p, q) at the size of `other` (B, D, h, w), bilinear with pixel areas aligned."""
    return F.interpolate(maps, size=other.shape[-2:], mode="bilinear", align_corners=False)
