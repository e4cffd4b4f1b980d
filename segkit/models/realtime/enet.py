"""ENet: a third of a million parameters, and pooling indices that find their way back.

Shape suffixes: B batch, C channels, H W pixels before a pooling, h w after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.contracts import Prediction
from segkit.models.layers.atrous import AtrousConv2d
from segkit.models.layers.batch_norm import BatchNorm2d
from segkit.models.layers.normalization import Normalize
from segkit.models.layers.realtime_blocks import conv_norm, initialize

Act = Callable[[int], nn.Module]
STRIDE = 8


class ENet(nn.Module):
    """Images as in `contracts.Batch`, of any size, to a Prediction at their size.

    Paszke et al., "ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation"
    (arXiv 1606.02147), table 1 and figure 2: 13 convolution and 3 pooling channels to begin with, bottlenecks
    that are regular, dilated or asymmetric, PReLU in the encoder and ReLU in the decoder. Images are padded at
    the bottom and right to a multiple of 8, and the logits cropped.

    Args:
        mean: of each image channel, in the units `Normalize` states.
        std: of each image channel, in the same units.
        dropout: share of channels dropped in stages 2 and 3, and a tenth of it in stage 1.
    """

    def __init__(self, *, num_classes: int, mean: Sequence[float], std: Sequence[float], dropout: float = 0.1) -> None:
        super().__init__()
        self.input_channels = len(mean)
        self.normalize = Normalize(mean, std)
        self.initial = Initial(self.input_channels, 16)
        self.down1 = Down(16, 64, dropout=dropout / 10)
        self.stage1 = nn.Sequential(*(Bottleneck(64, dropout=dropout / 10) for _ in range(4)))
        self.down2 = Down(64, 128, dropout=dropout)
        self.stage2 = nn.Sequential(*_context_stage(dropout))
        self.stage3 = nn.Sequential(*_context_stage(dropout))
        self.up4 = Up(128, 64)
        self.stage4 = nn.Sequential(Bottleneck(64, act=_relu), Bottleneck(64, act=_relu))
        self.up5 = Up(64, 16)
        self.stage5 = Bottleneck(16, act=_relu)
        self.classifier = nn.ConvTranspose2d(16, num_classes, 2, stride=2)
        initialize(self, [])

    def forward(self, images: Tensor) -> Prediction:
        height, width = images.shape[-2:]
        # Without a condition, which an export would freeze: padding by nothing is allowed.
        x = F.pad(self.normalize(images), (0, -width % STRIDE, 0, -height % STRIDE))
        x, indices1 = self.down1(self.initial(x))
        x, indices2 = self.down2(self.stage1(x))
        x = self.stage3(self.stage2(x))
        x = self.stage4(self.up4(x, indices2))
        x = self.stage5(self.up5(x, indices1))
        return Prediction(self.classifier(x)[:, :, :height, :width])


def _relu(channels: int) -> nn.Module:
    return nn.ReLU()


def _context_stage(dropout: float) -> list[nn.Module]:
    kinds: list[tuple[Kind, int]] = [
        ("regular", 1),
        ("dilated", 2),
        ("asymmetric", 1),
        ("dilated", 4),
        ("regular", 1),
        ("dilated", 8),
        ("asymmetric", 1),
        ("dilated", 16),
    ]
    return [Bottleneck(128, kind=kind, dilation=dilation, dropout=dropout) for kind, dilation in kinds]


class Initial(nn.Module):
    """(B, in_channels, H, W) to (B, channels, H/2, W/2): a convolution beside the pooled input."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        # Inputs of many channels would leave the convolution none; it keeps half of them at least.
        self.pooled = min(in_channels, channels // 2)
        self.conv = nn.Conv2d(in_channels, channels - self.pooled, 3, stride=2, padding=1, bias=False)
        self.finish = nn.Sequential(BatchNorm2d(channels), nn.PReLU(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(torch.cat([self.conv(x), F.max_pool2d(x[:, : self.pooled], 2)], dim=1))


Kind = Literal["regular", "dilated", "asymmetric"]


class Bottleneck(nn.Module):
    """(B, C, h, w) to the same: a residual through a quarter of the channels."""

    def __init__(
        self,
        channels: int,
        *,
        kind: Kind = "regular",
        dilation: int = 1,
        dropout: float = 0.1,
        act: Act = nn.PReLU,
    ) -> None:
        super().__init__()
        inner = channels // 4
        if kind == "asymmetric":
            conv = [
                nn.Conv2d(inner, inner, (5, 1), padding=(2, 0), bias=False),
                nn.Conv2d(inner, inner, (1, 5), padding=(0, 2), bias=False),
            ]
        elif kind == "dilated":
            conv = [AtrousConv2d(inner, inner, 3, dilation, bias=False)]
        else:
            conv = [nn.Conv2d(inner, inner, 3, padding=1, bias=False)]
        self.residual = nn.Sequential(
            conv_norm(channels, inner, 1),
            act(inner),
            *conv,
            BatchNorm2d(inner),
            act(inner),
            conv_norm(inner, channels, 1),
            nn.Dropout2d(dropout),
        )
        self.act = act(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.residual(x))


class Down(nn.Module):
    """(B, in_channels, H, W) to (B, out_channels, H/2, W/2), and where in (H, W) each maximum was."""

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float) -> None:
        super().__init__()
        inner = in_channels // 4
        self.more_channels = out_channels - in_channels
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, inner, 2, stride=2, bias=False),
            BatchNorm2d(inner),
            nn.PReLU(inner),
            conv_norm(inner, inner, 3),
            nn.PReLU(inner),
            conv_norm(inner, out_channels, 1),
            nn.Dropout2d(dropout),
        )
        self.act = nn.PReLU(out_channels)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        pooled_BChw, indices_BChw = F.max_pool2d(x_BCHW, 2, return_indices=True)
        widened = F.pad(pooled_BChw, (0, 0, 0, 0, 0, self.more_channels))
        return self.act(widened + self.residual(x_BCHW)), indices_BChw


class Up(nn.Module):
    """(B, in_channels, h, w) to (B, out_channels, 2h, 2w), values set down where the pooling took its maxima."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        inner = in_channels // 4
        self.main = conv_norm(in_channels, out_channels, 1)
        self.residual = nn.Sequential(
            conv_norm(in_channels, inner, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(inner, inner, 3, stride=2, padding=1, output_padding=1, bias=False),
            BatchNorm2d(inner),
            nn.ReLU(),
            conv_norm(inner, out_channels, 1),
        )
        self.act = nn.ReLU()

    def forward(self, x_BChw: Tensor, indices_BChw: Tensor) -> Tensor:
        return self.act(unpool(self.main(x_BChw), indices_BChw) + self.residual(x_BChw))


def unpool(values_BChw: Tensor, indices_BChw: Tensor) -> Tensor:
    """(B, C, 2h, 2w): each value at its index, zeros elsewhere. The scatter that max_unpool2d is, for ONNX."""
    batch, channels, height, width = values_BChw.shape
    flat = values_BChw.new_zeros(batch, channels, 4 * height * width)
    flat = flat.scatter(2, indices_BChw.flatten(2), values_BChw.flatten(2))
    return flat.view(batch, channels, 2 * height, 2 * width)
