"""Atrous convolutions without the taps that meet nothing but padding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segkit.models.layers.atrous import AtrousConv2d
from tests.composed import experiment


def pair(
    kernel_size: int | tuple[int, int], dilation: int | tuple[int, int], groups: int = 1, bias: bool = True
) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The same convolution twice, the first one with PyTorch's own class."""
    atrous = AtrousConv2d(4, 4, kernel_size, dilation, groups, bias).double()
    plain = nn.Conv2d(
        4, 4, atrous.kernel_size, padding=atrous.padding, dilation=atrous.dilation, groups=groups, bias=bias
    ).double()
    plain.load_state_dict(atrous.state_dict())
    return plain, atrous


def build(option: str) -> nn.Module:
    made = experiment(f"model={option}")
    return made.recipe.build("model", filled=made.filled())


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
    plain, atrous = pair(3, 6)
    assert multiply_adds(plain, size) == size[0] * size[1] * 4 * 4 * 9
    assert multiply_adds(atrous, size) == size[0] * size[1] * 4 * 4 * taps


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
    layers = pair(kernel, rates, groups, bias)
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


def test_an_exported_graph_is_one_for_all_sizes():
    plain, atrous = pair(3, 6)
    any_size = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    small, large = (torch.randn(1, 4, size, size, dtype=torch.float64) for size in (3, 20))
    exported = torch.export.export(atrous, (small,), dynamic_shapes=(any_size,)).module()
    for images in (small, large):
        torch.testing.assert_close(exported(images), plain(images))


@pytest.mark.parametrize("option", ["deeplabv3", "deeplabv3plus", "enet"])
def test_models_are_built_with_it(option: str):
    """Every convolution of theirs with a rate; the backbone's are as timm builds them."""
    model = build(option)
    backbone = set(getattr(model, "backbone", nn.Module()).modules())
    atrous = [part for part in model.modules() if isinstance(part, nn.Conv2d) and max(part.dilation) > 1]
    own = [part for part in atrous if part not in backbone]
    assert len(own) == (8 if option == "enet" else 3)
    assert all(type(part) is AtrousConv2d for part in own)
