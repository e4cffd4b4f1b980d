"""The FCN head: one convolution on one level of the backbone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segkit.config.types import Positive, Share
from segkit.models.backbones.timm_backbone import FeatureInfo, pick
from segkit.models.layers.head_blocks import conv_norm_relu, initialize


class FCNHead(nn.Module):
    """Logits (B, num_classes, h, w) at the stride of the one backbone level it reads.

    A 3x3 convolution to `channels`, batch norm, ReLU, dropout of whole channels and a 1x1 classifier: the
    single-stream form of Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation" (CVPR
    2015); the paper's skips are left out. Also the usual auxiliary head, with `level` 16.

    Args:
        channels: of the hidden layer.
        level: reduction of the level to read, as `pick` takes it; None: the backbone's last.
    """

    def __init__(
        self,
        features: Sequence[FeatureInfo],
        *,
        num_classes: int,
        channels: Positive = 512,
        level: int | None = None,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        self.index = len(features) - 1 if level is None else pick(features, level)
        self.hidden = conv_norm_relu(features[self.index].channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        initialize(self, self.classifier)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.dropout(self.hidden(maps[self.index])))
