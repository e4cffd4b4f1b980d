"""PIDNet: three branches, for detail (P), context (I) and boundaries (D), as in a PID controller.

Shape suffixes: B batch, C channels, h w pixels at stride 8, p q at stride 64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from segkit.contracts import Prediction
from segkit.models.layers.batch_norm import BatchNorm2d
from segkit.models.layers.head_blocks import resize_like
from segkit.models.layers.normalization import Normalize
from segkit.models.layers.realtime_blocks import conv_norm, conv_norm_act, initialize


class Size(NamedTuple):
    """Widths and depths of a PIDNet.

    Attributes:
        planes: channels of the stem.
        blocks: in the stages up to stride 8, in both branches.
        deep_blocks: in the stages of stride 16 and 32 of the I branch.
        pooling_planes: of each scale of the pyramid pooling.
        head_planes: of the hidden layer of the heads.
    """

    planes: int
    blocks: int
    deep_blocks: int
    pooling_planes: int
    head_planes: int


SIZES = {"s": Size(32, 2, 3, 96, 128), "m": Size(64, 2, 4, 96, 128), "l": Size(64, 3, 4, 112, 256)}


class PIDNet(nn.Module):
    """Images as in `contracts.Batch`, of any size, to a Prediction at stride 8.

    Xu, Xiong and Bhattacharyya, "PIDNet: A Real-time Semantic Segmentation Network Inspired by PID
    Controllers" (arXiv 2206.02066), sections 3.2 to 3.5. In training the P branch predicts too, as
    auxiliary output `detail` (the paper's l_0, of weight 0.4). The D branch learns from the main loss alone:
    the paper's boundary head and its losses l_1 and l_3 are left out, as a head of one channel is not one of
    classes. Size m has the depth that gives the paper's 34.4 M parameters; the authors' released code has one
    block less at strides 16 and 32, and 28.5 M.

    Args:
        mean: of each image channel, in the units `Normalize` states.
        std: of each image channel, in the same units.
        size: s, m or l, of 7.6, 34.4 and 36.9 M parameters without the auxiliary head.
    """

    def __init__(
        self, *, num_classes: int, mean: Sequence[float], std: Sequence[float], size: Literal["s", "m", "l"] = "s"
    ) -> None:
        super().__init__()
        self.input_channels = len(mean)
        self.normalize = Normalize(mean, std)
        planes, blocks, deep_blocks, pooling, hidden = SIZES[size]
        wide = 2 * planes
        self.stem = nn.Sequential(
            _biased_conv_norm_relu(self.input_channels, planes), _biased_conv_norm_relu(planes, planes)
        )
        self.shared4 = _stage(planes, planes, blocks)
        self.shared8 = _stage(planes, wide, blocks, stride=2)
        self.context16 = _stage(wide, 4 * planes, deep_blocks, stride=2)
        self.context32 = _stage(4 * planes, 8 * planes, deep_blocks, stride=2)
        self.context64 = nn.Sequential(
            Bottleneck(8 * planes, 8 * planes, stride=2), nn.ReLU(), Bottleneck(16 * planes, 8 * planes)
        )
        self.detail = nn.ModuleList([_stage(wide, wide, blocks), _stage(wide, wide, blocks), Bottleneck(wide, wide)])
        self.compress = nn.ModuleList([conv_norm(4 * planes, wide, 1), conv_norm(8 * planes, wide, 1)])
        self.select = nn.ModuleList([PixelAttention(wide, planes), PixelAttention(wide, planes)])
        if size == "l":
            boundary = [BasicBlock(wide, wide), BasicBlock(wide, wide)]
        else:
            boundary = [BasicBlock(wide, planes), Bottleneck(planes, planes)]
        self.boundary = nn.ModuleList([*boundary, Bottleneck(wide, wide)])
        self.difference = nn.ModuleList(
            [conv_norm(4 * planes, wide if size == "l" else planes, 3), conv_norm(8 * planes, wide, 3)]
        )
        pyramid, fusion = (SequentialPyramid, BoundaryFusion) if size == "l" else (ParallelPyramid, LightFusion)
        self.pyramid = pyramid(16 * planes, pooling, 4 * planes)
        self.fusion = fusion(4 * planes)
        self.head = _head(4 * planes, hidden, num_classes)
        self.auxiliary = _head(wide, hidden, num_classes)
        initialize(self, [self.head, self.auxiliary])

    def forward(self, images: Tensor) -> Prediction:
        x = self.shared4(self.stem(self.normalize(images))).relu()
        context = self.shared8(x).relu()
        detail, boundary = self.detail[0](context), self.boundary[0](context)
        context = self.context16(context).relu()
        detail = first_detail = self.select[0](detail, self.compress[0](context))
        boundary = boundary + resize_like(self.difference[0](context), boundary)
        context = self.context32(context).relu()
        detail, boundary = self.detail[1](detail.relu()), self.boundary[1](boundary.relu())
        detail = self.select[1](detail, self.compress[1](context))
        boundary = boundary + resize_like(self.difference[1](context), boundary)
        context = self.pyramid(self.context64(context))
        detail, boundary = self.detail[2](detail.relu()), self.boundary[2](boundary.relu())
        fused = self.fusion(detail, resize_like(context, detail), boundary)
        prediction = Prediction(self.head(fused))
        if self.training:
            prediction.auxiliary["detail"] = self.auxiliary(first_detail)
        return prediction


class BasicBlock(nn.Module):
    """ResNet's block of two 3x3 convolutions, without the last ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            conv_norm_act(in_channels, channels, 3, stride=stride), conv_norm(channels, channels, 3)
        )
        self.shortcut = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.residual(x)


class Bottleneck(nn.Module):
    """ResNet's block of 1x1, 3x3 and 1x1 convolutions to twice `channels`, without the last ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            conv_norm_act(in_channels, channels, 1),
            conv_norm_act(channels, channels, 3, stride=stride),
            conv_norm(channels, 2 * channels, 1),
        )
        self.shortcut = _shortcut(in_channels, 2 * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.residual(x)


class PixelAttention(nn.Module):
    """Detail (B, C, h, w) and context (B, C, p, q) to (B, C, h, w): at each pixel the share of context that
    agrees with it (Pag, section 3.2)."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.of_detail = conv_norm(channels, inner, 1)
        self.of_context = conv_norm(channels, inner, 1)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        key = resize_like(self.of_context(context), detail)
        share = (self.of_detail(detail) * key).sum(dim=1, keepdim=True).sigmoid()
        return (1 - share) * detail + share * resize_like(context, detail)


class _Pyramid(nn.Module):
    """What both pyramids share: the map itself, and pooled at three scales and as a whole."""

    def __init__(self, in_channels: int, channels: int, out_channels: int) -> None:
        super().__init__()
        pools = [nn.AvgPool2d(k, stride=s, padding=k // 2) for k, s in ((5, 2), (9, 4), (17, 8))]
        self.itself = _norm_relu_conv(in_channels, channels)
        self.scales = nn.ModuleList(
            nn.Sequential(pool, *_norm_relu_conv(in_channels, channels)) for pool in (*pools, nn.AdaptiveAvgPool2d(1))
        )
        self.compress = _norm_relu_conv(5 * channels, out_channels)
        self.shortcut = _norm_relu_conv(in_channels, out_channels)


class ParallelPyramid(_Pyramid):
    """(B, in_channels, p, q) to (B, out_channels, p, q), all scales at once (PAPPM, section 3.3)."""

    def __init__(self, in_channels: int, channels: int, out_channels: int) -> None:
        super().__init__(in_channels, channels, out_channels)
        self.process = _norm_relu_conv(4 * channels, 4 * channels, kernel_size=3, groups=4)

    def forward(self, map_BCpq: Tensor) -> Tensor:
        itself = self.itself(map_BCpq)
        scales = [resize_like(scale(map_BCpq), itself) + itself for scale in self.scales]
        joined = torch.cat([itself, self.process(torch.cat(scales, dim=1))], dim=1)
        return self.compress(joined) + self.shortcut(map_BCpq)


class SequentialPyramid(_Pyramid):
    """(B, in_channels, p, q) to (B, out_channels, p, q), each scale upon the last (DAPPM, arXiv 2101.06085)."""

    def __init__(self, in_channels: int, channels: int, out_channels: int) -> None:
        super().__init__(in_channels, channels, out_channels)
        self.process = nn.ModuleList(_norm_relu_conv(channels, channels, kernel_size=3) for _ in self.scales)

    def forward(self, map_BCpq: Tensor) -> Tensor:
        levels = [self.itself(map_BCpq)]
        for scale, process in zip(self.scales, self.process, strict=True):
            levels.append(process(resize_like(scale(map_BCpq), map_BCpq) + levels[-1]))
        return self.compress(torch.cat(levels, dim=1)) + self.shortcut(map_BCpq)


class LightFusion(nn.Module):
    """Detail, context, boundary (B, C, h, w) to (B, C, h, w): detail at boundaries, context within (section 3.4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.of_detail = conv_norm(channels, channels, 1)
        self.of_context = conv_norm(channels, channels, 1)

    def forward(self, detail: Tensor, context: Tensor, boundary: Tensor) -> Tensor:
        at_boundary = boundary.sigmoid()
        return self.of_detail((1 - at_boundary) * context + detail) + self.of_context(context + at_boundary * detail)


class BoundaryFusion(nn.Module):
    """The same with one 3x3 convolution on the blend (Bag, section 3.4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _norm_relu_conv(channels, channels, kernel_size=3)

    def forward(self, detail: Tensor, context: Tensor, boundary: Tensor) -> Tensor:
        return self.conv(torch.lerp(context, detail, boundary.sigmoid()))


def _stage(in_channels: int, channels: int, blocks: int, stride: int = 1) -> nn.Sequential:
    stage = nn.Sequential(BasicBlock(in_channels, channels, stride))
    for _ in range(blocks - 1):
        stage.extend([nn.ReLU(), BasicBlock(channels, channels)])
    return stage


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return conv_norm(in_channels, out_channels, 1, stride=stride)


def _biased_conv_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    # The authors' stem has biases that batch norm undoes; they are part of the published number.
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
    return nn.Sequential(conv, BatchNorm2d(out_channels), nn.ReLU())


def _norm_relu_conv(in_channels: int, out_channels: int, kernel_size: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)
    return nn.Sequential(BatchNorm2d(in_channels), nn.ReLU(), conv)


def _head(in_channels: int, hidden: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        *_norm_relu_conv(in_channels, hidden, kernel_size=3),
        BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, num_classes, 1),
    )
