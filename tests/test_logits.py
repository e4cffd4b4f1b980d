"""Labels at the size of the mask, against those of the whole resized logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from segkit import logits as resizing
from segkit.logits import contenders, resize_logits, resized_argmax, resized_signs

EDGE = st.integers(1, 40)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, tuple[int, int]]:
    """Logits of any type, memory format and contrast, with ties, and a size: larger, smaller or the same."""
    batch, classes = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 8, 19, 270]))
    height, width, seed = draw(EDGE), draw(EDGE), draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, height, width, generator=generator)
    kind = draw(st.sampled_from(["noise", "smooth", "ties", "constant", "few", "areas", "huge"]))
    if kind == "smooth":
        logits = F.interpolate(logits[:, :, :2, :2], size=(height, width), mode="bilinear")
    elif kind == "ties":
        logits = logits.round()
    elif kind == "constant":
        logits = torch.zeros_like(logits)
    elif kind == "few":
        logits[:, 2:] -= 20
    elif kind == "areas":
        winner = torch.randint(classes, (batch, 1, 2, 2), generator=generator).float()
        winner = F.interpolate(winner, size=(height, width)).long()
        logits.scatter_add_(1, winner, torch.full(winner.shape, 4.0))
    elif kind == "huge":
        logits *= 1e30
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
    layout = draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
    stride = draw(st.sampled_from([None, 1, 2, 4, 0.5]))
    size = (draw(EDGE), draw(EDGE)) if stride is None else (int(height * stride) or 1, int(width * stride) or 1)
    return logits.to(dtype).contiguous(memory_format=layout), size


def assert_best(labels: Tensor, whole: Tensor) -> None:
    """The labels are the argmax, but where two logits are equal up to rounding."""
    chosen, best = whole.float().gather(1, labels[:, None].long())[:, 0], whole.float().amax(dim=1)
    differs = labels.long() != whole.argmax(dim=1)
    assert (best - chosen)[differs].le(1e-6 * whole.abs().max()).all()


@settings(max_examples=150, deadline=None)
@given(case=cases(), elements=st.sampled_from([1, 50, 1 << 18]))
def test_labels_are_those_of_the_whole_resized_logits(case: tuple[Tensor, tuple[int, int]], elements: int) -> None:
    logits, size = case
    whole = resize_logits(logits, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resizing, "CPU_ELEMENTS", elements)
        patch.setattr(resizing, "CPU_PIXELS", elements)
        labels, signs = resized_argmax(logits, size), resized_signs(logits, size)
    assert_best(labels, whole)
    wrong = signs.bool() != (whole > 0)
    assert (whole[wrong].abs() <= 1e-6 * whole.abs().max()).all()
    assert (labels.dtype, signs.dtype) == (torch.uint8 if logits.shape[1] <= 256 else torch.int32, torch.uint8)


@settings(max_examples=60, deadline=None)
@given(case=cases(), elements=st.sampled_from([1, 50, 5000]))
def test_groups_of_classes_as_on_a_gpu_choose_the_same(case: tuple[Tensor, tuple[int, int]], elements: int) -> None:
    logits, size = case
    assume(logits.dtype != torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resizing, "GPU_ELEMENTS", elements)
        labels = resizing._argmax_in_groups(logits, size)
    assert_best(labels, resize_logits(logits, size))


def test_resized_logits_are_interpolated_in_float32_whatever_their_layout() -> None:
    logits = torch.randn(2, 19, 30, 41, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(logits, size=(117, 163), mode="bilinear", align_corners=False)
    assert torch.equal(resize_logits(logits.contiguous(memory_format=torch.channels_last), (117, 163)), expected)
    half = logits.bfloat16()
    assert torch.equal(resize_logits(half, (117, 163)), resize_logits(half.float(), (117, 163)))
    assert resize_logits(half, (30, 41)) is half


def test_classes_that_cannot_win_are_left_out() -> None:
    """Class 1 is first on the left, 4 on the right; 5 is second in a corner, far from where these two meet."""
    logits = torch.full((6, 4, 4), -5.0)
    logits[1], logits[4, :, 2:] = 1.0, 3.0
    logits[5, 0, 0] = 0.9
    assert contenders(logits) == [1, 4]
    logits[5, 0, 0] = 1.0  # draws, and would lose against the lower id; a margin keeps it
    assert contenders(logits) == [1, 4, 5]
    # Between 1 and 4, which fall steeply there, a class wins that is not first on either side.
    logits[5, 0, 0], logits[0, :, 1:3] = -5.0, 0.9
    logits[1, :, 2:], logits[4, :, :2] = -9.0, -9.0
    assert contenders(logits) == [0, 1, 4]


def test_a_class_that_is_nowhere_first_before_resizing_may_win_in_between() -> None:
    logits = torch.tensor([[10.0, 0.0], [0.0, 10.0], [9.0, 9.0]]).view(1, 3, 1, 2)
    assert resized_argmax(logits, (1, 8)).unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_diverged_model_still_has_labels(value: float) -> None:
    for logits in (torch.full((1, 5, 4, 4), value), torch.randn(1, 5, 4, 4).index_fill_(1, torch.tensor(2), value)):
        assert int(resized_argmax(logits, (9, 9)).max()) < 5


class Largest(TorchDispatchMode):
    """The most bytes of memory for floats that one operation asks for."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # pyright: ignore
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.is_floating_point():
            given = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, Tensor)}
            if made.untyped_storage().data_ptr() not in given:  # no view
                self.bytes = max(self.bytes, made.untyped_storage().nbytes())
        return made


@pytest.mark.parametrize("decide", [resized_argmax, resized_signs])
@pytest.mark.parametrize("stride", [1, 4])
def test_no_float_tensor_of_full_size(decide: Callable[..., Tensor], stride: int) -> None:
    logits = torch.randn(2, 32, 1024 // stride, 256 // stride).contiguous(memory_format=torch.channels_last)
    full_size = 4 * 2 * 32 * 1024 * 256
    with Largest() as largest:
        decide(logits, (1024, 256))
    assert largest.bytes <= full_size / 16


def test_the_whole_would_have_been_seen() -> None:
    with Largest() as largest:
        resize_logits(torch.randn(2, 32, 256, 64), (1024, 256))
    assert largest.bytes == 4 * 2 * 32 * 1024 * 256
