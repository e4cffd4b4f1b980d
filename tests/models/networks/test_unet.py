"""The two U-Nets: parameters, and that every pixel stays in its place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segkit.contracts import UserError
from segkit.models.networks.simple_unet import SimpleUNet
from segkit.models.networks.unet import UNet

GREY = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameters_of_the_papers_unet() -> None:
    """18 3x3 convolutions 28,239,552, their biases and norms 17,664; 4 deconvolutions 2,786,240; classifier 65."""
    assert count(UNet(num_classes=1, **GREY)) == 31_043_521


def test_parameters_of_the_simple_unet() -> None:
    """3x3 convolutions: 9 x (3x32 + 32x64 + 64x128 + 128x256 + 256x512) down and
    9 x (768x256 + 384x128 + 192x64 + 96x32) up; norms 2 x (992 + 480); classifier 33 a class."""
    down = 9 * (3 * 32 + 32 * 64 + 64 * 128 + 128 * 256 + 256 * 512)
    up = 9 * (768 * 256 + 384 * 128 + 192 * 64 + 96 * 32)
    assert count(SimpleUNet(num_classes=7, **GREY)) == down + up + 2 * (992 + 480) + 7 * 33 == 3_920_839


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 31), (1, 100)])
def test_logits_have_the_images_size(size: tuple[int, int]) -> None:
    for model in (UNet(num_classes=2, channels=(4, 8, 16), **GREY), SimpleUNet(num_classes=2, width=4, **GREY)):
        model.train()
        logits = model(torch.rand(1, 3, *size)).logits
        assert logits.shape == (1, 2, *size)
        logits.sum().backward()


def test_the_corner_of_an_odd_image_is_seen() -> None:
    """The last row and column are neither cut off nor shifted: the logit there follows the pixel there most."""
    torch.manual_seed(0)
    for model in (UNet(num_classes=1, channels=(4, 8, 16), **GREY), SimpleUNet(num_classes=1, width=4, **GREY)):
        image = torch.rand(1, 3, 33, 33, requires_grad=True)
        [gradient] = torch.autograd.grad(model.eval()(image).logits[0, 0, -1, -1], image)
        influence = gradient.abs().sum(dim=1)[0]
        assert influence[-2:, -2:].sum() > influence[:16, :16].sum()
        assert influence[-1, -1] > 0


def test_dropout_is_optional_and_in_training_only() -> None:
    image = torch.rand(2, 3, 32, 32)
    for dropout, same in ((0.0, True), (0.5, False)):
        torch.manual_seed(0)
        model = SimpleUNet(num_classes=2, width=4, dropout=dropout, **GREY).train()
        assert torch.equal(model(image).logits, model(image).logits) == same
        model.eval()
        assert torch.equal(model(image).logits, model(image).logits)


def test_a_unet_needs_two_levels() -> None:
    with pytest.raises(UserError, match=r"model.channels=\[4\]"):
        UNet(num_classes=2, channels=(4,), **GREY)
