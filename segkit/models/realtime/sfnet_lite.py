"""SFNet-Lite: one gated alignment of the finest level and the deepest, in place of a pyramid of them.

Shape suffixes: B batch, C channels, h w pixels of the finest level, p q of the deepest one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from segkit.contracts import Prediction
from segkit.models.backbones.timm_backbone import TimmBackbone, pick
from segkit.models.layers.head_blocks import resize_like
from segkit.models.layers.normalization import Normalize
from segkit.models.layers.realtime_blocks import conv_norm_act, initialize
from segkit.models.realtime.sfnet import PyramidPooling, auxiliary_head, lateral, warp


class SFNetLite(nn.Module):
    """Images as in `contracts.Batch`, of any size, to a Prediction at stride 4.

    Li et al., "SFNet: Faster and Accurate Semantic Segmentation via Semantic Flow" (arXiv 2207.04415),
    section 3.3. In training the aligned map predicts too, as auxiliary output `aligned`. The published 12.3 M
    parameters are those of a ResNet-18 with a deep stem (see `SFNet`), of this auxiliary head, and of a lateral
    convolution of the deepest level that the authors' code (12,296,074) declares and never calls; without the
    latter there are 12,230,154.

    Args:
        backbone: called with `in_channels`; needs levels of reduction 4, 16 and 32.
        mean: of each image channel, in the units `Normalize` states.
        std: of each image channel, in the same units.
        channels: of the decoder.
        dropout: share of channels dropped after the pyramid pooling and in the auxiliary head.
    """

    def __init__(
        self,
        backbone: Callable[..., TimmBackbone],
        *,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        channels: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.input_channels = len(mean)
        self.normalize = Normalize(mean, std)
        self.backbone = backbone(in_channels=self.input_channels)
        features = self.backbone.features
        self.indices = tuple(pick(features, level) for level in (4, 16, 32))
        of_fine, of_middle, of_deepest = (features[index].channels for index in self.indices)
        self.pyramid = PyramidPooling(of_deepest, channels, dropout=dropout)
        self.fine, self.middle = lateral(of_fine, channels), lateral(of_middle, channels)
        self.align = GatedDualAlignment(channels)
        self.head = conv_norm_act(2 * channels, channels, 3).append(nn.Conv2d(channels, num_classes, 1))
        self.auxiliary = auxiliary_head(channels, num_classes, dropout)
        initialize(self, [self.head, self.auxiliary])

    def forward(self, images: Tensor) -> Prediction:
        maps = self.backbone(self.normalize(images))
        fine, middle, deepest = (maps[index] for index in self.indices)
        aligned_BChw = self.align(self.fine(fine), self.pyramid(deepest))
        middle_BChw = resize_like(self.middle(middle), aligned_BChw)
        prediction = Prediction(self.head(torch.cat([aligned_BChw, middle_BChw], dim=1)))
        if self.training:
            prediction.auxiliary["aligned"] = self.auxiliary(aligned_BChw)
        return prediction


class GatedDualAlignment(nn.Module):
    """Fine (B, C, h, w) and deep (B, C, p, q) to (B, C, h, w): both warped by flows of their own, and blended
    by a gate that sees their means and maxima (GD-FAM)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.of_fine = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.of_deep = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.flow = nn.Conv2d(channels, 4, 3, padding=1, bias=False)
        self.gate = nn.Conv2d(4, 1, 3, padding=1, bias=False)

    def forward(self, fine_BChw: Tensor, deep_BCpq: Tensor) -> Tensor:
        fine = self.of_fine(fine_BChw)
        deep = resize_like(self.of_deep(deep_BCpq), fine)
        flow_of_deep, flow_of_fine = self.flow(torch.cat([deep, fine], dim=1)).chunk(2, dim=1)
        summary = [reduced for x in (deep, fine_BChw) for reduced in (x.mean(1, True), x.amax(1, True))]
        share = self.gate(torch.cat(summary, dim=1)).sigmoid()
        return share * warp(deep_BCpq, flow_of_deep) + (1 - share) * warp(fine_BChw, flow_of_fine)
