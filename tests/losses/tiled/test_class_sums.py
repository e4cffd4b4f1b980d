"""The sums without full-size logits: exact, lean, and the same under whatever surrounds them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from segkit.contracts import Prediction
from segkit.losses.combined import CombinedLoss
from segkit.losses.tiled.class_sums import class_sums, pixel_nll
from segkit.losses.tiled.probabilities import Reading
from tests.composed import experiment
from tests.harness.options import options
from tests.losses.reference import IGNORE
from tests.losses.test_base import value_and_gradient
from tests.losses.tiled.test_resize import small_tiles, threads

READINGS = [
    Reading(IGNORE),
    Reading(IGNORE, gamma=2.0),
    Reading(IGNORE, gamma=0.5, uniform=True),
    Reading(IGNORE, sigmoid=True),
    Reading(IGNORE, sigmoid=True, gamma=2.0, uniform=True),
]


def case(seed: int, logits: tuple[int, ...], size: tuple[int, int], channels: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (*logits[:2], *size) if channels else (logits[0], *size)
    mask = torch.randint(2 if channels else logits[1], shape, generator=generator)
    mask[torch.rand(shape, generator=generator) < 0.2] = IGNORE
    return 3 * torch.randn(logits, generator=generator, dtype=torch.float64), mask.to(torch.uint8)


def stacked(logits: Tensor, mask: Tensor, reading: Reading) -> Tensor:
    sums = class_sums(logits, mask, reading)
    return torch.stack([sums.overlap, sums.predicted, sums.nll, sums.nll_absent, sums.uniform])


def plain_cross_entropy_and_dice(logits: Tensor, mask: Tensor, smoothing: float, weights: Tensor | None) -> Tensor:
    """What everyone writes: full-size logits and a one-hot mask."""
    classes = logits.shape[1]
    full = F.interpolate(logits, size=mask.shape[-2:], mode="bilinear", align_corners=False)
    weight = None if weights is None else weights.to(logits.dtype)
    ce = F.cross_entropy(full, mask.long(), weight=weight, ignore_index=IGNORE, label_smoothing=smoothing)
    valid = (mask != IGNORE).unsqueeze(1)
    truth = F.one_hot(torch.where(mask == IGNORE, 0, mask.long()), classes).movedim(-1, 1) * valid
    p = full.softmax(dim=1) * valid
    overlap, predicted, actual = ((p * truth).sum((2, 3)), p.sum((2, 3)), truth.sum((2, 3)))
    return ce + (1 - (2 * overlap + 1) / (predicted + actual + 1)).mean()


@settings(max_examples=40, deadline=None)
@given(
    classes=st.integers(2, 8),
    sizes=st.tuples(*[st.integers(1, 12)] * 4),
    smoothing=st.sampled_from([0.0, 0.1]),
    weighted=st.booleans(),
    tiles=st.sampled_from([nullcontext, small_tiles, lambda: threads(2)]),
    seed=st.integers(0, 1000),
)
def test_cross_entropy_and_dice_equal_interpolate_and_the_library(
    classes: int, sizes: tuple[int, ...], smoothing: float, weighted: bool, tiles: Callable[[], Any], seed: int
) -> None:
    logits, mask = case(seed, (2, classes, *sizes[:2]), sizes[2:], channels=False)
    if (mask == IGNORE).all():
        return  # the library gives NaN
    weights = torch.linspace(0.25, 2, classes) if weighted else None
    loss = CombinedLoss(
        num_classes=classes,
        ignore_index=IGNORE,
        label_smoothing=smoothing,
        class_weights=None if weights is None else weights.tolist(),
    )
    expected, slope = value_and_gradient(lambda x: plain_cross_entropy_and_dice(x, mask, smoothing, weights), logits)
    with tiles():
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
            value, gradient = value_and_gradient(lambda x: loss(Prediction(x), mask).total, logits.to(dtype))
            torch.testing.assert_close(value, expected, atol=tolerance, rtol=tolerance)
            torch.testing.assert_close(gradient, slope, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize(("logits", "size"), [((2, 3), (5, 4)), ((2, 3), (2, 3)), ((4, 3), (2, 2))])
def test_the_gradient_is_the_derivative(reading: Reading, logits: tuple[int, int], size: tuple[int, int]) -> None:
    for channels in (False, True) if reading.sigmoid else (False,):
        given_logits, mask = case(0, (1, 3, *logits), size, channels)
        with small_tiles(elements=300):
            assert torch.autograd.gradcheck(lambda x, m=mask: stacked(x, m, reading), given_logits.requires_grad_())


@pytest.mark.parametrize("reading", READINGS)
def test_the_size_of_the_tiles_changes_nothing_but_the_last_digits(reading: Reading) -> None:
    logits, mask = case(1, (3, 5, 9, 11), (31, 40), channels=reading.sigmoid)
    whole = value_and_gradient(lambda x: stacked(x, mask, reading).square().sum(), logits)
    with small_tiles():
        tiled = value_and_gradient(lambda x: stacked(x, mask, reading).square().sum(), logits)
    with threads(3):
        shared = value_and_gradient(lambda x: stacked(x, mask, reading).square().sum(), logits)
    torch.testing.assert_close(tiled, whole, atol=1e-10, rtol=1e-11)
    torch.testing.assert_close(shared, whole, atol=1e-10, rtol=1e-11)


class _Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.elements, self.operation = 0, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor) and tensor.numel() > self.elements:
                self.elements, self.operation = tensor.numel(), str(func)
        return result


# All but the loss of queries, whose masks are no logits of classes.
@pytest.mark.parametrize("option", [option for option in options("loss") if option != "set_prediction"])
@pytest.mark.parametrize("learning", [True, False], ids=["training", "evaluation"])
def test_no_operation_gives_full_size_logits(option: str, learning: bool) -> None:
    """(1, 24, 128, 128) from stride 4: nothing as large as a sixth of that is ever there."""
    classes = ["dataset.num_classes=24", "dataset.class_names=null", "dataset.colors=null"]
    loss = experiment(f"loss={option}", *classes).loss()
    logits = torch.randn(1, 24, 32, 32, requires_grad=learning)
    mask = torch.randint(24, (1, 128, 128), dtype=torch.uint8)
    with _Largest() as largest, torch.inference_mode(not learning):
        total = loss(Prediction(logits), mask).total
        if learning:
            total.backward()
    assert largest.elements >= logits.numel() * learning
    assert largest.elements < 24 * 128 * 128 / 6, largest.operation


def test_the_default_loss_is_the_lean_one() -> None:
    loss = experiment().loss()
    assert isinstance(loss, CombinedLoss)
    seen: list[int] = []

    def counted(logits: Tensor, *rest: Any) -> Any:
        seen.append(logits.numel())
        return class_sums(logits, *rest)

    with patch("segkit.losses.base.class_sums", counted):
        loss(Prediction(torch.randn(1, 7, 4, 4)), torch.randint(7, (1, 16, 16)))
    assert seen == [7 * 4 * 4], "cross-entropy and Dice share one pass over the logits"


def test_no_value_is_brought_to_the_host() -> None:
    """On a GPU that would make each step wait for the one before it."""

    class NoHost(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert func is not torch.ops.aten._local_scalar_dense.default, "a tensor was read on the host"
            return func(*args, **(kwargs or {}))

    loss = CombinedLoss(
        num_classes=5, ignore_index=IGNORE, class_weights=[1.0, 2.0, 0.0, 1.0, 1.0], label_smoothing=0.1
    )
    logits, mask = case(0, (2, 5, 4, 4), (16, 16), channels=False)
    with NoHost():
        loss(Prediction(logits.requires_grad_()), mask).total.backward()


def surrounded_by_autocast(run: Callable[[], Any]) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return run()


def surrounded_by_low_precision(run: Callable[[], Any]) -> Any:
    torch.set_float32_matmul_precision("medium")
    try:
        return run()
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("surrounded", [surrounded_by_autocast, surrounded_by_low_precision])
def test_the_resizing_loses_no_digits_to_its_surroundings(surrounded: Callable[..., Any]) -> None:
    loss = CombinedLoss(num_classes=5, ignore_index=IGNORE)
    logits, mask = case(0, (2, 5, 16, 16), (64, 64), channels=False)

    def run() -> tuple[Tensor, Tensor]:
        return value_and_gradient(lambda x: loss(Prediction(x), mask).total, logits.float())

    for alone, inside in zip(run(), surrounded(run), strict=True):
        assert torch.equal(alone, inside)


def test_the_same_input_gives_the_same_bits() -> None:
    loss = CombinedLoss(num_classes=5, ignore_index=IGNORE)
    logits, mask = case(0, (2, 5, 16, 16), (61, 64), channels=False)
    with threads(2), small_tiles(elements=1000):
        runs = [value_and_gradient(lambda x: loss(Prediction(x), mask).total, logits.float()) for _ in range(5)]
    for run in runs[1:]:
        assert torch.equal(run[0], runs[0][0])
        assert torch.equal(run[1], runs[0][1])


@pytest.mark.slow
def test_a_compiled_loss_is_the_loss() -> None:
    loss = CombinedLoss(num_classes=5, ignore_index=IGNORE)
    logits, mask = case(0, (2, 5, 8, 8), (32, 32), channels=False)
    compiled = torch.compile(loss, backend="aot_eager")
    expected = value_and_gradient(lambda x: loss(Prediction(x), mask).total, logits)
    torch.testing.assert_close(value_and_gradient(lambda x: compiled(Prediction(x), mask).total, logits), expected)


def test_extreme_logits_lose_nothing() -> None:
    """Half a pixel between two certain ones: both classes at -500 below their neighbours, and still one half each."""
    logits = torch.full((1, 3, 1, 2), -1000.0)
    logits[0, 0, 0, 0] = logits[0, 1, 0, 1] = 1000
    mask = torch.zeros(1, 1, 3, dtype=torch.uint8)
    nll = pixel_nll(logits, mask, Reading(IGNORE))
    torch.testing.assert_close(nll, torch.tensor([[[0.0, 0.6931472, 2000.0]]]))


def test_sums_of_a_large_image_lose_nothing() -> None:
    """2 million pixels of p = 0.01 sum to 20,972; adding them up in float32 gives 20,580."""
    logits = torch.tensor([0.01, 0.99]).log().view(1, 2, 1, 1)
    sums = class_sums(logits, torch.zeros(1, 1024, 2048, dtype=torch.uint8), Reading(IGNORE))
    assert sums.overlap[0, 0].item() == pytest.approx(0.01 * 2**21, rel=1e-6)
    assert sums.predicted[0, 0].item() == pytest.approx(0.01 * 2**21, rel=1e-6)
    assert sums.truth.tolist() == [[2**21, 0]]


@pytest.mark.gpu
@pytest.mark.parametrize("reading", READINGS)
def test_a_gpu_gives_what_the_cpu_gives(reading: Reading) -> None:
    logits, mask = case(0, (2, 5, 16, 16), (61, 64), channels=reading.sigmoid)
    expected = value_and_gradient(lambda x: stacked(x, mask, reading).square().sum(), logits)
    found = value_and_gradient(lambda x: stacked(x, mask.cuda(), reading).square().sum(), logits.cuda())
    torch.testing.assert_close([x.cpu() for x in found], list(expected), atol=1e-10, rtol=1e-10)
