"""SegFormer against the paper, and its head on other backbones. test_parity.py holds its outputs against smp's."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from segkit.models.backbones.mix_transformer import MixTransformer
from segkit.models.backbones.timm_backbone import FeatureInfo
from segkit.models.heads.segformer import SegFormerHead
from segkit.models.segmenter import Segmenter


def segmenter(size: str, classes: int) -> Segmenter:
    return Segmenter(partial(MixTransformer, size), SegFormerHead, num_classes=classes, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize(
    ("size", "parameters"), [("mit_b0", 3_719_027), ("mit_b1", 13_682_131), ("mit_b2", 24_726_995)]
)
def test_parameters_with_19_classes(size: str, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in segmenter(size, 19).parameters()) == parameters


@pytest.mark.parametrize(("size", "giga"), [("mit_b0", 8.4), ("mit_b1", 15.9)])
def test_multiply_adds_are_those_of_the_paper(size: str, giga: float) -> None:
    """Table 2 of the paper: ADE20K, 150 classes, 512 x 512."""
    model = segmenter(size, 150).to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 512, 512, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga, rel=0.02)


def test_reads_every_level_from_4_on_the_coarsest_first() -> None:
    features = [
        FeatureInfo(2, 2, 2),
        FeatureInfo(3, 4, 4),
        FeatureInfo(4, 4, 4),
        FeatureInfo(5, 8, 8),
        FeatureInfo(6, 8, 16),
    ]
    head = SegFormerHead(features, num_classes=2, channels=8).eval()
    assert [projection.in_channels for projection in head.projections] == [6, 5, 4]
    maps = [torch.randn(1, info.channels, 32 // info.reduction, 48 // info.reduction) for info in features]
    assert head(maps).shape == (1, 2, 8, 12)


def test_reads_all_maps_of_a_plain_transformer() -> None:
    head = SegFormerHead([FeatureInfo(6, 16, 16)] * 3, num_classes=2, channels=8).eval()
    assert head([torch.randn(1, 6, 2, 3)] * 3).shape == (1, 2, 2, 3)
    assert len(head.projections) == 3
