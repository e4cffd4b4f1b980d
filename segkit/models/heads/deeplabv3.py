"""The DeepLabV3 head: atrous spatial pyramid pooling on the deepest level.

Shape suffixes: B batch, C channels, h w pixels of the deepest level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segkit.config.types import Positive, Share
from segkit.models.backbones.timm_backbone import FeatureInfo
from segkit.models.layers.head_blocks import conv_norm_relu, initialize


class ASPP(nn.Module):
    """(B, C, h, w) to (B, out_channels, h, w): the same map seen at several dilation rates and as a whole.

    Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation" (arXiv 1706.05587),
    section 3.3.
    """

    def __init__(self, in_channels: int, out_channels: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_norm_relu(in_channels, out_channels, 1)])
        self.branches.extend(conv_norm_relu(in_channels, out_channels, 3, dilation=rate) for rate in rates)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_norm_relu(in_channels, out_channels, 1))
        self.project = conv_norm_relu((len(rates) + 2) * out_channels, out_channels, 1)

    def forward(self, map_BChw: Tensor) -> Tensor:
        # First, so that its gradient comes last: the sum of the gradients has the memory format of the first one,
        # and this one's is not channels-last.
        pooled_BChw = self.pooled(map_BChw).expand(-1, -1, *map_BChw.shape[-2:])
        views = [branch(map_BChw) for branch in self.branches]
        return self.project(torch.cat([*views, pooled_BChw], dim=1))


class DeepLabV3Head(nn.Module):
    """Logits (B, num_classes, h, w) at the stride of the backbone's last level.

    Chen et al. (arXiv 1706.05587), section 3.3 and figure 5, with a 3x3 convolution after the ASPP and dropout
    between the two, as in torchvision.

    Args:
        rates: dilation of the ASPP branches; 12, 24, 36 are for output stride 8, halved at 16.
        channels: of each ASPP branch, its output and the 3x3 convolution.
        dropout: share of the ASPP's output dropped.
    """

    def __init__(
        self,
        features: Sequence[FeatureInfo],
        *,
        num_classes: int,
        rates: Sequence[Positive] = (12, 24, 36),
        channels: Positive = 256,
        dropout: Share = 0.5,
    ) -> None:
        super().__init__()
        self.aspp = ASPP(features[-1].channels, channels, rates)
        self.dropout = nn.Dropout(dropout)
        self.hidden = conv_norm_relu(channels, channels, 3)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        initialize(self, self.classifier)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.hidden(self.dropout(self.aspp(maps[-1]))))
