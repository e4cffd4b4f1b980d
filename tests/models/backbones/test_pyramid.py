"""Four levels of a plain transformer's one."""

from __future__ import annotations

from functools import partial
from math import ceil

import pytest
import torch

from segkit.contracts import UserError
from segkit.models.backbones.pyramid import SimpleFeaturePyramid
from segkit.models.backbones.timm_backbone import FeatureInfo, TimmBackbone
from segkit.models.heads.upernet import UPerHead
from segkit.models.segmenter import Segmenter


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 96)])
def test_levels_lie_over_the_image(size: tuple[int, int]) -> None:
    backbone = TimmBackbone("test_vit").eval()
    pyramid = SimpleFeaturePyramid(backbone.features, channels=8)
    assert pyramid.features == tuple(FeatureInfo(8, level, level) for level in (4, 8, 16, 32))
    maps = pyramid(backbone(torch.rand(1, 3, *size)), size)
    assert [tuple(m.shape) for m in maps] == [(1, 8, ceil(size[0] / s), ceil(size[1] / s)) for s in (4, 8, 16, 32)]


def test_heads_for_hierarchical_backbones_train_on_a_plain_one() -> None:
    head = partial(UPerHead, channels=8)
    backbone = partial(TimmBackbone, "test_vit", frozen=True)
    model = Segmenter(backbone, head, num_classes=3, mean=(0.5,) * 3, std=(0.5,) * 3, pyramid=16).train()
    logits = model(torch.rand(2, 3, 40, 50)).logits
    assert logits.shape == (2, 3, 10, 13)
    logits.sum().backward()
    assert model.pyramid is not None
    assert all(parameter.grad is not None for parameter in model.pyramid.parameters())
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


def test_other_strides_are_refused_with_what_helps() -> None:
    with pytest.raises(UserError, match=r"this one has 14.*backbone.options.patch_size=16"):
        SimpleFeaturePyramid([FeatureInfo(8, 14, 14)], channels=8)
    with pytest.raises(UserError, match="this one has 32"):
        SimpleFeaturePyramid([FeatureInfo(8, 4, 4), FeatureInfo(8, 32, 32)], channels=8)
