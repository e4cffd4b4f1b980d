"""The FCN head against torchvision's."""

from __future__ import annotations

from functools import partial

import torch

from segkit.models.backbones.timm_backbone import FeatureInfo, TimmBackbone
from segkit.models.heads.fcn import FCNHead
from segkit.models.segmenter import Segmenter

FEATURES = [FeatureInfo(4, 8, 8), FeatureInfo(6, 8, 16), FeatureInfo(8, 8, 32)]


def test_parameters_are_those_of_torchvision() -> None:
    """fcn_resnet50 with 21 classes and its auxiliary head on the third stage."""
    model = Segmenter(
        partial(TimmBackbone, "resnet50"),
        FCNHead,
        num_classes=21,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        auxiliary=partial(FCNHead, channels=256, level=16),
        output_stride=8,
    )
    assert sum(parameter.numel() for parameter in model.parameters()) == 35_322_218


def test_reads_the_last_level_or_the_one_named() -> None:
    maps = [torch.randn(2, info.channels, 4, 4) for info in FEATURES]
    for level, channels in ((None, 8), (16, 6)):
        head = FCNHead(FEATURES, num_classes=3, channels=5, level=level).eval()
        assert head.hidden[0].in_channels == channels
        assert head(maps).shape == (2, 3, 4, 4)
