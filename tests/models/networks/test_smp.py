"""Every smp decoder trains on one image of an awkward size."""

from __future__ import annotations

from typing import get_args

import pytest
import segmentation_models_pytorch as smp
import torch

from segkit.contracts import UserError
from segkit.models.networks.smp import Decoder, SmpSegmenter


def segmenter(decoder: str, encoder: str = "resnet18", **options: object) -> SmpSegmenter:
    return SmpSegmenter(decoder, encoder, num_classes=3, mean=(0.5,) * 3, std=(0.5,) * 3, **options)


def test_no_decoder_is_left_out() -> None:
    assert set(get_args(Decoder)) == set(smp.MODEL_ARCHITECTURES_MAPPING)


@pytest.mark.parametrize("decoder", get_args(Decoder))
def test_one_image_of_any_size_trains(decoder: str) -> None:
    model = segmenter(decoder, "vit_tiny_patch16_224" if decoder == "dpt" else "resnet18")
    for size in [(33, 47), (1, 70), (1, 1)]:
        model.zero_grad()
        logits = model.train()(torch.randint(256, (1, 3, *size), dtype=torch.uint8)).logits
        assert logits.shape == (1, 3, *size)
        logits.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.network.decoder.parameters())


def test_a_size_smp_takes_gives_what_smp_gives() -> None:
    model = segmenter("fpn").eval()
    images = torch.rand(1, 3, 64, 32)
    assert torch.equal(model(images).logits, model.network((images - 0.5) / 0.5))


@pytest.mark.parametrize("scale", [0.25, 0.5, 1, 2, 4])
def test_logits_lie_over_the_image_whatever_size_smp_gives_them(scale: float) -> None:
    """An image of 33 x 47 is padded to 64 x 64: a ramp of the columns stays one, it is not stretched to the image."""
    model = segmenter("fpn").eval()
    model.network = torch.nn.Upsample(scale_factor=scale, mode="bilinear")
    ramp = torch.arange(47.0).expand(1, 3, 33, 47)
    logits = model(ramp).logits
    assert logits.shape == (1, 3, 33, 47)
    inside = slice(4, -4)  # a quarter of the size mixes the edges with what is padded
    torch.testing.assert_close(logits[0, 0, inside, inside], 2 * ramp[0, 0, inside, inside] - 1)


# Depth, and what else smp wants to be told for it.
SHALLOW = {
    "unet": {"decoder_channels": (64, 32, 16, 16)},
    "unetplusplus": {"decoder_channels": (64, 32, 16, 16)},
    "manet": {"decoder_channels": (64, 32, 16, 16)},
    "fpn": {},
    "pspnet": {},
    "upernet": {"upsampling": 2},
    "segformer": {"upsampling": 1},
    "deeplabv3": {"upsampling": 2},
    "deeplabv3plus": {"upsampling": 8},
}


@pytest.mark.parametrize("decoder", SHALLOW)
def test_other_depths_and_upsamplings_give_logits_of_the_image(decoder: str) -> None:
    model = segmenter(decoder, options={"encoder_depth": 4, **SHALLOW[decoder]}).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 33, 47)).logits.shape == (1, 3, 33, 47)


def test_swin_takes_any_size() -> None:
    logits = segmenter("upernet", "swin_tiny_patch4_window7_224").eval()(torch.rand(1, 3, 40, 70)).logits
    assert logits.shape == (1, 3, 40, 70)


def test_frozen_encoder() -> None:
    model = segmenter("unet", frozen=True).train()
    model(torch.rand(2, 3, 32, 32)).logits.sum().backward()
    assert model.network.decoder.training
    assert not any(module.training for module in model.backbone.modules())
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


def test_options_reach_smp() -> None:
    model = segmenter("deeplabv3plus", options={"encoder_output_stride": 8, "decoder_channels": 16})
    assert model.backbone.output_stride == 8
    assert model.network.segmentation_head[0].in_channels == 16


@pytest.mark.parametrize("in_channels", [1, 5])
def test_other_channels(in_channels: int) -> None:
    model = SmpSegmenter("unet", "resnet18", num_classes=1, mean=(0.5,) * in_channels, std=(0.5,) * in_channels)
    assert model.eval()(torch.rand(1, in_channels, 33, 40)).logits.shape == (1, 1, 33, 40)


def test_checkpointing_reaches_the_encoder_and_gives_the_same_gradients() -> None:
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = segmenter("unet", gradient_checkpointing=checkpointing).train()
        model(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))).logits.square().sum().backward()
        assert model.network.encoder.model.grad_checkpointing == checkpointing
        found.append([parameter.grad for parameter in model.backbone.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("decoder", "encoder", "message"),
    [
        ("unet", "vit_tiny_patch16_224", "cannot be built as a backbone"),
        (
            "unet",
            "maxvit_tiny_rw_224",
            "model.decoder=unet with backbone.name=maxvit.* does not work",
        ),
        ("pan", "swin_tiny_patch4_window7_224", "does not take what"),
        ("unet", "resnet81", "close names: resnet18"),
    ],
)
def test_what_does_not_go_together_is_named(decoder: str, encoder: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        segmenter(decoder, encoder)
