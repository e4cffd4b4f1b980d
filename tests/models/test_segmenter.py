"""The native models: sizes, gradients, normalisation, the last batch of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch import nn

from segkit.contracts import UserError
from segkit.models.backbones.timm_backbone import TimmBackbone
from segkit.models.heads.deeplabv3plus import DeepLabV3PlusHead
from segkit.models.heads.fcn import FCNHead
from segkit.models.layers.normalization import Normalize
from segkit.models.segmenter import Segmenter

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
HEADS: dict[str, Callable[..., nn.Module]] = {
    "deeplabv3plus": partial(DeepLabV3PlusHead, aspp_channels=8, low_level_channels=4, decoder_channels=8),
    "fcn": partial(FCNHead, channels=8),
}


def segmenter(
    head: str = "deeplabv3plus", name: str = "resnet18", mean: Sequence[float] = MEAN, **options: object
) -> Segmenter:
    torch.manual_seed(0)
    backbone = partial(TimmBackbone, name)
    return Segmenter(backbone, HEADS[head], num_classes=5, mean=mean, std=STD[: len(mean)], **options)


def images(*size: int) -> torch.Tensor:
    return torch.randint(256, size, dtype=torch.uint8)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (1, 5000)])
def test_one_image_of_any_size_trains(head: str, size: tuple[int, int]) -> None:
    model = segmenter(head).train()
    logits = model(images(1, 3, *size)).logits
    stride = 4 if head == "deeplabv3plus" else 32
    assert logits.shape == (1, 5, -(-size[0] // stride), -(-size[1] // stride))
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.head.parameters())


@pytest.mark.parametrize("name", ["convnext_atto", "mobilenetv3_small_050", "swin_tiny_patch4_window7_224"])
def test_every_kind_of_backbone_trains(name: str) -> None:
    model = segmenter(name=name).train()
    model(images(1, 3, 33, 47)).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.head.parameters())
    assert any(p.grad is not None for p in model.backbone.parameters())


def test_a_head_needs_its_level() -> None:
    with pytest.raises(UserError, match="a backbone level of reduction 4; this backbone has 16, 16, 16"):
        segmenter(name="vit_tiny_patch16_224")


def test_auxiliary_head_in_training_only() -> None:
    model = segmenter(auxiliary=partial(FCNHead, channels=8, level=16), output_stride=8)
    prediction = model.train()(images(2, 3, 32, 32))
    assert prediction.auxiliary["auxiliary"].shape == (2, 5, 4, 4)
    assert model.eval()(images(2, 3, 32, 32)).auxiliary == {}


def test_channels_last_gives_the_same() -> None:
    model = segmenter().eval()
    batch = images(2, 3, 64, 64)
    expected = model(batch).logits
    model.to(memory_format=torch.channels_last)
    found = model(batch.contiguous(memory_format=torch.channels_last)).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_autocast() -> None:
    model = segmenter().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images(2, 3, 64, 64)).logits
    assert logits.dtype == torch.bfloat16
    logits.float().sum().backward()


def test_normalisation_by_hand() -> None:
    normalize = Normalize(MEAN, STD)
    white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    expected = torch.tensor([0.5 / 0.2, 0.6 / 0.25, 0.7 / 0.5]).view(1, 3, 1, 1)
    torch.testing.assert_close(normalize(white), expected)
    torch.testing.assert_close(normalize(torch.ones(1, 3, 1, 1)), expected)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5, 0.5], [0.5], "dataset.mean has 2 and dataset.std 1"),
        ([], [], "dataset.mean has 0"),
        ([0.5], [0.0], r"dataset.std=\[0.0\]"),
    ],
)
def test_bad_normalisation_is_named(mean: list[float], std: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Normalize(mean, std)


def test_the_number_of_channels_follows_the_mean() -> None:
    model = segmenter(mean=(0.5,)).eval()
    assert model.input_channels == 1
    assert model(images(1, 1, 32, 32)).logits.shape == (1, 5, 8, 8)
    with pytest.raises(UserError, match="images have 3 channels"):
        model(images(1, 3, 32, 32))


def test_classes_are_nearly_even_at_the_start() -> None:
    probabilities = segmenter().train()(images(2, 3, 64, 64)).logits.softmax(dim=1)
    assert probabilities.min() > 0.1
    assert probabilities.max() < 0.35
