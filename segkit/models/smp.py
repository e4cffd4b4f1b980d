"""The decoders of segmentation_models_pytorch on timm backbones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from segkit.contracts import Prediction, UserError
from segkit.models import mit, timm_source
from segkit.models.atrous import leave_out_unseen_taps
from segkit.models.backbone import Sizing, checkpoint_gradients
from segkit.models.batch_norm import accept_single_values
from segkit.models.normalization import Normalize, Statistics
from segkit.resizing import resize_logits

Decoder = Literal[
    "unet",
    "unetplusplus",
    "manet",
    "linknet",
    "fpn",
    "pspnet",
    "pan",
    "deeplabv3",
    "deeplabv3plus",
    "upernet",
    "segformer",
    "dpt",
]


class SmpSegmenter(nn.Module):
    """Images as in `contracts.Batch`, of any size, to a Prediction at their size.

    Images are padded at the bottom and right to what the network needs, and the logits cropped.

    Args:
        decoder: smp's architecture; `dpt` needs a plain ViT as its encoder, the others a hierarchical one.
        encoder: a model of timm, or a Mix Transformer, mit_b0 to mit_b5.
        mean: of each image channel, in the units `Normalize` states.
        std: of each image channel, in the same units.
        pretrained: fetch timm's weights for the encoder, unless they are cached.
        weights: local file of encoder weights in timm's format.
        frozen: no parameter of the encoder trains and it stays in evaluation mode, batch norm included.
        encoder_options: further arguments of `timm.create_model`.
        options: further arguments of smp's class, such as `encoder_output_stride` or `decoder_channels`.
        gradient_checkpointing: recompute the encoder's stages in the backward pass, as in `TimmBackbone`.
    """

    @staticmethod
    def weights_statistics(
        encoder: str,
        pretrained: bool = False,
        weights: str | None = None,
        encoder_options: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> Statistics | None:
        """As `timm_source.weights_statistics`, or for Mix Transformers that of `mit`."""
        if encoder in mit.NAMES:
            return mit.weights_statistics(pretrained, weights)
        return timm_source.weights_statistics(encoder, pretrained, weights, encoder_options)

    def __init__(
        self,
        decoder: Decoder,
        encoder: str,
        *,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        pretrained: bool = False,
        weights: str | None = None,
        frozen: bool = False,
        encoder_options: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.input_channels = len(mean)
        self.normalize = Normalize(mean, std)

        def make(pretrained: bool, **for_encoder: Any) -> nn.Module:
            encoder_weights: Any = True if pretrained else None  # what smp wants for timm's encoders
            return smp.create_model(
                decoder,
                encoder_name=encoder if encoder in mit.NAMES else f"tu-{encoder}",
                encoder_weights=encoder_weights,
                in_channels=self.input_channels,
                classes=num_classes,
                **{**(encoder_options or {}), **for_encoder, **(options or {})},
            )

        combination = f"model.decoder={decoder} with backbone.name={encoder}"
        if encoder in mit.NAMES:
            self.network: Any = _build_on_mit(make, combination)
            if pretrained or weights is not None:
                mit.load_weights(self.network.encoder, encoder, weights)
        else:
            self.network = timm_source.build(
                encoder, make, pretrained=pretrained, weights=weights, options=encoder_options
            )
        if gradient_checkpointing:
            checkpoint_gradients(getattr(self.network.encoder, "model", self.network.encoder), encoder)
        stride = self.network.encoder.output_stride
        # DPT halves the encoder's map and doubles it again; PAN pools it three times over.
        self.sizing = Sizing(2 * stride if decoder == "dpt" else stride, minimum=8 * stride if decoder == "pan" else 1)
        self._try_out(combination)
        self.frozen = frozen
        if frozen:
            self.backbone.requires_grad_(False)
        self.train()
        accept_single_values(self)
        leave_out_unseen_taps(self)

    @property
    def backbone(self) -> nn.Module:
        return self.network.encoder

    def train(self, mode: bool = True) -> SmpSegmenter:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Prediction:
        height, width = images.shape[-2:]
        padded = self.sizing.pad(self.normalize(images))
        # With a shallower encoder or another upsampling smp's logits have another size; they lie over the padding too.
        logits = resize_logits(self.network(padded), padded.shape[-2:])
        return Prediction(logits[:, :, :height, :width])

    @torch.no_grad()
    def _try_out(self, combination: str) -> None:
        # Not every decoder takes every encoder's levels, and smp finds out only here.
        self.network.eval()
        try:
            self.network(self.sizing.pad(torch.zeros(1, self.input_channels, 64, 64)))
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
            raise UserError(f"{combination} does not work: {error}") from error


def _build_on_mit(make: Callable[..., nn.Module], combination: str) -> nn.Module:
    try:
        return make(pretrained=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{combination} cannot be built: {error}") from error
