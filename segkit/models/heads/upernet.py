"""The UPerNet head: pyramid pooling on the deepest level, a feature pyramid down to stride 4.

Shape suffixes: B batch, C channels, h w pixels of stride 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from segkit.config.types import Positive, Share
from segkit.models.backbones.timm_backbone import FeatureInfo, pick
from segkit.models.heads.pspnet import PyramidPooling
from segkit.models.layers.head_blocks import conv_norm_relu, initialize, resize_like

LEVELS = (4, 8, 16, 32)


class UPerHead(nn.Module):
    """Logits (B, num_classes, h, w) at stride 4.

    Xiao et al., "Unified Perceptual Parsing for Scene Understanding" (arXiv 1807.10221), section 3.2 and
    figure 4, the semantic branch alone.

    Args:
        channels: of every level of the pyramid.
        bins: of the pyramid pooling on the deepest level.
        norm_levels: layer norm on each of the backbone's maps, which transformers leave without one.
        dropout: share of channels dropped before the classifier.
    """

    def __init__(
        self,
        features: Sequence[FeatureInfo],
        *,
        num_classes: int,
        channels: Positive = 512,
        bins: Sequence[Positive] = (1, 2, 3, 6),
        norm_levels: bool = False,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        self.indices = [pick(features, level) for level in LEVELS]
        widths = [features[index].channels for index in self.indices]
        self.norms = nn.ModuleList(LayerNorm2d(width) if norm_levels else nn.Identity() for width in widths)
        self.pooling = PyramidPooling(widths[-1], channels, channels, bins)
        self.laterals = nn.ModuleList(conv_norm_relu(width, channels, 1) for width in widths[-2::-1])
        self.smooths = nn.ModuleList(conv_norm_relu(channels, channels, 3) for _ in widths[-2::-1])
        self.join = conv_norm_relu(len(widths) * channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        initialize(self, self.classifier)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        levels = [norm(maps[index]) for norm, index in zip(self.norms, self.indices, strict=True)]
        summed = self.pooling(levels[-1])
        pyramid = [summed]
        for level, lateral, smooth in zip(levels[-2::-1], self.laterals, self.smooths, strict=True):
            summed = lateral(level) + resize_like(summed, level)
            pyramid.insert(0, smooth(summed))
        joined_BChw = self.join(torch.cat([resize_like(level, pyramid[0]) for level in pyramid], dim=1))
        return self.classifier(self.dropout(joined_BChw))
