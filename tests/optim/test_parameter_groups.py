"""Which parameter decays, and how fast it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segkit.contracts import UserError
from segkit.optim.parameter_groups import build_optimizer, parameter_groups


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
    ("key", "value"), [("lr", 0.0), ("lr", -1.0), ("weight_decay", -1.0), ("backbone_lr_factor", 0.0)]
)
def test_bad_numbers_are_named(key: str, value: float) -> None:
    arguments = {"lr": 1.0, "weight_decay": 0.0} | {key: value}
    with pytest.raises(UserError, match=f"optimizer.{key}={value}"):
        build_optimizer(model(), torch.optim.SGD, **arguments)


def test_a_backbone_factor_needs_a_backbone() -> None:
    with pytest.raises(UserError, match="this model has no backbone"):
        parameter_groups(nn.Conv2d(1, 1, 1), lr=1.0, weight_decay=0.0, backbone_lr_factor=0.1)


def test_a_model_without_anything_to_train_is_refused() -> None:
    with pytest.raises(UserError, match="no parameter to train"):
        parameter_groups(nn.Conv2d(1, 1, 1).requires_grad_(False), lr=1.0, weight_decay=0.0)
