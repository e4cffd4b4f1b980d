"""The SegFormer head: each level projected by itself, joined at the finest one.

Shape suffixes: B batch, C channels, h w pixels of the finest level read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.config.types import Positive, Share
from segkit.models.backbones.timm_backbone import FeatureInfo, pick
from segkit.models.layers.head_blocks import conv_norm_relu, initialize


class SegFormerHead(nn.Module):
    """Logits (B, num_classes, h, w) at the stride of the finest level read: 4 on a hierarchical backbone.

    Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers"
    (arXiv 2105.15203), section 3.2 and equation 4. It reads every level from 4 on; of a plain transformer,
    whose maps all have one level, it reads all of them.

    Args:
        channels: to which every level is projected: 256 in the paper for B0 and B1, 768 from B2 on.
        dropout: share of channels dropped before the classifier.
    """

    def __init__(
        self, features: Sequence[FeatureInfo], *, num_classes: int, channels: Positive = 256, dropout: Share = 0.1
    ) -> None:
        super().__init__()
        levels = sorted({feature.level for feature in features if feature.level >= 4}, reverse=True)
        plain = len(levels) == 1
        self.indices = [*range(len(features))][::-1] if plain else [pick(features, level) for level in levels]
        self.projections = nn.ModuleList(nn.Conv2d(features[index].channels, channels, 1) for index in self.indices)
        self.join = conv_norm_relu(len(self.indices) * channels, channels, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        initialize(self, self.classifier)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[self.indices[-1]].shape[-2:]
        projected = [
            F.interpolate(project(maps[index]), size=size, mode="bilinear", align_corners=False)
            for project, index in zip(self.projections, self.indices, strict=True)
        ]
        joined_BChw = self.join(torch.cat(projected, dim=1))
        return self.classifier(self.dropout(joined_BChw))
