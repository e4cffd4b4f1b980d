"""Mix Transformers, the encoders of SegFormer, from segmentation_models_pytorch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import segmentation_models_pytorch as smp
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from timm.models import adapt_input_conv, load_state_dict
from torch import Tensor, nn

from segkit.contracts import UserError
from segkit.models.backbones.timm_backbone import Backbone, FeatureInfo, Sizing
from segkit.models.backbones.timm_models import CONNECT_SECONDS, cannot_fetch, refuse_compressed
from segkit.models.layers.normalization import IMAGENET, Statistics

NAMES = tuple(f"mit_b{size}" for size in range(6))


def weights_statistics(pretrained: bool = False, weights: str | None = None, **_: Any) -> Statistics | None:
    """ImageNet's, with which the authors trained every size; None without weights. smp's own entries name none."""
    return IMAGENET if pretrained or weights is not None else None


class MixTransformer(Backbone):
    """MiT-B0 to B5, with levels 4, 8, 16 and 32.

    Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers"
    (arXiv 2105.15203), section 3.1 and table 6.

    Args:
        name: mit_b0 to mit_b5.
        pretrained: fetch smp's copy of the authors' ImageNet weights, unless it is cached.
        weights: local file of such weights, .safetensors or a torch.save'd state dict.
        in_channels: of the images; pretrained weights adapt to it.
        output_stride: None; the network cannot be dilated.
        options: further arguments of smp's MixVisionTransformer, such as `drop_path_rate`.
        frozen: no parameter trains, and there is no stochastic depth.
        gradient_checkpointing: False; the network does not offer it.
    """

    weights_statistics = staticmethod(weights_statistics)

    def __init__(
        self,
        name: str = "mit_b0",
        pretrained: bool = False,
        weights: str | None = None,
        in_channels: int = 3,
        *,
        output_stride: Literal[8, 16, 32] | None = None,
        options: Mapping[str, Any] | None = None,
        frozen: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        if output_stride not in (None, 32):
            raise UserError(f"model.output_stride={output_stride}: {name} cannot be dilated; allowed: null")
        if gradient_checkpointing:
            raise UserError(f"backbone.gradient_checkpointing=true, but {name} does not offer it; allowed: false")
        net = build_encoder(name, in_channels, options or {}, pretrained=pretrained, weights=weights)
        features = [
            FeatureInfo(channels, 4 << stage, 4 << stage) for stage, channels in enumerate(net.out_channels[2:])
        ]
        super().__init__(_Stages(net), features, Sizing(multiple=32), frozen)


class _Stages(nn.Module):
    """The four maps alone: smp's encoders also give the image, and here an empty map in place of level 2."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.encoder(images)[2:]


def build_encoder(
    name: str, in_channels: int, options: Mapping[str, Any], *, pretrained: bool, weights: str | None
) -> Any:
    """smp's encoder of that name. Raises UserError for an unknown name or weights that cannot be had."""
    if name not in NAMES:
        raise UserError(f"backbone.name={name!r} is not a Mix Transformer; allowed: {', '.join(NAMES)}")
    entry = copy.deepcopy(smp.encoders.encoders[name])
    channels = [in_channels, *entry["params"].pop("out_channels")[1:]]
    try:
        net = entry["encoder"](out_channels=channels, **{**entry["params"], "in_chans": in_channels, **options})
    except TypeError as error:
        raise UserError(f"backbone.options does not go with backbone.name={name}: {error}") from error
    if weights is not None or pretrained:
        load_weights(net, name, weights)
    return net


def load_weights(net: Any, name: str, weights: str | None) -> None:
    """Load the file `weights` into smp's encoder `net`, or what smp publishes. Raises UserError if that fails."""
    path = Path(_fetch(name)) if weights is None else Path(weights)
    if not path.is_file():
        raise UserError(f"backbone.weights={weights}: no such file")
    refuse_compressed(str(path))
    try:
        state = load_state_dict(str(path), weights_only=True)
        first = "patch_embed1.proj.weight"
        state[first] = adapt_input_conv(net.patch_embed1.proj.in_channels, state[first])
        net.load_state_dict(state)
    except Exception as error:  # whatever a damaged or foreign file makes the readers raise
        raise UserError(f"backbone.weights={path} does not fit backbone.name={name}: {error}") from error


def _fetch(name: str) -> str:
    settings = smp.encoders.encoders[name]["pretrained_settings"]["imagenet"]
    file = {"repo_id": settings["repo_id"], "filename": "model.safetensors", "revision": settings["revision"]}
    cached = try_to_load_from_cache(**file)
    if isinstance(cached, str):
        return cached
    try:
        # The download itself would retry for most of a minute before it gave up.
        get_hf_file_metadata(hf_hub_url(**file), timeout=CONNECT_SECONDS)
        return hf_hub_download(**file)
    except Exception as error:  # the kinds differ with every version of the HTTP client underneath
        raise cannot_fetch(name, error) from error
