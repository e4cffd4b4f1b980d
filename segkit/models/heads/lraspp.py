"""The LR-ASPP head: a small head for phones, one gated deep level beside one finer level.

Shape suffixes: B batch, C channels, h w pixels of level 8, p q of the deepest level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from segkit.config.types import Positive
from segkit.models.backbones.timm_backbone import FeatureInfo, pick
from segkit.models.layers.head_blocks import conv_norm_relu, initialize


class LRASPPHead(nn.Module):
    """Logits (B, num_classes, h, w) at stride 8.

    Howard et al., "Searching for MobileNetV3" (arXiv 1905.02244), section 6.4 and figure 10; the gate averages
    the whole map, as in torchvision, where the paper pools windows of 49 x 49.

    Args:
        channels: of the deep branch.
    """

    def __init__(self, features: Sequence[FeatureInfo], *, num_classes: int, channels: Positive = 128) -> None:
        super().__init__()
        self.low_index = pick(features, 8)
        deep_channels = features[-1].channels
        self.deep = conv_norm_relu(deep_channels, channels, 1)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(deep_channels, channels, 1, bias=False), nn.Sigmoid()
        )
        self.low_classifier = nn.Conv2d(features[self.low_index].channels, num_classes, 1)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        initialize(self, self.classifier)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        gated_BCpq = self.deep(maps[-1]) * self.gate(maps[-1])
        low_BChw = self.low_classifier(maps[self.low_index])
        gated_BChw = F.interpolate(gated_BCpq, size=low_BChw.shape[-2:], mode="bilinear", align_corners=False)
        return low_BChw + self.classifier(gated_BChw)
