"""A feature pyramid over a plain transformer, whose maps all have one stride."""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from segkit.contracts import UserError
from segkit.models.backbones.timm_backbone import FeatureInfo, crop

STRIDE = 16


class SimpleFeaturePyramid(nn.Module):
    """Maps of levels 4, 8, 16 and 32, with `channels` each, of the last of a backbone's maps (stride 16).

    Two strided deconvolutions, one, none, and max pooling give the four scales; a 1x1 and a 3x3 convolution
    with layer norm follow on each. Li et al., "Exploring Plain Vision Transformer Backbones for Object
    Detection" (ViTDet, arXiv 2203.16527), section 3 and figure 2c.

    Raises UserError for a backbone whose last level has another reduction than 16.
    """

    def __init__(self, features: Sequence[FeatureInfo], channels: int) -> None:
        super().__init__()
        if features[-1].reduction != STRIDE:
            raise UserError(
                f"model.pyramid={channels} needs a backbone with a last level of reduction 16, a plain transformer; "
                f"this one has {features[-1].reduction}. Allowed: model.pyramid=null; backbone.options.patch_size=16 "
                "for a transformer with other patches"
            )
        width = features[-1].channels
        scales = (
            nn.Sequential(
                _double(width, width // 2), LayerNorm2d(width // 2), nn.GELU(), _double(width // 2, width // 4)
            ),
            _double(width, width // 2),
            nn.Identity(),
            nn.MaxPool2d(2, ceil_mode=True),
        )
        widths = (width // 4, width // 2, width, width)
        self.features = tuple(FeatureInfo(channels, level, level) for level in (4, 8, 16, 32))
        self.levels = nn.ModuleList(
            nn.Sequential(
                scale,
                nn.Conv2d(scale_width, channels, 1, bias=False),
                LayerNorm2d(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                LayerNorm2d(channels),
            )
            for scale, scale_width in zip(scales, widths, strict=True)
        )

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> list[Tensor]:
        """`maps` of an image of `size` = (H, W) pixels."""
        return crop([level(maps[-1]) for level in self.levels], self.features, size)


def _double(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
