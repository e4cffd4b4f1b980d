"""Logits at the size of a mask, and the labels they stand for there. Imports nothing of segkit.

Shape suffixes: B images, C classes, K some of them, H W full-size pixels, h w pixels at a head's own stride.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements worked on at once: CPUs keep these in their caches; GPUs want few, large kernels.
CPU_ELEMENTS, GPU_ELEMENTS = 1 << 18, 1 << 26
# Share of the 2 x 2 neighbours with different winners above which it does not pay to look who else may win there.
CONTESTED = 0.5
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

    As `resize_logits(logits, size).argmax(dim=1)`, which, unless it is float64, never is in memory: some classes at a
    time are resized and held against the best so far. Another class than there is chosen only where two logits differ
    by no more than rounding: the CPU's kernel may round one class otherwise than several. Of logits that hold NaN
    any class may be chosen.
    """
    if logits.dtype == torch.float64:  # whose kernel rounds one class otherwise than several
        return resize_logits(logits, size).argmax(dim=1).to(_label_type(logits.shape[1]))
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

    As `resize_logits(logits, size) > 0` but for rounding; the resized logits never are in memory.
    """
    if logits.dtype == torch.float64:
        return (resize_logits(logits, size) > 0).to(torch.uint8)
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

    A resized logit is a mean of 2 x 2 neighbours, with weights that are the same for all classes. Who is below another
    class, or below the mean of several, in all four, is below it in between too, where one of the several is no
    lower. So only those classes are left that are first, or all but first, at some logit, or not below the mean of
    the winners between neighbours with different ones. Of many classes they are few in most images.
    """
    classes, height, width = logits_Chw.shape
    every = list(range(classes))
    # Far more than the rounding of a weighted mean of four, so that who is left out cannot even draw.
    least, largest = torch.aminmax(logits_Chw)
    margin = 1e-5 * torch.maximum(-least, largest)
    best_hw = logits_Chw.amax(dim=0)
    winner_hw = _argmax(logits_Chw[None], [slice(index, index + 1) for index in every], (height, width))[0]
    # Along an edge of length 1 the only pixel is its own neighbour.
    rows, columns = (torch.arange(max(edge, 2)).clamp(max=edge - 1) for edge in (height, width))
    corners_hw = rows[:, None] * width + columns
    pair = slice(None, -1), slice(1, None)
    corners_4N = torch.stack([corners_hw[y, x].flatten() for y, x in product(pair, pair)])
    winner_4N = winner_hw.flatten().long()[corners_4N]
    corners_4M = corners_4N[:, (winner_4N != winner_4N[0]).any(dim=0)]
    if corners_4M.shape[1] > CONTESTED * corners_4N.shape[1]:
        return every
    # Not "at least", so that NaN stays.
    left = (logits_Chw < best_hw - margin).flatten(1).all(dim=1).logical_not()
    for part_4M in corners_4M.split(max(1, CPU_ELEMENTS // (4 * classes)), dim=1):
        at_C4M = logits_Chw.flatten(1)[:, part_4M]
        winners_44M = at_C4M.gather(0, winner_hw.flatten().long()[part_4M][:, None].expand(-1, 4, -1))
        left |= (at_C4M < winners_44M.mean(dim=0) - margin).all(dim=1).all(dim=1).logical_not()
    return left.nonzero().flatten().tolist()


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
