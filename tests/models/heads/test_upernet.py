"""UPerNet: sizes and levels. Its outputs are held against smp's in test_parity.py."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from segkit.contracts import UserError
from segkit.models.backbones.timm_backbone import FeatureInfo, TimmBackbone
from segkit.models.heads.upernet import UPerHead
from segkit.models.segmenter import Segmenter


def test_parameters_on_resnet50_with_19_classes() -> None:
    """Backbone 23,508,032, pooling 23,073,792, laterals 920,576, 3x3 after them 7,080,960, join 9,438,208, 9,747."""
    model = Segmenter(partial(TimmBackbone, "resnet50"), UPerHead, num_classes=19, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert sum(parameter.numel() for parameter in model.parameters()) == 64_031_315


def test_reads_the_four_levels_wherever_they_are() -> None:
    features = [
        FeatureInfo(3, 2, 2),
        FeatureInfo(4, 4, 4),
        FeatureInfo(5, 8, 8),
        FeatureInfo(6, 8, 16),
        FeatureInfo(7, 8, 32),
    ]
    head = UPerHead(features, num_classes=2, channels=8).eval()
    maps = [torch.randn(1, info.channels, 40 // info.reduction, 40 // info.reduction) for info in features]
    assert head(maps).shape == (1, 2, 10, 10)
    with pytest.raises(UserError, match="level of reduction 32"):
        UPerHead(features[:-1], num_classes=2)
