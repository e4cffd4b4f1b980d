"""Batch norm where a batch gives one value a channel."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from segkit.models.layers.batch_norm import BatchNorm2d, accept_single_values, beside_padding


def seen(layer: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """The layer with the statistics of some values."""
    layer(torch.randn(8, layer.num_features, 4, 4))
    return layer


def test_one_value_uses_the_running_statistics_and_leaves_them() -> None:
    layer = seen(BatchNorm2d(3))
    before = copy.deepcopy(layer.state_dict())
    value = torch.randn(1, 3, 1, 1, requires_grad=True)
    found = layer.train()(value)
    assert torch.equal(found, layer.eval()(value))
    found.sum().backward()
    assert value.grad is not None
    assert all(torch.equal(layer.state_dict()[key], entry) for key, entry in before.items())


def test_more_values_are_plain_batch_norm() -> None:
    layer, plain = BatchNorm2d(3), nn.BatchNorm2d(3)
    values = torch.randn(1, 3, 1, 2)
    assert torch.equal(layer(values), plain(values))
    assert all(torch.equal(a, b) for a, b in zip(layer.state_dict().values(), plain.state_dict().values(), strict=True))


def test_a_converted_network_computes_the_same_and_keeps_its_names() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), seen(nn.BatchNorm2d(4, eps=0.5, momentum=0.25)), nn.ReLU())
    expected = copy.deepcopy(network)
    accept_single_values(network)
    assert type(network[1]) is BatchNorm2d
    for _ in range(2):
        values = torch.randn(2, 3, 5, 5)
        assert torch.equal(network(values), expected(values))
    found, states = network.state_dict(), expected.state_dict()
    assert list(found) == list(states)
    assert all(torch.equal(found[name], states[name]) for name in states)


@pytest.mark.parametrize(
    ("size", "padded"),
    [
        ((1, 3, 32, 32), (1, 3, 32, 64)),
        ((1, 3, 1, 20), (1, 3, 1, 64)),
        ((1, 3, 32, 33), (1, 3, 32, 33)),  # two pixels already
        ((2, 3, 32, 32), (2, 3, 32, 32)),
    ],
)
def test_one_small_image_is_padded_to_two_pixels_of_a_map(size: tuple[int, ...], padded: tuple[int, ...]) -> None:
    images: Tensor = torch.rand(size)
    found = beside_padding(images, 32)
    assert found.shape == padded
    assert torch.equal(found[..., : size[-1]], images)
    assert not found[..., size[-1] :].any()
