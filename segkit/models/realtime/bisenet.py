"""BiSeNet: a shallow path for detail beside a backbone for context.

Shape suffixes: B batch, C channels, h w pixels of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.contracts import Prediction
from segkit.models.backbones.timm_backbone import TimmBackbone, pick
from segkit.models.layers.head_blocks import resize_like
from segkit.models.layers.normalization import Normalize
from segkit.models.layers.realtime_blocks import conv_norm_act, initialize


class BiSeNet(nn.Module):
    """Images as in `contracts.Batch`, of any size, to a Prediction at stride 8.

    Yu et al., "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation" (arXiv
    1808.00897), section 3 and figure 2. In training the two levels of the context path predict too, as
    auxiliary outputs `context16` and `context32`, which the paper weighs like the main one
    (`loss.auxiliary_weight=1`). Where the paper leaves widths open they are those of mmsegmentation and other
    PyTorch versions: 13.2 M parameters on ResNet-18 and 19 classes, of which the backbone has 11.2 M.

    Args:
        backbone: called with `in_channels`; needs levels of reduction 16 and 32.
        mean: of each image channel, in the units `Normalize` states.
        std: of each image channel, in the same units.
        channels: of the spatial path and of the context path.
    """

    def __init__(
        self,
        backbone: Callable[..., TimmBackbone],
        *,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        channels: int = 128,
    ) -> None:
        super().__init__()
        self.input_channels = len(mean)
        self.normalize = Normalize(mean, std)
        self.backbone = backbone(in_channels=self.input_channels)
        features = self.backbone.features
        self.indices = pick(features, 16), pick(features, 32)
        channels16, channels32 = (features[index].channels for index in self.indices)
        self.spatial = nn.Sequential(
            conv_norm_act(self.input_channels, channels // 2, 7, stride=2),
            conv_norm_act(channels // 2, channels // 2, 3, stride=2),
            conv_norm_act(channels // 2, channels // 2, 3, stride=2),
            conv_norm_act(channels // 2, channels, 1),
        )
        self.tail = conv_norm_act(channels32, channels, 1)
        self.refine32 = AttentionRefinement(channels32, channels)
        self.refine16 = AttentionRefinement(channels16, channels)
        self.smooth32 = conv_norm_act(channels, channels, 3)
        self.smooth16 = conv_norm_act(channels, channels, 3)
        self.fusion = FeatureFusion(2 * channels, 2 * channels)
        self.head = _head(2 * channels, 2 * channels, num_classes)
        self.auxiliary = nn.ModuleDict(
            {name: _head(channels, channels // 2, num_classes) for name in ("context16", "context32")}
        )
        initialize(self, [self.head, *self.auxiliary.values()])

    def forward(self, images: Tensor) -> Prediction:
        x = self.normalize(images)
        detail = self.spatial(x)
        maps = self.backbone(x)
        map16, map32 = (maps[index] for index in self.indices)
        context32 = self.refine32(map32) + self.tail(_pooled(map32))
        context32 = self.smooth32(_nearest(context32, map16))
        context16 = self.smooth16(_nearest(self.refine16(map16) + context32, detail))
        prediction = Prediction(self.head(self.fusion(detail, context16)))
        if self.training:
            prediction.auxiliary["context16"] = self.auxiliary["context16"](context16)
            prediction.auxiliary["context32"] = self.auxiliary["context32"](context32)
        return prediction


class AttentionRefinement(nn.Module):
    """(B, in_channels, h, w) to (B, out_channels, h, w), each channel scaled by what the whole map says of it."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = conv_norm_act(in_channels, out_channels, 3)
        self.attention = conv_norm_act(out_channels, out_channels, 1, act=nn.Sigmoid)

    def forward(self, map_BChw: Tensor) -> Tensor:
        refined_BChw = self.conv(map_BChw)
        return refined_BChw * self.attention(_pooled(refined_BChw))


class FeatureFusion(nn.Module):
    """Detail and context (B, C / 2, h, w) each to (B, C, h, w): joined, and channels weighed against each other."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.join = conv_norm_act(in_channels, out_channels, 1)
        self.attention = nn.Sequential(
            nn.Conv2d(out_channels, out_channels // 4, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(out_channels // 4, out_channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        joined_BChw = self.join(torch.cat([detail, resize_like(context, detail)], dim=1))
        return joined_BChw + joined_BChw * self.attention(_pooled(joined_BChw))


def _head(in_channels: int, channels: int, num_classes: int) -> nn.Sequential:
    return conv_norm_act(in_channels, channels, 3).append(nn.Conv2d(channels, num_classes, 1, bias=False))


def _pooled(maps: Tensor) -> Tensor:
    return maps.mean(dim=(2, 3), keepdim=True)


def _nearest(maps: Tensor, other: Tensor) -> Tensor:
    return F.interpolate(maps, size=other.shape[-2:], mode="nearest")
