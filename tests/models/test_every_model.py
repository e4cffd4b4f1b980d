"""Every option of the model group, found by glob, and every decoder of smp: what all models promise.

A new YAML in conf/model is covered without an edit here.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.contracts import Prediction
from segkit.logits import resize_logits
from segkit.models.networks.smp import Decoder
from tests.composed import recipe

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
# Small enough for the default suite; the slow tests take every option as it is.
SMALL = {
    "simple_unet": "model.width=16",
    "segformer": "backbone=timm backbone.name=test_resnet model.head.channels=32",
    "deeplabv3plus": "backbone=timm backbone.name=test_resnet model.head.aspp_channels=32",
}
CLASSES = 4
# Logits of stride 32 blur the edges of blocks of 32 pixels.
FINER = {"fcn": ["model.output_stride=16"]}
EVERY = [
    *([option, *FINER.get(option, [])] for option in OPTIONS if option != "smp"),
    *(["smp", f"model.decoder={decoder}"] for decoder in get_args(Decoder) if decoder != "dpt"),
    ["smp", "model.decoder=dpt", "backbone=vit_small"],
]


def build(option: str, *overrides: str, classes: int = CLASSES, channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    label_space = [
        f"dataset.num_classes={classes}",
        f"dataset.mean={[0.5] * channels}",
        f"dataset.std={[0.25] * channels}",
    ]
    filled = {"num_classes": classes, "mean": [0.5] * channels, "std": [0.25] * channels}
    return recipe(f"model={option}", *label_space, *overrides).build("model", filled=filled)


def images(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def loss_of(prediction: Prediction, mask: Tensor) -> Tensor:
    def cross_entropy(logits: Tensor) -> Tensor:
        return F.cross_entropy(resize_logits(logits.float(), mask.shape[-2:]), mask)

    auxiliary = [cross_entropy(logits) for logits in prediction.auxiliary.values()]
    return cross_entropy(prediction.logits) + 0.4 * sum(auxiliary)


def settled(model: nn.Module, batch: Tensor) -> nn.Module:
    """The model in evaluation mode, its batch norms with the statistics of `batch`, as if it had trained on it."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def assert_close(found: Tensor, expected: Tensor) -> None:
    """To 1e-4, or that share of the largest logit where that is above 1."""
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-4, rtol=1e-4)


def assert_gradients(model: nn.Module) -> None:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    found = [gradient for gradient in gradients if gradient is not None]
    assert len(found) == len(gradients)
    assert all(gradient.isfinite().all() for gradient in found)
    assert any(gradient.abs().max() > 0 for gradient in found)


@pytest.mark.parametrize("option", OPTIONS)
def test_one_image_of_an_odd_size_trains_and_one_pixel_too(option: str) -> None:
    model = build(option).train()
    for size in [(1, 1), (33, 47)]:
        model.zero_grad()
        prediction = model(images(1, 3, *size))
        for logits in (prediction.logits, *prediction.auxiliary.values()):
            stride = 1 << round(math.log2(size[1] / logits.shape[-1]))
            assert logits.shape == (1, CLASSES, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        loss_of(prediction, torch.randint(CLASSES, (1, *size))).backward()
    assert_gradients(model)
    assert model.eval()(images(1, 3, 33, 47)).auxiliary == {}


@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (5, 6)])
@pytest.mark.parametrize("option", OPTIONS)
def test_other_numbers_of_channels_and_classes(option: str, channels: int, classes: int) -> None:
    model = build(option, classes=classes, channels=channels).eval()
    with torch.no_grad():
        assert model(images(1, channels, 32, 40)).logits.shape[:2] == (1, classes)


@pytest.mark.parametrize("option", OPTIONS)
def test_layout_batch_and_precision_do_not_change_what_is_seen(option: str) -> None:
    batch = images(2, 3, 40, 56)
    model = settled(build(option), batch)
    with torch.no_grad():
        expected = model(batch).logits
        assert_close(model(batch[1:]).logits, expected[1:])
        model.to(memory_format=torch.channels_last)
        found = model(batch.contiguous(memory_format=torch.channels_last)).logits
        assert_close(found, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = model.train()(batch)
    loss_of(prediction, torch.randint(CLASSES, (2, 40, 56))).backward()
    assert_gradients(model)


def blocks() -> tuple[Tensor, Tensor]:
    """Two images (2, 3, 96, 96) of noisy blocks of 32 pixels, and their mask: every stride up to 32 can draw it."""
    random = np.random.default_rng(0)
    mask = random.permutation(np.arange(18) % CLASSES).reshape(2, 3, 3).repeat(32, axis=1).repeat(32, axis=2)
    colors = np.array([[60, 60, 60], [190, 70, 60], [70, 190, 70], [70, 70, 200]])
    noisy = colors[mask] + random.normal(0, 25, (2, 96, 96, 3))
    return (
        torch.from_numpy(noisy.clip(0, 255).astype(np.uint8)).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(mask),
    )


def mean_iou(model: nn.Module, batch: Tensor, mask: Tensor) -> float:
    with torch.no_grad():
        predicted = resize_logits(model.eval()(batch).logits, mask.shape[-2:]).argmax(dim=1)
    ious = [((predicted == k) & (mask == k)).sum() / ((predicted == k) | (mask == k)).sum() for k in range(CLASSES)]
    return float(torch.stack(ious).mean())


def overfitted(model: nn.Module, steps: int, peak_rate: float = 2e-3) -> float:
    batch, mask = blocks()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_rate, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model.train()(batch), mask).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return mean_iou(model, batch, mask)


@pytest.mark.parametrize("option", SMALL)
def test_a_small_one_learns_two_images(option: str) -> None:
    assert overfitted(build(option, *SMALL[option].split()), steps=60) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("choice", EVERY, ids=" ".join)
def test_it_learns_two_images(choice: list[str]) -> None:
    if choice == ["eomt"]:
        pytest.skip("it learns by a loss of its own: test_eomt.py")
    # ENet is narrow, and drops whole channels: it takes longer, and bears a higher rate.
    harder = (100, 1e-2) if "enet" in choice else (60, 2e-3)
    assert overfitted(build(*choice), *harder) > 0.95


class Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Tensor) -> Tensor:
        return self.model(batch).logits


def assert_exports(model: nn.Module, path: Path) -> None:
    """The graph gives in onnxruntime what the model gives, on another image than the one it was traced with."""
    ort: Any = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    settled(model, images(2, 3, 64, 96))
    program = torch.onnx.export(Logits(model).eval(), (images(1, 3, 64, 96).flip(2),), dynamo=True, verbose=False)
    assert program is not None
    program.save(str(path))
    batch = images(1, 3, 64, 96)
    with torch.no_grad():
        expected = model(batch).logits
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    [found] = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
    assert_close(torch.from_numpy(found), expected)


def test_a_small_one_exports(tmp_path: Path) -> None:
    assert_exports(build("simple_unet", SMALL["simple_unet"]), tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("choice", EVERY, ids=" ".join)
def test_it_exports(choice: list[str], tmp_path: Path) -> None:
    assert_exports(build(*choice), tmp_path / "model.onnx")
