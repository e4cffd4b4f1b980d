"""DeepLabV3+ against the paper's sizes."""

from __future__ import annotations

from functools import partial

import torch

from segkit.models.backbones.timm_backbone import FeatureInfo, TimmBackbone
from segkit.models.heads.deeplabv3plus import ASPP, DeepLabV3PlusHead
from segkit.models.segmenter import Segmenter


def test_parameters_on_resnet50_with_19_classes() -> None:
    """23,508,032 of the backbone, 15,535,104 of ASPP, 12,384 of the skip, 1,291,264 of the decoder, 4,883."""
    model = Segmenter(
        partial(TimmBackbone, "resnet50"), DeepLabV3PlusHead, num_classes=19, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    assert sum(parameter.numel() for parameter in model.parameters()) == 40_351_667


def test_levels_by_reduction_not_by_position() -> None:
    features = [FeatureInfo(4, 4, 4), FeatureInfo(6, 4, 4), FeatureInfo(8, 16, 16), FeatureInfo(10, 16, 32)]
    head = DeepLabV3PlusHead(features, num_classes=2).eval()
    maps = [torch.randn(1, info.channels, 32 // info.reduction, 32 // info.reduction) for info in features]
    assert head(maps).shape == (1, 2, 8, 8)
    assert head.low_level[0].in_channels == 6
    assert head.aspp.branches[0][0].in_channels == 10


def test_aspp_sees_as_far_as_its_rates_and_as_a_whole() -> None:
    aspp = ASPP(1, 2, rates=(2, 3))
    assert [branch[0].dilation[0] for branch in aspp.branches] == [1, 2, 3]
    point = torch.zeros(1, 1, 9, 9)
    point[..., 4, 4] = 1
    reached = [branch[0](point).ne(0).any(dim=1)[0].nonzero() - 4 for branch in aspp.branches]
    assert [offsets.abs().max().item() for offsets in reached] == [0, 2, 3]
    pooled = aspp.pooled[0](point)
    assert pooled.shape == (1, 1, 1, 1)
    assert pooled.item() == 1 / torch.tensor(81.0)
