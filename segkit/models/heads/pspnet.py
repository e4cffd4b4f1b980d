"""The PSPNet head: what the deepest level holds, pooled over regions of four sizes.

Shape suffixes: B batch, C channels, h w pixels of the deepest level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.config.types import Positive, Share
from segkit.contracts import UserError
from segkit.models.backbones.timm_backbone import FeatureInfo
from segkit.models.layers.head_blocks import conv_norm_relu, initialize


class PyramidPooling(nn.Module):
    """(B, C, h, w) to (B, out_channels, h, w): the map joined with its means over 1, 4, 9 and 36 regions.

    Zhao et al., "Pyramid Scene Parsing Network" (arXiv 1612.01105), section 3.2 and figure 3, with a 3x3
    convolution that joins them.

    Args:
        branch_channels: to which each pooled map is reduced.
        bins: regions along each side.
    """

    def __init__(
        self, in_channels: int, out_channels: int, branch_channels: int, bins: Sequence[int] = (1, 2, 3, 6)
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), conv_norm_relu(in_channels, branch_channels, 1)) for side in bins
        )
        self.join = conv_norm_relu(in_channels + len(bins) * branch_channels, out_channels, 3)

    def forward(self, map_BChw: Tensor) -> Tensor:
        views = [map_BChw]
        for branch in self.branches:
            pooled = branch(map_BChw)
            views.append(F.interpolate(pooled, size=map_BChw.shape[-2:], mode="bilinear", align_corners=False))
        return self.join(torch.cat(views, dim=1))


class PSPHead(nn.Module):
    """Logits (B, num_classes, h, w) at the stride of the backbone's last level, 8 in the paper.

    Args:
        channels: of the joined map; each of the four pooled maps gets a quarter of the level's own channels.
        bins: regions along each side, one pooled map for each.
        dropout: share of channels dropped before the classifier.
    """

    def __init__(
        self,
        features: Sequence[FeatureInfo],
        *,
        num_classes: int,
        channels: Positive = 512,
        bins: Sequence[Positive] = (1, 2, 3, 6),
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        if not bins:
            raise UserError("model.head.bins=[]; allowed: one number or more")
        in_channels = features[-1].channels
        self.pooling = PyramidPooling(in_channels, channels, max(in_channels // len(bins), 1), bins)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        initialize(self, self.classifier)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.dropout(self.pooling(maps[-1])))
