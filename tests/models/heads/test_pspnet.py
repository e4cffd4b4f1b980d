"""PSPNet against the paper's sizes."""

from __future__ import annotations

from functools import partial

import torch

from segkit.models.backbones.timm_backbone import TimmBackbone
from segkit.models.heads.pspnet import PSPHead, PyramidPooling
from segkit.models.segmenter import Segmenter


def test_parameters_on_resnet50_with_19_classes() -> None:
    """23,508,032 of the backbone, 4 x 1,049,600 of the branches, 18,875,392 of the join, 9,747."""
    model = Segmenter(partial(TimmBackbone, "resnet50"), PSPHead, num_classes=19, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert sum(parameter.numel() for parameter in model.parameters()) == 46_591_571


def test_branches_see_the_means_of_1_4_9_and_36_regions() -> None:
    pooling = PyramidPooling(1, 2, 3)
    values = torch.arange(36.0).view(1, 1, 6, 6)
    pooled = [branch[0](values) for branch in pooling.branches]
    assert [tuple(map_.shape[-2:]) for map_ in pooled] == [(1, 1), (2, 2), (3, 3), (6, 6)]
    assert pooled[0].item() == 17.5
    assert pooled[1].flatten().tolist() == [7.0, 10.0, 25.0, 28.0]
    assert torch.equal(pooled[3], values)
    assert pooling.eval()(values).shape == (1, 2, 6, 6)
