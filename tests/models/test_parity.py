"""The native models against torchvision and segmentation_models_pytorch: weights copied across, outputs compared.

Both sides get random weights and random batch-norm statistics, and compute in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import segmentation

from segkit.logits import resize_logits
from segkit.models.backbones.mix_transformer import MixTransformer
from segkit.models.backbones.timm_backbone import TimmBackbone
from segkit.models.heads.deeplabv3 import DeepLabV3Head
from segkit.models.heads.fcn import FCNHead
from segkit.models.heads.lraspp import LRASPPHead
from segkit.models.heads.segformer import SegFormerHead
from segkit.models.heads.upernet import UPerHead
from segkit.models.segmenter import Segmenter

CLASSES = 21
RESNET, MOBILENET = partial(TimmBackbone, "resnet50"), partial(TimmBackbone, "mobilenetv3_large_100")


def segmenter(backbone: Callable[..., Any], head: Callable[..., nn.Module], **options: Any) -> Segmenter:
    model = Segmenter(backbone, head, num_classes=CLASSES, mean=(0.0,) * 3, std=(1.0,) * 3, **options)
    return model.double().eval()


def scrambled(network: nn.Module) -> nn.Module:
    """The network in float64 and evaluation mode, every norm with statistics and weights of its own."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return network.double().eval()


def copy_in_order(source: nn.Module, target: nn.Module) -> None:
    """Every tensor of `source` to the one at the same place in `target`, as long as their numbers agree."""
    theirs, ours = list(source.state_dict().values()), list(target.state_dict().values())
    assert len(theirs) == len(ours)
    for value, place in zip(theirs, ours, strict=True):
        assert value.numel() == place.numel()
        place.copy_(value.reshape(place.shape))


def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def assert_same_outputs(ours: Segmenter, theirs: nn.Module, name: str | None = "out") -> None:
    with torch.no_grad():
        expected = theirs(images()) if name is None else theirs(images())[name]
        found = resize_logits(ours(images()).logits, expected.shape[-2:])
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def torchvision_model(name: str, **options: Any) -> Any:
    make = getattr(segmentation, name)
    return scrambled(make(weights=None, weights_backbone=None, num_classes=CLASSES, **options))


@pytest.mark.parametrize(
    ("name", "head", "parameters"),
    [("fcn_resnet50", FCNHead, 35_322_218), ("deeplabv3_resnet50", DeepLabV3Head, 42_004_074)],
)
def test_torchvision_on_resnet50(name: str, head: Callable[..., nn.Module], parameters: int) -> None:
    theirs = torchvision_model(name, aux_loss=True)
    auxiliary = partial(FCNHead, channels=256, level=16)
    ours = segmenter(RESNET, head, auxiliary=auxiliary, output_stride=8)
    assert sum(parameter.numel() for parameter in ours.parameters()) == parameters
    copy_in_order(theirs.backbone, ours.backbone)
    copy_in_order(theirs.classifier, ours.head)
    assert ours.auxiliary is not None
    copy_in_order(theirs.aux_classifier, ours.auxiliary)
    assert_same_outputs(ours, theirs)
    with torch.no_grad():
        found = resize_logits(ours.auxiliary(ours.backbone(images())), (64, 96))
        torch.testing.assert_close(found, theirs(images())["aux"], rtol=1e-8, atol=1e-8)


def like_torchvisions(backbone: TimmBackbone) -> TimmBackbone:
    """timm's MobileNetV3 with torchvision's epsilon, and its first dilated block dilated like those after it."""
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    [first] = [block[0] for name, block in backbone.net.named_modules() if name == "blocks.5"]
    first.conv_dw.dilation, first.conv_dw.padding = (2, 2), (4, 4)
    return backbone


def test_deeplabv3_on_mobilenetv3() -> None:
    theirs = torchvision_model("deeplabv3_mobilenet_v3_large", aux_loss=True)
    auxiliary = partial(FCNHead, channels=10, level=8)
    ours = segmenter(MOBILENET, DeepLabV3Head, auxiliary=auxiliary, output_stride=16)
    assert sum(parameter.numel() for parameter in ours.parameters()) == 11_029_328
    like_torchvisions(ours.backbone)
    copy_in_order(theirs.backbone, ours.backbone)
    copy_in_order(theirs.classifier, ours.head)
    assert_same_outputs(ours, theirs)


def test_lraspp() -> None:
    """On torchvision's maps: as level 8 it takes the first block with that stride, and timm gives the last."""
    theirs = torchvision_model("lraspp_mobilenet_v3_large")
    ours = segmenter(MOBILENET, LRASPPHead, output_stride=16)
    assert sum(parameter.numel() for parameter in ours.parameters()) == 3_221_538
    copy_in_order(theirs.classifier, ours.head)
    with torch.no_grad():
        maps = theirs.backbone(images())
        expected = theirs(images())["out"]
        found = ours.head([*[torch.empty(0)] * 2, maps["low"], torch.empty(0), maps["high"]])
    torch.testing.assert_close(resize_logits(found, (64, 96)), expected, rtol=1e-8, atol=1e-8)


def smp_model(make: Callable[..., Any], encoder: str) -> Any:
    """Without the last upsampling, in which smp aligns the corners."""
    network = make(encoder, encoder_weights=None, classes=CLASSES)
    network.segmentation_head[1] = nn.Identity()
    return scrambled(network)


def test_segformer_of_smp() -> None:
    theirs = smp_model(smp.Segformer, "mit_b0")
    ours = segmenter(partial(MixTransformer, "mit_b0"), SegFormerHead)
    copy_in_order(theirs.encoder, ours.backbone)
    copy_in_order(nn.ModuleList([theirs.decoder, theirs.segmentation_head]), ours.head)
    assert_same_outputs(ours, theirs, name=None)


def test_upernet_of_smp() -> None:
    """smp has a layer norm on every level, which is `norm_levels`, and 256 channels."""
    theirs = smp_model(smp.UPerNet, "tu-resnet18")
    ours = segmenter(partial(TimmBackbone, "resnet18"), partial(UPerHead, channels=256, norm_levels=True))
    copy_in_order(theirs.encoder, ours.backbone)
    copy_in_order(nn.ModuleList([theirs.decoder, theirs.segmentation_head]), ours.head)
    assert_same_outputs(ours, theirs, name=None)


@pytest.mark.parametrize(
    ("backbone", "head", "auxiliary", "stride", "giga", "left_out"),
    [
        (RESNET, FCNHead, partial(FCNHead, channels=256, level=16), 8, 152.717, 0),
        (RESNET, DeepLabV3Head, partial(FCNHead, channels=256, level=16), 8, 178.722, 0),
        # On a map of 33 x 33 eight taps of rate 36 see nothing, from 960 channels to 256.
        (MOBILENET, DeepLabV3Head, partial(FCNHead, channels=10, level=8), 16, 10.452, 33 * 33 * 8 * 960 * 256),
        (MOBILENET, LRASPPHead, None, 16, 2.086, 0),
    ],
    ids=["fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"],
)
def test_multiply_adds_are_those_torchvision_publishes(
    backbone: Any, head: Any, auxiliary: Any, stride: int, giga: float, left_out: int
) -> None:
    """At 520 x 520 and with the auxiliary heads."""
    model = segmenter(backbone, head, auxiliary=auxiliary, output_stride=stride).to("meta").train()
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 520, 520, device="meta"))
    assert round((counter.get_total_flops() / 2 + left_out) / 1e9, 3) == giga
