"""The DeepLabV3+ head: atrous spatial pyramid pooling and a decoder with one skip.

Shape suffixes: B batch, C channels, h w pixels of the low level (stride 4), p q of the deepest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.config.types import Positive, Share
from segkit.models.backbones.timm_backbone import FeatureInfo, pick
from segkit.models.heads.deeplabv3 import ASPP
from segkit.models.layers.head_blocks import conv_norm_relu, initialize


class DeepLabV3PlusHead(nn.Module):
    """Logits (B, num_classes, h, w) at stride 4.

    Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation"
    (arXiv 1802.02611), section 3.1 and figure 2, with plain 3x3 convolutions in place of separable ones.

    Args:
        rates: dilation of the ASPP branches; the paper's 6, 12, 18 are for output stride 16, doubled at 8.
        aspp_channels: of each ASPP branch and its output.
        low_level_channels: to which the skip is reduced, lest it outweigh the ASPP.
        decoder_channels: of the two 3x3 convolutions.
        dropout: share of channels dropped before the classifier.
    """

    def __init__(
        self,
        features: Sequence[FeatureInfo],
        *,
        num_classes: int,
        rates: Sequence[Positive] = (6, 12, 18),
        aspp_channels: Positive = 256,
        low_level_channels: Positive = 48,
        decoder_channels: Positive = 256,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        self.low_index = pick(features, 4)
        self.aspp = ASPP(features[-1].channels, aspp_channels, rates)
        self.low_level = conv_norm_relu(features[self.low_index].channels, low_level_channels, 1)
        self.decoder = nn.Sequential(
            conv_norm_relu(aspp_channels + low_level_channels, decoder_channels, 3),
            conv_norm_relu(decoder_channels, decoder_channels, 3),
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(decoder_channels, num_classes, 1)
        initialize(self, self.classifier)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        low_BChw = self.low_level(maps[self.low_index])
        deep_BCpq = self.aspp(maps[-1])
        deep_BChw = F.interpolate(deep_BCpq, size=low_BChw.shape[-2:], mode="bilinear", align_corners=False)
        decoded_BChw = self.decoder(torch.cat([deep_BChw, low_BChw], dim=1))
        return self.classifier(self.dropout(decoded_BChw))
