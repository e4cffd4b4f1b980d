"""Batch norm where a batch gives one value a channel."""

from __future__ import annotations

import copy

import torch
from timm.layers import BatchNormAct2d
from torch import nn

from segkit.models.layers.batch_norm import accept_single_values


def prepared(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        layer(torch.randn(8, 3, 4, 4))
    accept_single_values(layer)
    return layer


def test_one_value_uses_the_running_statistics_and_leaves_them() -> None:
    for layer in (
        prepared(nn.BatchNorm2d(3)),
        prepared(BatchNormAct2d(3)),
        copy.deepcopy(prepared(nn.BatchNorm2d(3))),
    ):
        before = copy.deepcopy(layer.state_dict())
        value = torch.randn(1, 3, 1, 1, requires_grad=True)
        layer.train()
        found = layer(value)
        assert layer.training
        assert torch.equal(found, layer.eval()(value))
        found.sum().backward()
        assert value.grad is not None
        assert all(torch.equal(layer.state_dict()[key], entry) for key, entry in before.items())


def test_more_values_are_plain_batch_norm() -> None:
    layer, plain = prepared(nn.BatchNorm2d(3)), nn.BatchNorm2d(3)
    values = torch.randn(1, 3, 1, 2)
    assert torch.equal(layer(values), plain(values))
