"""Levels and image sizes of backbones of every family."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from segkit.contracts import UserError
from segkit.models.backbones.timm_backbone import FeatureInfo, TimmBackbone, checkpoint_gradients, pick

FAMILIES = ["resnet18", "mobilenetv3_small_050", "efficientnet_b0", "convnext_atto", "vgg11"]
TRANSFORMERS = ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"]


@pytest.mark.parametrize("name", FAMILIES + TRANSFORMERS)
def test_maps_lie_over_images_of_any_size(name: str) -> None:
    backbone = TimmBackbone(name).eval()
    for size in [(1, 1), (33, 47), (1, 300)]:
        with torch.no_grad():
            maps = backbone(torch.rand(1, 3, *size))
        for features, info in zip(maps, backbone.features, strict=True):
            expected = (1, info.channels, ceil(size[0] / info.reduction), ceil(size[1] / info.reduction))
            assert features.shape == expected


def test_padding_leaves_what_it_need_not_touch() -> None:
    """A size that the model takes gives the model's own maps, bit for bit."""
    images = torch.rand(1, 3, 64, 96)
    for name in ("resnet18", "convnext_atto"):
        backbone = TimmBackbone(name).eval()
        for ours, theirs in zip(backbone(images), backbone.net(images), strict=True):
            assert torch.equal(ours, theirs)


def test_a_fixed_size_is_padded_to_and_not_exceeded() -> None:
    backbone = TimmBackbone("maxvit_tiny_rw_224", options={"img_size": 64}).eval()
    assert backbone.sizing.fixed == (64, 64)
    with torch.no_grad():
        assert backbone(torch.rand(1, 3, 33, 64))[0].shape == (1, 64, 17, 32)
    with pytest.raises(UserError, match=r"65 x 64 pixels is larger .* 64 x 64"):
        backbone(torch.rand(1, 3, 65, 64))


@pytest.mark.parametrize(("stride", "reductions"), [(16, [2, 4, 8, 16, 16]), (8, [2, 4, 8, 8, 8])])
def test_output_stride_keeps_the_names_of_levels(stride: int, reductions: list[int]) -> None:
    backbone = TimmBackbone("resnet18", output_stride=stride)
    assert [info.reduction for info in backbone.features] == reductions
    assert [info.level for info in backbone.features] == [2, 4, 8, 16, 32]
    maps = backbone.eval()(torch.rand(1, 3, 64, 64))
    assert [features.shape[-1] for features in maps] == [64 // reduction for reduction in reductions]


def test_pick_takes_the_deepest_and_names_what_there_is() -> None:
    features = [FeatureInfo(8, 4, 4), FeatureInfo(16, 16, 16), FeatureInfo(32, 16, 16)]
    assert pick(features, 16) == 2
    with pytest.raises(UserError, match=r"reduction 8; this backbone has 4, 16, 16"):
        pick(features, 8)


def test_frozen_stays_as_it_is_in_training() -> None:
    backbone = TimmBackbone("resnet18", frozen=True).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    maps = backbone(torch.rand(2, 3, 32, 32))
    assert not any(features.requires_grad for features in maps)
    assert not any(module.training for module in backbone.modules())
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_trains_by_default() -> None:
    backbone = TimmBackbone("resnet18")
    assert backbone.training
    assert all(module.training for module in backbone.modules() if isinstance(module, nn.BatchNorm2d))


@pytest.mark.parametrize("in_channels", [1, 5])
def test_other_channels(in_channels: int) -> None:
    maps = TimmBackbone("resnet18", in_channels=in_channels).eval()(torch.rand(1, in_channels, 32, 32))
    assert maps[-1].shape == (1, 512, 1, 1)


@pytest.mark.parametrize("name", ["vgg11", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "legacy_xception"])
def test_a_backbone_that_cannot_be_dilated_says_so(name: str) -> None:
    with pytest.raises(UserError, match=rf"model.output_stride=16 does not go with backbone.name={name}.* null"):
        TimmBackbone(name, output_stride=16)


@pytest.mark.parametrize(("size", "patch"), [("vit_small_patch14_dinov2", 14), ("vit_small_patch16_dinov3", 16)])
def test_self_supervised_transformers_take_any_size(size: str, patch: int) -> None:
    backbone = TimmBackbone(size).eval()
    assert [info.reduction for info in backbone.features] == [patch] * 3
    with torch.no_grad():
        assert backbone(torch.rand(1, 3, 33, 47))[-1].shape == (1, 384, ceil(33 / patch), ceil(47 / patch))


def test_a_transformers_weights_adapt_to_other_patches(tmp_path: Path) -> None:
    source = timm.create_model("vit_small_patch14_dinov2", num_classes=0)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    backbone = TimmBackbone(
        "vit_small_patch14_dinov2", weights=str(tmp_path / "weights.pth"), options={"patch_size": 16}
    )
    assert [info.reduction for info in backbone.features] == [16] * 3
    found, expected = backbone.net.model, source
    assert torch.equal(found.blocks[3].mlp.fc1.weight, expected.blocks[3].mlp.fc1.weight)
    assert found.patch_embed.proj.weight.shape == (384, 3, 16, 16)
    assert found.patch_embed.proj.weight.std() > 0.5 * expected.patch_embed.proj.weight.std()


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "convnext_atto", "vit_tiny_patch16_224"])
def test_checkpointing_gives_the_same_gradients_for_less_memory(name: str) -> None:
    images = torch.rand(2, 3, 64, 64)
    gradients, saved = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = TimmBackbone(name, gradient_checkpointing=checkpointing).train()
        storages: dict[int, int] = {}

        def keep(tensor: torch.Tensor, storages: dict[int, int] = storages) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            maps = backbone(images)
        sum(features.square().sum() for features in maps).backward()
        gradients.append([parameter.grad for parameter in backbone.parameters()])
        saved.append(sum(storages.values()))
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert saved[1] < 0.8 * saved[0]


def test_a_backbone_without_checkpointing_says_so() -> None:
    with pytest.raises(UserError, match=r"backbone\.gradient_checkpointing=true, but .*plain does not"):
        checkpoint_gradients(nn.Identity(), "plain")


def test_an_image_too_large_for_a_fixed_size_is_told_what_helps() -> None:
    backbone = TimmBackbone("test_vit_relpos").eval()
    with pytest.raises(UserError, match=r"170 x 160 pixels is larger .* 160 x 160\..*predictor\.window=\[160,160\]"):
        backbone(torch.zeros(1, 3, 170, 160))
    larger = TimmBackbone("test_vit_relpos", options={"img_size": [176, 160]}).eval()
    assert larger(torch.zeros(1, 3, 170, 160))[-1].shape[-2:] == (11, 10)


def test_a_size_that_a_backbone_cannot_be_built_for_is_refused_at_once() -> None:
    """timm takes img_size here, and fails at the first image."""
    with pytest.raises(UserError, match=r"img_size=256: efficientformer_l1 cannot be built .*224, 224"):
        TimmBackbone("efficientformer_l1", options={"img_size": 256})
