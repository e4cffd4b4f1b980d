"""Which parameter decays, and how fast it learns."""

from __future__ import annotations

from functools import partial

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from torch import nn

from segkit.contracts import UserError
from segkit.models.backbones.timm_backbone import TimmBackbone
from segkit.optim.parameter_groups import build_optimizer, layer_depths, parameter_groups


def model() -> nn.Module:
    module = nn.Module()
    module.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    module.head = nn.Conv2d(4, 2, 1)
    return module


def test_groups_by_part_and_decay() -> None:
    net = model()
    groups = parameter_groups(net, lr=1.0, weight_decay=0.5, backbone_lr_factor=0.1)
    conv, norm = net.backbone
    expected = [
        ("head", 1.0, 0.5, [net.head.weight]),
        ("head_no_decay", 1.0, 0.0, [net.head.bias]),
        ("backbone", 0.1, 0.5, [conv.weight]),
        ("backbone_no_decay", 0.1, 0.0, [conv.bias, norm.weight, norm.bias]),
    ]
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in groups] == [e[:3] for e in expected]
    for group, (*_, parameters) in zip(groups, expected, strict=True):
        assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in parameters]


def test_frozen_parameters_are_left_out() -> None:
    net = model()
    net.backbone.requires_grad_(False)
    groups = parameter_groups(net, lr=1.0, weight_decay=0.5)
    assert [group["name"] for group in groups] == ["head", "head_no_decay"]


def test_every_parameter_is_in_one_group() -> None:
    net = model()
    net.shared = net.head
    groups = parameter_groups(net, lr=1.0, weight_decay=0.5, decay_norm_and_bias=True)
    assert [group["name"] for group in groups] == ["head", "backbone"]
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in net.parameters())


def test_the_optimizer_gets_the_groups() -> None:
    built = build_optimizer(model(), torch.optim.SGD, lr=0.5, weight_decay=0.1, backbone_lr_factor=0.2)
    found = [(group["lr"], group["weight_decay"]) for group in built.param_groups]
    assert found == [(0.5, 0.1), (0.5, 0.0), (0.1, 0.1), (0.1, 0.0)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", 0.0),
        ("lr", -1.0),
        ("weight_decay", -1.0),
        ("backbone_lr_factor", 0.0),
        ("head_lr_factor", -1.0),
        ("layer_decay", 0.0),
        ("layer_decay", 1.5),
    ],
)
def test_bad_numbers_are_named(key: str, value: float) -> None:
    arguments = {"lr": 1.0, "weight_decay": 0.0} | {key: value}
    with pytest.raises(UserError, match=f"optimizer.{key}={value}"):
        build_optimizer(model(), torch.optim.SGD, **arguments)


@pytest.mark.parametrize("key", ["backbone_lr_factor", "head_lr_factor", "layer_decay"])
def test_factors_need_a_backbone(key: str) -> None:
    with pytest.raises(UserError, match=f"optimizer.{key}=0.1, but this model has no backbone"):
        parameter_groups(nn.Conv2d(1, 1, 1), lr=1.0, weight_decay=0.0, **{key: 0.1})


def test_the_head_learns_by_its_own_factor() -> None:
    groups = parameter_groups(model(), lr=0.5, weight_decay=0.1, head_lr_factor=10.0)
    assert [(group["name"], group["lr"]) for group in groups] == [
        ("head", 5.0),
        ("head_no_decay", 5.0),
        ("backbone", 0.5),
        ("backbone_no_decay", 0.5),
    ]


def on_timm(name: str) -> nn.Module:
    module = nn.Module()
    module.backbone = TimmBackbone(name)
    module.head = nn.Conv2d(1, 2, 1)
    return module


def test_layer_decay_of_a_transformer_by_hand() -> None:
    """Six blocks and the stem: the last block and what follows it at full rate, each earlier one at half."""
    net = on_timm("test_vit")
    groups = parameter_groups(net, lr=1.0, weight_decay=0.5, layer_decay=0.5, backbone_lr_factor=0.1)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    vit = net.backbone.net.model
    assert rates[id(net.head.weight)] == (1.0, 0.5)
    assert [rates[id(block.mlp.fc1.weight)] for block in vit.blocks] == [
        (0.1 * 0.5**depth, 0.5) for depth in (5, 4, 3, 2, 1, 0)
    ]
    assert rates[id(vit.patch_embed.proj.weight)] == (0.1 * 0.5**6, 0.5)
    # Embeddings decay no more than biases do, though they have more dimensions than one.
    assert rates[id(vit.pos_embed)] == rates[id(vit.cls_token)] == (0.1 * 0.5**6, 0.0)
    assert len(rates) == len(list(net.parameters()))


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_layers_without_a_matcher_are_those_that_timm_has_for_the_whole_model(name: str) -> None:
    whole = timm.create_model(name, num_classes=0)
    layers = group_parameters(whole, whole.group_matcher(coarse=False), reverse=True)
    backbone = TimmBackbone(name)
    depths = layer_depths(backbone)
    found = {n: depths[id(p)] for n, p in backbone.net.named_parameters()}
    last = max(layers[n] for n in found)
    assert found == {n: last - layers[n] for n in found}


def test_layer_scales_do_not_decay() -> None:
    net = on_timm("test_convnext")
    groups = parameter_groups(net, lr=1.0, weight_decay=0.5)
    scales = [p for n, p in net.named_parameters() if n.endswith("gamma")]
    exempt = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert scales
    assert all(id(p) in exempt for p in scales)


@pytest.mark.parametrize("opt", ["lamb", "nadamw", "adan", "muon", "lion", "sgdw"])
def test_optimizers_of_timm_take_the_groups(opt: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 1))
    built = build_optimizer(net, partial(create_optimizer_v2, opt=opt), lr=1e-3, weight_decay=0.1)
    before = [p.detach().clone() for p in net.parameters()]
    net(torch.randn(2, 3, 4, 4)).square().sum().backward()
    built.step()
    assert all(not torch.equal(old, new) for old, new in zip(before[3:], list(net.parameters())[3:], strict=True))


@pytest.mark.parametrize(("opt", "message"), [("adamww", "adamww"), ("adahessian", "second derivatives")])
def test_an_optimizer_that_does_not_work_here_is_named(opt: str, message: str) -> None:
    with pytest.raises(UserError, match=f"optimizer.optimizer .*{message}"):
        build_optimizer(model(), partial(create_optimizer_v2, opt=opt), lr=1e-3, weight_decay=0.1)


def test_a_model_without_anything_to_train_is_refused() -> None:
    with pytest.raises(UserError, match="no parameter to train"):
        parameter_groups(nn.Conv2d(1, 1, 1).requires_grad_(False), lr=1.0, weight_decay=0.0)
