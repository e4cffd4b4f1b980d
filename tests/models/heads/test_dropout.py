"""Dropout before the classifier takes whole channels: a number for each value costs CPUs a tenth of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from segkit.models.backbones.timm_backbone import FeatureInfo
from segkit.models.heads.deeplabv3plus import DeepLabV3PlusHead
from segkit.models.heads.fcn import FCNHead
from segkit.models.heads.pspnet import PSPHead
from segkit.models.heads.segformer import SegFormerHead
from segkit.models.heads.upernet import UPerHead

STRIDES = (4, 8, 16, 32)


@pytest.mark.parametrize("head", [DeepLabV3PlusHead, FCNHead, PSPHead, SegFormerHead, UPerHead])
def test_a_channel_is_there_or_it_is_not(head: Callable[..., Any]):
    torch.manual_seed(0)
    built = head([FeatureInfo(8, stride, stride) for stride in STRIDES], num_classes=3, dropout=0.5)
    seen: list[torch.Tensor] = []
    built.classifier = nn.Identity()
    built.dropout.register_forward_hook(lambda module, inputs, output: seen.append(output))
    # Of ones, so that a zero that comes out has been dropped.
    built.dropout.register_forward_pre_hook(lambda module, inputs: torch.ones_like(inputs[0]))
    built.train()([torch.randn(2, 8, 128 // stride, 128 // stride) for stride in STRIDES])
    dropped_BC = (seen[0] == 0).flatten(2).float().mean(dim=2)
    assert set(dropped_BC.unique().tolist()) == {0.0, 1.0}
    assert 0.3 < dropped_BC.mean() < 0.7
