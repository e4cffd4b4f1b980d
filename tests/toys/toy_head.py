"""A head of one's own: one class here, and conf/model/head/toy.yaml."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segkit.models.backbones.timm_backbone import FeatureInfo


class Linear(nn.Module):
    """A classifier on each pixel of the backbone's last map: logits at its stride."""

    def __init__(self, features: Sequence[FeatureInfo], num_classes: int, *, bias: bool = True) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(features[-1].channels, num_classes, 1, bias=bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classifier(maps[-1])
