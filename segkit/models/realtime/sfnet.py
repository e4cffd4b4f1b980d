"""SFNet: a feature pyramid whose levels are aligned by a learned flow before they are added.

Shape suffixes: B batch, C channels, h w pixels of a finer level, p q of a coarser one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.contracts import Prediction
from segkit.models.backbones.timm_backbone import TimmBackbone, pick
from segkit.models.layers.batch_norm import BatchNorm2d
from segkit.models.layers.head_blocks import resize_like
from segkit.models.layers.normalization import Normalize
from segkit.models.layers.realtime_blocks import conv_norm, conv_norm_act, initialize

LEVELS = (4, 8, 16, 32)


class SFNet(nn.Module):
    """Images as in `contracts.Batch`, of any size, to a Prediction at stride 4.

    Li et al., "Semantic Flow for Fast and Accurate Scene Parsing" (arXiv 2002.10120), section 3 and figure 3.
    In training every level of the pyramid predicts too, as auxiliary outputs `level16`, `level8` and `level4`
    ("cascaded deeply supervised learning"; the paper weighs them like the main one,
    `loss.auxiliary_weight=1`). The published 12.87 M parameters are those of a ResNet-18 with a deep stem
    (`+backbone.options.stem_type=deep +backbone.options.stem_width=64`), without the auxiliary heads.

    Args:
        backbone: called with `in_channels`; needs levels of reduction 4, 8, 16 and 32.
        mean: of each image channel, in the units `Normalize` states.
        std: of each image channel, in the same units.
        channels: of the pyramid; the paper's 128 is for ResNet-18, and 256 for ResNet-50.
        dropout: share of channels dropped after the pyramid pooling and in the auxiliary heads.
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
        self.indices = tuple(pick(features, level) for level in LEVELS)
        *finer, deepest = (features[index].channels for index in self.indices)
        self.pyramid = PyramidPooling(deepest, channels, dropout=dropout)
        self.lateral = nn.ModuleList(lateral(of_level, channels) for of_level in finer)
        self.align = nn.ModuleList(FlowAlignment(channels) for _ in finer)
        self.smooth = nn.ModuleList(conv_norm_act(channels, channels, 3) for _ in finer)
        self.head = conv_norm_act(4 * channels, channels, 3).append(nn.Conv2d(channels, num_classes, 1))
        self.auxiliary = nn.ModuleList(auxiliary_head(channels, num_classes, dropout) for _ in finer)
        initialize(self, [self.head, *self.auxiliary])

    def forward(self, images: Tensor) -> Prediction:
        maps = self.backbone(self.normalize(images))
        *finer, deepest = (maps[index] for index in self.indices)
        x = self.pyramid(deepest)
        outputs, auxiliary = [x], {}
        for number in reversed(range(len(finer))):
            level_BChw = self.lateral[number](finer[number])
            x = level_BChw + self.align[number](level_BChw, x)
            outputs.insert(0, self.smooth[number](x))
            if self.training:
                auxiliary[f"level{LEVELS[number]}"] = self.auxiliary[number](x)
        joined = torch.cat([resize_like(output, outputs[0]) for output in outputs], dim=1)
        return Prediction(self.head(joined), auxiliary)


class PyramidPooling(nn.Module):
    """(B, in_channels, p, q) to (B, channels, p, q): the map beside its means over 1, 4, 9 and 36 parts.

    Zhao et al., "Pyramid Scene Parsing Network" (arXiv 1612.01105), section 3.2, joined by a 1x1 convolution.
    """

    def __init__(self, in_channels: int, channels: int, *, dropout: float) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(parts), conv_norm(in_channels, channels, 1)) for parts in (1, 2, 3, 6)
        )
        self.join = conv_norm_act(in_channels + 4 * channels, channels, 1).append(nn.Dropout2d(dropout))

    def forward(self, map_BCpq: Tensor) -> Tensor:
        means = [resize_like(scale(map_BCpq), map_BCpq) for scale in self.scales]
        return self.join(torch.cat([*means, map_BCpq], dim=1))


class FlowAlignment(nn.Module):
    """Fine (B, C, h, w) and coarse (B, C, p, q) to the coarse at (B, C, h, w), fetched from where the flow
    between the two points (FAM, section 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.of_fine = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.of_coarse = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.flow = nn.Conv2d(channels, 2, 3, padding=1, bias=False)

    def forward(self, fine_BChw: Tensor, coarse_BCpq: Tensor) -> Tensor:
        fine = self.of_fine(fine_BChw)
        both = torch.cat([resize_like(self.of_coarse(coarse_BCpq), fine), fine], dim=1)
        return warp(coarse_BCpq, self.flow(both))


def warp(map_BCpq: Tensor, flow_B2hw: Tensor) -> Tensor:
    """(B, C, h, w): the map at each pixel's place plus half its flow, which is (x, y) in pixels of h x w.

    Without flow it is bilinear resizing with pixel areas aligned. Places and weights are float32.
    """
    height, width = flow_B2hw.shape[-2:]
    x_Bhw, y_Bhw = flow_B2hw.float().unbind(dim=1)
    # grid_sample counts from -1 to 1 across the image: divided by its size, 1 is half a pixel.
    x_Bhw = _pixel_centers(width, x_Bhw.device) + x_Bhw / width
    y_Bhw = _pixel_centers(height, y_Bhw.device).unsqueeze(1) + y_Bhw / height
    grid_Bhw2 = torch.stack([x_Bhw, y_Bhw], dim=-1)
    warped = F.grid_sample(map_BCpq.float(), grid_Bhw2, padding_mode="border", align_corners=False)
    return warped.to(map_BCpq.dtype)


def _pixel_centers(length: int, device: torch.device) -> Tensor:
    return (2 * torch.arange(length, device=device, dtype=torch.float32) + 1) / length - 1


def lateral(in_channels: int, channels: int) -> nn.Sequential:
    """A backbone level brought to the pyramid's width; the convolution has a bias, as published."""
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1), BatchNorm2d(channels), nn.ReLU())


def auxiliary_head(channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    """Logits of one level, which computes in training only."""
    conv = nn.Conv2d(channels, channels, 3, padding=1)
    classifier = nn.Conv2d(channels, num_classes, 1)
    return nn.Sequential(conv, BatchNorm2d(channels), nn.ReLU(), nn.Dropout2d(dropout), classifier)
