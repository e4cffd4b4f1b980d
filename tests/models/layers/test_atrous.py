"""Atrous convolutions without the taps that meet nothing but padding."""

from __future__ import annotations

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segkit.models.layers.atrous import AtrousConv2d, leave_out_unseen_taps
from segkit.models.networks.smp import SmpSegmenter


def pair(**arguments: object) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The same convolution twice, the second one prepared."""
    plain = nn.Conv2d(4, 4, **arguments).double()  # pyright: ignore[reportArgumentType]
    prepared = copy.deepcopy(plain)
    leave_out_unseen_taps(prepared)
    return plain, prepared


def multiply_adds(layer: nn.Module, size: tuple[int, int]) -> int:
    with FlopCounterMode(display=False) as counter:
        layer(torch.zeros(1, 4, *size, dtype=torch.float64))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("size", "taps"),
    [
        ((7, 7), 9),  # from the middle of the map, a tap 6 away; from its corner, all taps on one side
        ((6, 6), 1),  # 6 away is always outside
        ((7, 6), 3),
        ((6, 7), 3),
        ((1, 1), 1),
    ],
)
def test_work_is_done_for_the_taps_that_can_see(size: tuple[int, int], taps: int):
    plain, prepared = pair(kernel_size=3, padding=6, dilation=6)
    assert multiply_adds(plain, size) == size[0] * size[1] * 4 * 4 * 9
    assert multiply_adds(prepared, size) == size[0] * size[1] * 4 * 4 * taps


@settings(max_examples=150, deadline=None)
@given(
    kernel=st.tuples(st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 3, 5, 7])),
    rates=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    groups=st.sampled_from([1, 4]),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_results_and_gradients_are_those_of_the_whole_kernel(
    kernel: tuple[int, int], rates: tuple[int, int], size: tuple[int, int], groups: int, bias: bool, seed: int
):
    torch.manual_seed(seed)
    padding = tuple(side // 2 * rate for side, rate in zip(kernel, rates, strict=True))
    layers = pair(kernel_size=kernel, padding=padding, dilation=rates, groups=groups, bias=bias)
    assert isinstance(layers[1], AtrousConv2d) == (max(rates) > 1)
    images, direction = torch.randn(2, 2, 4, *size, dtype=torch.float64)
    found: list[list[torch.Tensor]] = []
    for layer in layers:
        image = images.clone().requires_grad_()
        result = layer(image)
        result.backward(direction)
        gradients = [parameter.grad for parameter in layer.parameters()]
        assert image.grad is not None
        found.append([result, image.grad, *(gradient for gradient in gradients if gradient is not None)])
    assert len(found[0]) == len(found[1]) == 3 + bias
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "other",
    [
        {"kernel_size": 3, "padding": 1},  # no rate
        {"kernel_size": 3, "padding": 4, "dilation": 2},  # a larger map
        {"kernel_size": 3, "padding": 2, "dilation": 2, "stride": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2, "padding_mode": "reflect"},  # padding that is seen
        {"kernel_size": 2, "padding": 1, "dilation": 2},
        {"kernel_size": 3, "padding": "same", "dilation": 2},
    ],
)
def test_other_convolutions_are_left_alone(other: dict[str, object]):
    assert type(pair(**other)[1]) is nn.Conv2d


def test_an_exported_graph_is_one_for_all_sizes():
    plain, prepared = pair(kernel_size=3, padding=6, dilation=6)
    any_size = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    small, large = (torch.randn(1, 4, size, size, dtype=torch.float64) for size in (3, 20))
    exported = torch.export.export(prepared, (small,), dynamic_shapes=(any_size,)).module()
    for images in (small, large):
        torch.testing.assert_close(exported(images), plain(images))


@pytest.mark.parametrize("decoder", ["deeplabv3", "deeplabv3plus"])
def test_networks_of_smp_keep_their_parameters_and_their_logits(decoder: str):
    own = SmpSegmenter(decoder, "test_resnet", num_classes=3, mean=[0.5] * 3, std=[0.25] * 3).eval()  # pyright: ignore[reportArgumentType]
    theirs = smp.create_model(decoder, "tu-test_resnet", encoder_weights=None, classes=3).eval()
    theirs.load_state_dict(own.network.state_dict())
    assert sum(isinstance(layer, AtrousConv2d) for layer in own.modules()) >= 3
    images = torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(own.network(images), theirs(images))
