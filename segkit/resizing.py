"""Logits at the size of a mask, and the labels they stand for there. Imports nothing of segkit.

Shape suffixes: B images, C classes, K some of them, H W full-size pixels, h w pixels at a head's own stride.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements worked on at once: CPUs keep these in their caches; GPUs want few, large kernels.
CPU_ELEMENTS, GPU_ELEMENTS = 1 << 18, 1 << 26
# Pixels of each class worked on at once where logits have the size already.
CPU_PIXELS = 1 << 15


def resize_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (B, C, H, W) at `size` = (H, W), bilinear with pixel areas aligned (align_corners=False).

    In float32, unless they are float64: rounded to half precision, many would be equal that are not. The bits do not
    depend on the memory format. Logits that have the size already are given back as they are.

    The one place where logits change size, so that training, evaluation and export agree.
    """
    if _have_size(logits, size):
        return logits
    return F.interpolate(_plain(logits), size=(int(size[0]), int(size[1])), mode="bilinear", align_corners=False)


@torch.no_grad()
def resized_argmax(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Class ids (B, H, W) at `size`, uint8 for up to 256 classes, else int32, of logits (B, C, h, w).

    Bit for bit `resize_logits(logits, size).argmax(dim=1)`, which never is in memory: some classes at a time are
    resized and held against the best so far. Not rows at a time, since the last bits of a bilinear weight depend on
    where its row stands. Of logits that hold NaN any class may be chosen.
    """
    if logits.device.type != "cpu":
        return _argmax_in_groups(logits, size)
    (batch, classes), (height, width) = logits.shape[:2], size
    labels_BHW = torch.empty(batch, height, width, dtype=_label_type(classes))
    each = [slice(index, index + 1) for index in range(classes)]
    rows = max(1, CPU_PIXELS // width)
    for labels_HW, own in zip(labels_BHW, logits.split(1), strict=True):
        if _have_size(logits, size):
            for part, band in zip(labels_HW.split(rows), own.split(rows, dim=2), strict=True):
                part.copy_(_argmax(_plain(band), each, part.shape)[0])
        else:
            own = _plain(own)
            labels_HW.copy_(_argmax(own, [each[index] for index in contenders(own[0])], size)[0])
    return labels_BHW


@torch.no_grad()
def resized_signs(logits: Tensor, size: Sequence[int]) -> Tensor:
    """1 where logits (B, C, h, w) are positive at `size`, else 0, as uint8 (B, C, H, W).

    Bit for bit `resize_logits(logits, size) > 0`, which never is in memory.
    """
    batch, classes = logits.shape[:2]
    positive = torch.empty(batch, classes, *size, dtype=torch.bool, device=logits.device)
    elements = CPU_ELEMENTS if logits.device.type == "cpu" else GPU_ELEMENTS
    images, at_once = _planes_at_once(logits, size, elements)
    for image, first in product(range(0, batch, images), range(0, classes, at_once)):
        part = slice(image, image + images), slice(first, first + at_once)
        torch.gt(resize_logits(logits[part], size), 0, out=positive[part])
    return positive.view(torch.uint8)


def contenders(logits_Chw: Tensor) -> list[int]:
    """The classes of an image on the CPU that may have the largest logit somewhere once resized, in ascending order.

    A resized logit lies between the least and the largest of the 2 x 2 logits that it is made from. A class whose
    largest is below another's least wins nowhere between them: in most images few of many classes are left.
    """
    groups = logits_Chw.split(max(1, CPU_ELEMENTS // logits_Chw[0].numel()))
    least = torch.stack([_of_windows(group, torch.minimum).amax(dim=0) for group in groups]).amax(dim=0)
    # Far more than the rounding of a weighted mean of four, so that those left out cannot even draw.
    least -= 1e-5 * max(group.abs().max() for group in groups)
    # Not "somewhere above": NaN is neither, and stays.
    beaten = [(_of_windows(group, torch.maximum) < least).flatten(1).all(dim=1) for group in groups]
    return torch.cat(beaten).logical_not().nonzero().flatten().tolist()


def _of_windows(planes: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`function` over all windows of 2 x 2 neighbours of (..., h, w); of 1 along an edge of length 1."""
    for dimension in (-2, -1):
        length = planes.shape[dimension] - 1
        if length:
            planes = function(planes.narrow(dimension, 0, length), planes.narrow(dimension, 1, length))
    return planes


def _argmax_in_groups(logits: Tensor, size: Sequence[int]) -> Tensor:
    """`resized_argmax` without a look at the logits from the host, which would have to wait for a GPU."""
    batch, classes = logits.shape[:2]
    if _have_size(logits, size):
        return logits.argmax(dim=1).to(_label_type(classes))
    images, at_once = _planes_at_once(logits, size, GPU_ELEMENTS)
    groups = [slice(first, first + at_once) for first in range(0, classes, at_once)]
    parts = [_argmax(logits[first : first + images], groups, size) for first in range(0, batch, images)]
    return torch.cat(parts).to(_label_type(classes))


def _argmax(logits_BChw: Tensor, groups: Sequence[slice], size: Sequence[int]) -> Tensor:
    """The class with the largest resized logit, the lowest of equals, as floats (B, H, W); groups ascend."""
    best, ids = _largest(logits_BChw, groups[0], size)
    labels, is_better = ids.expand_as(best), torch.empty_like(best)
    for group in groups[1:]:
        other, ids = _largest(logits_BChw, group, size)
        # In floats, by maxima, since ids ascend: masks and `where` take many times as long on a CPU.
        torch.gt(other, best, out=is_better)
        labels = torch.maximum(labels, is_better.mul_(ids))
        best = torch.maximum(best, other)
    return labels


def _largest(logits_BChw: Tensor, group: slice, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The largest resized logit of some classes, and which class it is, both floats (B, H, W)."""
    resized_BKHW = resize_logits(logits_BChw[:, group], size)
    if resized_BKHW.shape[1] == 1:
        return resized_BKHW[:, 0], resized_BKHW.new_full((), group.start)
    best, index = resized_BKHW.max(dim=1)
    return best, index.to(best.dtype).add_(group.start)


def _planes_at_once(logits: Tensor, size: Sequence[int], elements: int) -> tuple[int, int]:
    """How many images, and classes of each, are resized together."""
    planes = max(1, elements // (size[0] * size[1]))
    images = min(len(logits), planes)
    return images, min(logits.shape[1], max(1, planes // images))


def _label_type(classes: int) -> torch.dtype:
    return torch.uint8 if classes <= 256 else torch.int32


def _plain(logits: Tensor) -> Tensor:
    """In float32 or float64 and contiguous: channels-last logits would take a kernel that rounds otherwise."""
    return logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32).contiguous()


def _have_size(logits: Tensor, size: Sequence[int]) -> bool:
    return tuple(logits.shape[-2:]) == tuple(size)
