"""A backbone and a head make a segmentation model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn

from segkit.config.types import Positive
from segkit.contracts import Prediction
from segkit.models.backbones.pyramid import SimpleFeaturePyramid
from segkit.models.backbones.timm_backbone import Backbone
from segkit.models.layers.normalization import Normalize


class Segmenter(nn.Module):
    """Images as in `contracts.Batch`, of any size, to a Prediction at the head's own stride.

    Args:
        backbone: called with `in_channels` and, when set, `output_stride`.
        head: called with the backbone's `features` and `num_classes`.
        mean: of each image channel, in the units `Normalize` states.
        std: of each image channel, in the same units.
        auxiliary: a second head, called like `head`; it computes in training mode only.
        output_stride: stride of the backbone's last level, which is dilated to get there; None: its own.
        pyramid: channels of a `SimpleFeaturePyramid` between a plain transformer and the heads; None: none.
    """

    def __init__(
        self,
        backbone: Callable[..., Backbone],
        head: Callable[..., nn.Module],
        *,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        auxiliary: Callable[..., nn.Module] | None = None,
        output_stride: Literal[8, 16, 32] | None = None,
        pyramid: Positive | None = None,
    ) -> None:
        super().__init__()
        self.input_channels = len(mean)
        self.normalize = Normalize(mean, std)
        stride = {} if output_stride is None else {"output_stride": output_stride}
        self.backbone = backbone(in_channels=self.input_channels, **stride)
        features = self.backbone.features
        self.pyramid = None if pyramid is None else SimpleFeaturePyramid(features, pyramid)
        if self.pyramid is not None:
            features = self.pyramid.features
        self.head = head(features=features, num_classes=num_classes)
        self.auxiliary = None if auxiliary is None else auxiliary(features=features, num_classes=num_classes)

    def forward(self, images: Tensor) -> Prediction:
        maps = self.backbone(self.normalize(images))
        if self.pyramid is not None:
            maps = self.pyramid(maps, images.shape[-2:])
        prediction = Prediction(self.head(maps))
        if self.training and self.auxiliary is not None:
            prediction.auxiliary["auxiliary"] = self.auxiliary(maps)
        return prediction
