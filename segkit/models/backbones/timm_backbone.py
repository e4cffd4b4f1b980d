"""timm models as backbones: one contract for their levels, whatever the family and the image size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.contracts import UserError
from segkit.models.backbones import timm_models
from segkit.models.layers.batch_norm import beside_padding


@dataclass(frozen=True)
class FeatureInfo:
    """One level of a backbone.

    Attributes:
        channels: of its map.
        reduction: image pixels per map pixel, along each side.
        level: the reduction without dilation, which is how heads name levels: at output stride 8 the third
            and fourth stage of a ResNet both have reduction 8, but stay levels 16 and 32.
    """

    channels: int
    reduction: int
    level: int


def pick(features: Sequence[FeatureInfo], level: int) -> int:
    """Index of the deepest feature of that level. Raises UserError if the backbone has none."""
    indices = [index for index, feature in enumerate(features) if feature.level == level]
    if not indices:
        found = ", ".join(str(feature.level) for feature in features)
        raise UserError(
            f"model.head or model.auxiliary needs a backbone level of reduction {level}; this backbone has {found}. "
            "Choose a hierarchical backbone such as resnet50, convnext_tiny or swin_tiny, or model.pyramid=256, "
            "which makes levels 4, 8, 16 and 32 of a plain transformer's one"
        )
    return indices[-1]


class Sizing(NamedTuple):
    """The image sizes a model takes: multiples of `multiple` from `minimum` up, or only `fixed` = (H, W)."""

    multiple: int = 1
    minimum: int = 1
    fixed: tuple[int, int] | None = None

    def pad(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) with zeros at the bottom and right. Raises UserError if they are too large."""
        height, width = images.shape[-2:]
        if self.fixed is None:
            down, right = (self._padded(length) - length for length in (height, width))
        else:
            down, right = self.fixed[0] - height, self.fixed[1] - width
            if min(down, right) < 0:
                rows, columns = self.fixed
                raise UserError(
                    f"an image of {height} x {width} pixels is larger than this backbone takes, {rows} x {columns}. "
                    f"Allowed: windows of that size, dataset.crop_size=[{rows},{columns}] predictor=sliding "
                    f"predictor.window=[{rows},{columns}]; a backbone without a fixed size; or, where the backbone can "
                    "be built for it, a larger size as backbone.options.img_size"
                )
        return F.pad(images, (0, right, 0, down)) if down or right else images

    def _padded(self, length: int) -> int:
        return _ceil(max(length, self.minimum), self.multiple) * self.multiple


class Backbone(nn.Module):
    """Maps (B, C, ceil(H / reduction), ceil(W / reduction)) of images (B, C, H, W), one per feature.

    Any image size works: images are padded at the bottom and right as far as the model needs it, and the
    maps are cropped, so that a map lies over the image in the same way for every model.

    Args:
        net: gives a list of maps, NCHW unless its attribute `output_fmt` says NHWC.
        features: what those maps are.
        sizing: the image sizes that `net` takes.
        frozen: no parameter trains and the net stays in evaluation mode, batch norm included.
    """

    def __init__(self, net: Any, features: Sequence[FeatureInfo], sizing: Sizing, frozen: bool) -> None:
        super().__init__()
        self.net = net
        self.features = tuple(features)
        self.sizing = sizing
        self.frozen = frozen
        if frozen:
            self.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode and not self.frozen)
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        padded = images
        if self.training and self.sizing.fixed is None:
            padded = beside_padding(images, max(feature.reduction for feature in self.features))
        return crop(_maps(self.net, self.sizing.pad(padded)), self.features, images.shape[-2:])


class TimmBackbone(Backbone):
    """A model of timm.

    Args:
        name: as timm knows it, with or without a weights tag: `resnet50`, `resnet50.a1_in1k`.
        pretrained: fetch timm's weights, unless they are cached.
        weights: local file of weights in timm's format, .safetensors or a torch.save'd state dict.
        in_channels: of the images; pretrained weights adapt to it.
        output_stride: dilate the last stages to this reduction; None: as the model is. Transformers and VGG
            cannot be dilated.
        options: further arguments of `timm.create_model`, such as `drop_path_rate` or `img_size`.
        frozen: no parameter trains and the model stays in evaluation mode, batch norm included.
        gradient_checkpointing: recompute the maps inside the stages in the backward pass: less memory, the same
            gradients, a third more time. Chen et al., "Training Deep Nets with Sublinear Memory Cost"
            (arXiv 1604.06174). Batch norms of what is recomputed count a batch twice unless the buffers are put back
            after the backward pass, as the training loop does (`contracts.Recomputing`).
    """

    weights_statistics = staticmethod(timm_models.weights_statistics)

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        weights: str | None = None,
        in_channels: int = 3,
        *,
        output_stride: Literal[8, 16, 32] | None = None,
        options: Mapping[str, Any] | None = None,
        frozen: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        extra = dict(options or {}, in_chans=in_channels, features_only=True)
        if output_stride is not None:
            extra["output_stride"] = output_stride
        try:
            make = partial(timm.create_model, name, **extra)
            net: Any = timm_models.build(name, make, pretrained=pretrained, weights=weights, options=options)
        except timm_models.UnfitError as error:
            if output_stride is None:
                raise
            raise _cannot_dilate(name, output_stride, repr(error.__cause__)) from error
        features = _feature_infos(net, dilated=output_stride is not None)
        if output_stride not in (None, features[-1].reduction):
            raise _cannot_dilate(name, output_stride, f"its last level has reduction {features[-1].reduction}")
        own_size = extra.get("img_size", net.pretrained_cfg["input_size"][-2:])
        sizing = _find_sizing(net, features, in_channels, own_size)
        if sizing is None:
            if "img_size" not in extra:
                raise UserError(f"backbone.name={name} gives no maps at its own size, {own_size}; choose another")
            raise UserError(
                f"backbone.options.img_size={own_size}: {name} cannot be built for another size than its own, "
                f"{list(net.pretrained_cfg['input_size'][-2:])}; leave img_size out, and use windows of that size: "
                "dataset.crop_size=... predictor=sliding predictor.window=..."
            )
        super().__init__(net, features, sizing, frozen)
        self.gradient_checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            checkpoint_gradients(net, name)


def crop(maps: Sequence[Tensor], features: Sequence[FeatureInfo], size: Sequence[int]) -> list[Tensor]:
    """Maps of a padded image, cropped to what lies over the image of `size` = (H, W)."""
    return [
        values[:, :, : _ceil(size[0], info.reduction), : _ceil(size[1], info.reduction)]
        for values, info in zip(maps, features, strict=True)
    ]


def _ceil(length: int, divisor: int) -> int:
    return -(-length // divisor)


def _cannot_dilate(name: str, output_stride: int | None, reason: str) -> UserError:
    return UserError(
        f"model.output_stride={output_stride} does not go with backbone.name={name}: {reason}. Allowed: null, its own "
        "stride; or a backbone that can be dilated, such as ResNets, EfficientNets, MobileNets, ConvNeXts, Xceptions"
    )


def checkpoint_gradients(net: Any, name: str) -> None:
    """Make a timm model recompute its stages in the backward pass. Raises UserError if it cannot."""
    owner: Any = net if hasattr(net, "set_grad_checkpointing") else getattr(net, "model", None)
    try:
        owner.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise UserError(
            f"backbone.gradient_checkpointing=true, but backbone.name={name} does not offer it; allowed: false"
        ) from error


def _maps(net: Any, images: Tensor) -> list[Tensor]:
    maps = net(images)
    if getattr(net, "output_fmt", "NCHW") == "NHWC":
        return [features.permute(0, 3, 1, 2) for features in maps]
    return maps


def _feature_infos(net: Any, *, dilated: bool) -> tuple[FeatureInfo, ...]:
    infos: list[FeatureInfo] = []
    for channels, reduction in zip(net.feature_info.channels(), net.feature_info.reduction(), strict=True):
        repeats = dilated and infos and reduction == infos[-1].reduction
        infos.append(FeatureInfo(channels, reduction, 2 * infos[-1].level if repeats else reduction))
    return tuple(infos)


@torch.no_grad()
def _find_sizing(
    net: Any, features: Sequence[FeatureInfo], in_channels: int, own_size: int | Sequence[int]
) -> Sizing | None:
    """The least padding with which the model takes an image of one row and gives whole maps, by trying.

    None if it does not even take images of `own_size`.
    """
    net.eval()
    multiple = max(feature.level for feature in features)
    height, width = 1, multiple + 1
    for sizing in (Sizing(), Sizing(multiple)):
        try:
            maps = _maps(net, sizing.pad(torch.zeros(1, in_channels, height, width)))
        except (RuntimeError, AssertionError, ValueError):
            continue
        expected = [(_ceil(height, info.reduction), _ceil(width, info.reduction)) for info in features]
        found = [features.shape[-2:] for features in maps]
        if all(h <= a and w <= b for (h, w), (a, b) in zip(expected, found, strict=True)):
            return sizing
    sizing = Sizing(fixed=(own_size, own_size) if isinstance(own_size, int) else (own_size[0], own_size[1]))
    try:
        _maps(net, sizing.pad(torch.zeros(1, in_channels, height, width)))
    except (RuntimeError, AssertionError, ValueError):
        return None
    return sizing
