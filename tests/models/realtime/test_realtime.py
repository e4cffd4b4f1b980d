"""The real-time networks: published sizes, any image, auxiliary outputs, two images learnt, ONNX."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segkit.contracts import Prediction, UserError
from segkit.logits import resize_logits
from segkit.models.backbones.timm_backbone import TimmBackbone
from segkit.models.realtime.bisenet import BiSeNet
from segkit.models.realtime.bisenetv2 import BiSeNetV2
from segkit.models.realtime.enet import ENet, unpool
from segkit.models.realtime.pidnet import PIDNet
from segkit.models.realtime.sfnet import SFNet, warp
from segkit.models.realtime.sfnet_lite import SFNetLite

COLOUR: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
RESNET18 = partial(TimmBackbone, "resnet18")
DEEP_STEM = partial(TimmBackbone, "resnet18", options={"stem_type": "deep", "stem_width": 64})
TINY = partial(TimmBackbone, "test_resnet")

# Small versions, for what does not depend on width.
SMALL: dict[str, Callable[..., nn.Module]] = {
    "enet": partial(ENet, dropout=0.01),
    "bisenet": partial(BiSeNet, TINY, channels=16),
    "bisenetv2": partial(BiSeNetV2, head_channels=32, auxiliary_channels=16),
    "sfnet": partial(SFNet, TINY, channels=32),
    "sfnet_lite": partial(SFNetLite, TINY, channels=32),
    "pidnet": PIDNet,
}
STRIDE = {"enet": 1, "bisenet": 8, "bisenetv2": 8, "sfnet": 4, "sfnet_lite": 4, "pidnet": 8}
AUXILIARY = {
    "enet": {},
    "bisenet": {"context16": 8, "context32": 16},
    "bisenetv2": {"stage2": 4, "stage3": 8, "stage4": 16, "stage5": 32},
    "sfnet": {"level4": 4, "level8": 8, "level16": 16},
    "sfnet_lite": {"aligned": 4},
    "pidnet": {"detail": 8},
}


def built(name: str, num_classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return SMALL[name](num_classes=num_classes, **COLOUR)


def images(*size: int) -> Tensor:
    return torch.randint(256, size, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("make", "whole", "in_use"),
    [
        (ENet, 359_914, 359_914),  # published: 0.37 M
        (partial(BiSeNet, RESNET18), 13_392_384, 13_242_240),  # derived: ResNet-18 has 11,176,512
        (BiSeNetV2, 3_645_679, 3_358_371),  # derived from table 1
        (partial(SFNet, DEEP_STEM), 13_320_588, 12_869_715),  # published: 12.87 M
        # Published: 12,296,074, with 150,291 of the auxiliary head and 65,920 of a layer that is never called.
        (partial(SFNetLite, DEEP_STEM), 12_296_074 - 65_920, 12_296_074 - 65_920 - 150_291),
        (PIDNet, 7_702_278, 7_625_715),  # published: 7.6 M
        (partial(PIDNet, size="m"), 34_590_246, 34_439_827),  # published: 34.4 M
        (partial(PIDNet, size="l"), 37_240_134, 36_939_571),  # published: 36.9 M
    ],
)
def test_parameters_as_published_for_19_classes(make: Callable[..., nn.Module], whole: int, in_use: int):
    with torch.device("meta"):
        counts = {n: p.numel() for n, p in make(num_classes=19, **COLOUR).named_parameters()}
    assert sum(counts.values()) == whole
    assert sum(count for name, count in counts.items() if not name.startswith("auxiliary")) == in_use


@pytest.mark.parametrize(
    ("make", "published"), [(PIDNet, 47.6), (partial(PIDNet, size="m"), 197.4), (partial(PIDNet, size="l"), 275.8)]
)
def test_pidnets_multiplications_at_2048_x_1024_are_the_published_billions_within_1_percent(
    make: Callable[..., nn.Module], published: float
):
    """The counter sees convolutions and matrix products only; the authors' also sees pooling and resizing."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        make(num_classes=19, **COLOUR).eval()(torch.zeros(1, 3, 1024, 2048))
    assert counter.get_total_flops() / 2e9 == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (1, 200)])
def test_one_image_of_any_size_trains_every_parameter(name: str, size: tuple[int, int]):
    model = built(name).train()
    prediction = model(images(1, 3, *size))

    def shape(stride: int) -> tuple[int, ...]:
        return (1, 4, *(-(-length // stride) for length in size))

    assert prediction.logits.shape == shape(STRIDE[name])
    assert {n: a.shape for n, a in prediction.auxiliary.items()} == {n: shape(s) for n, s in AUXILIARY[name].items()}
    sum(out.square().sum() for out in (prediction.logits, *prediction.auxiliary.values())).backward()
    wrong = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not wrong
    assert model.eval()(images(1, 3, *size)).auxiliary == {}


@pytest.mark.parametrize("name", SMALL)
def test_bf16_stays_near_fp32(name: str):
    model = built(name).train()
    batch = images(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(batch).logits
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(batch).logits
    assert found.isfinite().all()
    assert found.shape == expected.shape


@pytest.mark.parametrize("name", SMALL)
def test_other_numbers_of_channels(name: str):
    for channels in (1, 4, 12):
        model = SMALL[name](num_classes=2, mean=(0.5,) * channels, std=(0.5,) * channels).eval()
        assert model(images(1, channels, 32, 32)).logits.shape[1] == 2


def two_images() -> tuple[Tensor, Tensor]:
    """(2, 3, 128, 128) images and masks (2, 128, 128) of 4 classes: a disc and a square on two grounds."""
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    mask = torch.stack([torch.zeros_like(x), torch.ones_like(x)])
    mask[0][(y - 48) ** 2 + (x - 80) ** 2 < 30**2] = 2
    mask[1][(y - 72).abs().maximum((x - 48).abs()) < 28] = 3
    colours = torch.tensor([[60, 90, 120], [140, 60, 60], [200, 180, 40], [40, 170, 90]])
    noise = torch.randint(-10, 10, (2, 3, 128, 128), generator=torch.Generator().manual_seed(0))
    return (colours[mask].permute(0, 3, 1, 2) + noise).to(torch.uint8), mask


def loss_of(prediction: Prediction, mask: Tensor) -> Tensor:
    heads = (prediction.logits, *prediction.auxiliary.values())
    return torch.stack([F.cross_entropy(resize_logits(head, mask.shape[-2:]), mask) for head in heads]).sum()


def mean_iou(predicted: Tensor, mask: Tensor) -> float:
    ious = [((predicted == c) & (mask == c)).sum() / ((predicted == c) | (mask == c)).sum() for c in mask.unique()]
    return float(torch.stack(ious).mean())


QUICK = {"bisenet", "sfnet_lite"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in SMALL])
def test_two_images_are_learnt(name: str):
    model = built(name)
    batch, mask = two_images()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=130)
    for _ in range(130):
        loss_of(model.train()(batch), mask).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    with torch.inference_mode():
        predicted = resize_logits(model.eval()(batch).logits, mask.shape[-2:]).argmax(dim=1)
    assert mean_iou(predicted, mask) > 0.95


class Logits(nn.Module):
    """What is exported: tensors in, tensors out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Tensor) -> Tensor:
        return self.model(batch).logits


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "sfnet_lite" else pytest.mark.slow) for n in SMALL])
def test_onnx_runs_to_the_same_logits(name: str):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = Logits(built(name))
    batch = images(1, 3, 64, 96)
    model.eval()
    program = torch.onnx.export(model, (batch,), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
    expected = model(batch).detach().numpy()
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, float(np.abs(expected).max()))


def test_unpooling_is_pytorchs():
    pooled, indices = F.max_pool2d(torch.randn(2, 3, 8, 6), 2, return_indices=True)
    torch.testing.assert_close(unpool(pooled, indices), F.max_unpool2d(pooled, indices, 2))


def test_a_warp_without_flow_is_resizing_and_a_flow_of_two_is_one_pixel():
    maps = torch.randn(1, 2, 5, 7)
    resized = F.interpolate(maps, size=(10, 21), mode="bilinear", align_corners=False)
    torch.testing.assert_close(warp(maps, torch.zeros(1, 2, 10, 21)), resized, atol=1e-5, rtol=1e-5)
    to_the_right = torch.zeros(1, 2, 5, 7)
    to_the_right[:, 0] = 2
    shifted = warp(maps, to_the_right)
    torch.testing.assert_close(shifted[..., :-1], maps[..., 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shifted[..., -1], maps[..., -1])


def test_a_backbone_without_the_levels_is_named():
    with pytest.raises(UserError, match="needs a backbone level of reduction"):
        SFNet(partial(TimmBackbone, "vit_tiny_patch16_224"), num_classes=2, **COLOUR)
