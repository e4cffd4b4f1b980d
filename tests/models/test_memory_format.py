"""Channels stay last from the input to the logits: where they do not, a convolution converts its map there and back."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from segkit.engine.strategy.single_device import SingleDevice
from segkit.losses.combined import CombinedLoss
from segkit.models.backbones.timm_backbone import TimmBackbone
from segkit.models.heads.deeplabv3plus import DeepLabV3PlusHead
from segkit.models.segmenter import Segmenter


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def outputs(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    """What each layer of the default network gives for a batch as the loader makes it, and the maps' gradients."""
    model = Segmenter(
        partial(TimmBackbone, "resnet18"), DeepLabV3PlusHead, num_classes=7, mean=[0.5] * 3, std=[0.2] * 3
    )
    strategy = SingleDevice("cpu", request.param)
    model = strategy.prepare(model, channels_last=True)
    found: dict[str, Tensor] = {}

    def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found[name] = output
        if output.requires_grad:
            output.register_hook(partial(found.__setitem__, f"gradient of {name}"))

    for name, module in model.named_modules():
        if not any(module.children()):
            module.register_forward_hook(partial(note, name))
    loss = CombinedLoss(num_classes=7, ignore_index=255)
    with strategy.autocast():
        prediction = model(torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8))
    loss(prediction, torch.randint(0, 7, (2, 96, 96), dtype=torch.uint8)).total.backward()
    return found | {"logits": prediction.logits}


def test_every_map_and_its_gradient_has_its_channels_last(outputs: dict[str, Tensor]):
    # The picture itself comes with its channels first; pooled maps of one pixel have no order.
    maps = {name: found for name, found in outputs.items() if found.shape[-1] > 1 and name != "normalize"}
    assert sum("gradient" in name for name in maps) > 50
    # Not `is_contiguous`: the gradient of a concatenation comes as slices of the channels.
    assert not [name for name, found in maps.items() if found.stride(1) != 1]
