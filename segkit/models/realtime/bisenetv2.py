"""BiSeNetV2: a wide shallow branch for detail, a thin deep one for meaning, and each to guide the other.

Shape suffixes: B batch, C channels, h w pixels of the detail branch (stride 8), p q of the semantic one (32).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.contracts import Prediction
from segkit.models.layers.batch_norm import BatchNorm2d
from segkit.models.layers.normalization import Normalize
from segkit.models.layers.realtime_blocks import conv_norm, conv_norm_act, initialize

WIDTH = 128
STAGES = {"stage2": 16, "stage3": 32, "stage4": 64, "stage5": 128}


class BiSeNetV2(nn.Module):
    """Images as in `contracts.Batch`, of any size, to a Prediction at stride 8.

    Yu et al., "BiSeNet V2: Bilateral Network with Guided Aggregation for Real-time Semantic Segmentation"
    (arXiv 2004.02147), table 1 and figures 4 to 6. In training, section 4.4's booster: every stage of the
    semantic branch predicts too, as auxiliary outputs `stage2` to `stage5`, at that stage's own stride and
    weighed like the main one (`loss.auxiliary_weight=1`).

    Args:
        mean: of each image channel, in the units `Normalize` states.
        std: of each image channel, in the same units.
        head_channels: C_t of the main head; of section 5.2's ablation, 1024 is the choice.
        auxiliary_channels: C_t of the auxiliary heads.
        dropout: share of channel values dropped before each classifier.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        head_channels: int = 1024,
        auxiliary_channels: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.input_channels = len(mean)
        self.normalize = Normalize(mean, std)
        self.detail = nn.Sequential(
            conv_norm_act(self.input_channels, 64, 3, stride=2),
            conv_norm_act(64, 64, 3),
            conv_norm_act(64, 64, 3, stride=2),
            conv_norm_act(64, 64, 3),
            conv_norm_act(64, 64, 3),
            conv_norm_act(64, WIDTH, 3, stride=2),
            conv_norm_act(WIDTH, WIDTH, 3),
            conv_norm_act(WIDTH, WIDTH, 3),
        )
        self.semantic = nn.ModuleDict(
            {
                "stage2": Stem(self.input_channels, 16),
                "stage3": nn.Sequential(GatherExpand(16, 32, stride=2), GatherExpand(32, 32)),
                "stage4": nn.Sequential(GatherExpand(32, 64, stride=2), GatherExpand(64, 64)),
                "stage5": nn.Sequential(
                    GatherExpand(64, WIDTH, stride=2), *(GatherExpand(WIDTH, WIDTH) for _ in range(3))
                ),
            }
        )
        self.context = ContextEmbedding(WIDTH)
        self.aggregate = GuidedAggregation(WIDTH)
        self.head = _head(WIDTH, head_channels, num_classes, dropout)
        self.auxiliary = nn.ModuleDict(
            {name: _head(channels, auxiliary_channels, num_classes, dropout) for name, channels in STAGES.items()}
        )
        initialize(self, [self.head, *self.auxiliary.values()])

    def forward(self, images: Tensor) -> Prediction:
        x = self.normalize(images)
        detail = self.detail(x)
        stages: dict[str, Tensor] = {}
        for name, stage in self.semantic.items():
            x = stages[name] = stage(x)
        prediction = Prediction(self.head(self.aggregate(detail, self.context(x))))
        if self.training:
            prediction.auxiliary = {name: self.auxiliary[name](stages[name]) for name in STAGES}
        return prediction


class Stem(nn.Module):
    """(B, in_channels, H, W) to (B, channels, H/4, W/4): a convolution and a pooling side by side (figure 4a)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = conv_norm_act(in_channels, channels, 3, stride=2)
        self.left = nn.Sequential(
            conv_norm_act(channels, channels // 2, 1), conv_norm_act(channels // 2, channels, 3, stride=2)
        )
        self.right = nn.MaxPool2d(3, stride=2, padding=1)
        self.fuse = conv_norm_act(2 * channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.fuse(torch.cat([self.left(x), self.right(x)], dim=1))


class ContextEmbedding(nn.Module):
    """(B, C, p, q) to the same, with the map's mean added everywhere (figure 4b)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = BatchNorm2d(channels)
        self.conv = conv_norm_act(channels, channels, 1)
        self.last = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, map_BCpq: Tensor) -> Tensor:
        mean_BC11 = map_BCpq.mean(dim=(2, 3), keepdim=True)
        return self.last(map_BCpq + self.conv(self.norm(mean_BC11)))


class GatherExpand(nn.Module):
    """A residual block that computes in `expansion` times the channels, one by one (figure 5b and 5c)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, expansion: int = 6) -> None:
        super().__init__()
        inner = expansion * in_channels
        depthwise = [conv_norm(in_channels, inner, 3, stride=stride, groups=in_channels)]
        if stride > 1:
            depthwise.append(conv_norm(inner, inner, 3, groups=inner))
        self.residual = nn.Sequential(
            conv_norm_act(in_channels, in_channels, 3), *depthwise, conv_norm(inner, out_channels, 1)
        )
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(
                conv_norm(in_channels, in_channels, 3, stride=stride, groups=in_channels),
                conv_norm(in_channels, out_channels, 1),
            )
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.shortcut(x) + self.residual(x))


class GuidedAggregation(nn.Module):
    """Detail (B, C, h, w) and meaning (B, C, p, q) to (B, C, h, w), each gated by the other (figure 6)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.detail = _separable(channels)
        self.detail_down = conv_norm(channels, channels, 3, stride=2).append(nn.AvgPool2d(3, stride=2, padding=1))
        self.semantic = _separable(channels)
        self.semantic_up = conv_norm(channels, channels, 3)
        self.join = conv_norm(channels, channels, 3)

    def forward(self, detail_BChw: Tensor, semantic_BCpq: Tensor) -> Tensor:
        size = detail_BChw.shape[-2:]
        gate_BChw = F.interpolate(self.semantic_up(semantic_BCpq), size=size, mode="bilinear").sigmoid()
        fine_BChw = self.detail(detail_BChw) * gate_BChw
        coarse_BCpq = self.detail_down(detail_BChw) * self.semantic(semantic_BCpq).sigmoid()
        return self.join(fine_BChw + F.interpolate(coarse_BCpq, size=size, mode="bilinear"))


def _separable(channels: int) -> nn.Sequential:
    return conv_norm(channels, channels, 3, groups=channels).append(nn.Conv2d(channels, channels, 1, bias=False))


def _head(in_channels: int, channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    head = conv_norm_act(in_channels, channels, 3)
    return head.extend([nn.Dropout(dropout), nn.Conv2d(channels, num_classes, 1)])
