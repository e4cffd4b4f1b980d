"""Every loss as the literature prints it: float64, one-hot masks, full-size logits, no concern for memory.

Shares no code with segkit. Shape suffixes: B batch, C classes, H W pixels, N = H W.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

IGNORE = 255
CLASSES = 4
WEIGHTS = [0.5, 2.0, 1.0, 0.0]
NAMES = [
    "ce",
    "dice",
    "generalised_dice",
    "iou",
    "tversky",
    "focal_tversky",
    "focal",
    "combined",
    "dice_bce",
    "lovasz",
    "ohem",
    "boundary",
]


def one_hot(mask: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Truth and validity (B, C, H, W) float64 of a mask (B, H, W) or (B, C, H, W)."""
    if mask.dim() == 4:
        return (mask == 1).double(), (mask != IGNORE).double()
    valid = (mask != IGNORE).unsqueeze(1).double()
    truth = F.one_hot(torch.where(mask == IGNORE, 0, mask.long()), classes).movedim(-1, 1) * valid
    return truth, valid.expand_as(truth)


def reference(name: str, logits: Tensor, mask: Tensor, weights: list[float] | None = None) -> Tensor:
    """The loss of float64 logits of any size."""
    logits = F.interpolate(logits, size=mask.shape[-2:], mode="bilinear", align_corners=False)
    truth, valid = one_hot(mask, logits.shape[1])
    w = torch.ones(logits.shape[1]).double() if weights is None else torch.tensor(weights).double()
    if name == "combined":
        return cross_entropy(logits, truth, valid, mask, w) + region("dice", logits, truth, valid, mask, w * 0 + 1)
    if name == "dice_bce":
        bce = binary_cross_entropy(logits, truth, valid, w)
        p = logits.sigmoid() * valid
        dice = 1 - (2 * total(p * truth) + 1) / (total(p) + total(truth) + 1)
        return 0.7 * dice.mean() + 0.3 * bce
    function = {
        "ce": cross_entropy,
        "ohem": ohem,
        "focal": focal,
        "lovasz": lovasz,
        "boundary": boundary,
        "generalised_dice": generalised_dice,
    }.get(name)
    if function is None:
        return region(name, logits, truth, valid, mask, w)
    return function(logits, truth, valid, mask, w)


def total(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.sum(dim=(2, 3))


def probabilities(logits: Tensor, mask: Tensor) -> Tensor:
    return logits.sigmoid() if mask.dim() == 4 else logits.softmax(dim=1)


def over(numerator: Tensor, denominator: Tensor) -> Tensor:
    return numerator / denominator if denominator > 0 else 0 * numerator


def binary_cross_entropy(logits: Tensor, truth: Tensor, valid: Tensor, w: Tensor) -> Tensor:
    w = w.view(-1, 1, 1)
    terms = truth * logits.sigmoid().log() + (valid - truth) * (-logits).sigmoid().log()
    return over(-(w * terms).sum(), (w * valid).sum())


def cross_entropy(logits: Tensor, truth: Tensor, valid: Tensor, mask: Tensor, w: Tensor) -> Tensor:
    if mask.dim() == 4:
        return binary_cross_entropy(logits, truth, valid, w)
    w = w.view(-1, 1, 1)
    return over(-(w * truth * logits.softmax(dim=1).log()).sum(), (w * truth).sum())


def ohem(logits: Tensor, truth: Tensor, valid: Tensor, mask: Tensor, w: Tensor) -> Tensor:
    p = probabilities(logits, mask)
    if mask.dim() == 4:
        p_true, w, counts = torch.where(truth == 1, p, 1 - p), w.view(-1, 1, 1).expand_as(p), valid == 1
    else:
        p_true, w, counts = (p * truth).sum(1), (w.view(-1, 1, 1) * truth).sum(1), valid[:, 0] == 1
    p_true, w = p_true[counts], w[counts]
    kept = max(-(-len(p_true) // 16), int((p_true < 0.7).sum()))
    order = p_true.argsort()[:kept]
    return over(-(w * p_true.log())[order].sum(), w[order].sum()) + 0 * logits.sum()


def focal(logits: Tensor, truth: Tensor, valid: Tensor, mask: Tensor, w: Tensor) -> Tensor:
    p, w = probabilities(logits, mask), w.view(-1, 1, 1)
    terms = -0.25 * w * truth * (1 - p) ** 2 * p.log()
    if mask.dim() == 4:
        terms = terms - 0.75 * w * (valid - truth) * p**2 * (1 - p).log()
        return over(terms.sum(), valid.sum())
    return over(terms.sum(), truth.sum())


def region(name: str, logits: Tensor, truth: Tensor, valid: Tensor, mask: Tensor, w: Tensor) -> Tensor:
    p = probabilities(logits, mask) * valid
    overlap, predicted, actual = total(p * truth), total(p), total(truth)
    if name == "dice":
        loss = 1 - (2 * overlap + 1) / (predicted + actual + 1)
    elif name == "iou":
        loss = 1 - (overlap + 1) / (total(p + truth - p * truth) + 1)
    else:
        wrong = 0.3 * total(p * (1 - truth)) + 0.7 * total(truth * (1 - p))
        loss = 1 - (overlap + 0.5) / (overlap + wrong + 0.5)
    if name == "focal_tversky":
        loss = torch.where(loss > 1e-12, loss.clamp_min(1e-12) ** 0.75, 0)
    return (loss * w).sum(dim=1).mean() / w.sum()


def generalised_dice(logits: Tensor, truth: Tensor, valid: Tensor, mask: Tensor, w: Tensor) -> Tensor:
    p = probabilities(logits, mask) * valid
    losses = []
    for p_CHW, truth_CHW in zip(p, truth, strict=True):
        sizes = truth_CHW.sum(dim=(1, 2))
        present = sizes > 0
        largest = (1 / sizes[present].min() ** 2) if present.any() else torch.tensor(1.0).double()
        v = w * torch.where(present, 1 / sizes.clamp_min(1) ** 2, largest)
        numerator = 2 * (v * (p_CHW * truth_CHW).sum(dim=(1, 2))).sum() + largest
        losses.append(1 - numerator / ((v * (p_CHW + truth_CHW).sum(dim=(1, 2))).sum() + largest))
    return torch.stack(losses).mean()


def lovasz(logits: Tensor, truth: Tensor, valid: Tensor, mask: Tensor, w: Tensor) -> Tensor:
    """Each error times the growth of 1 - IoU when its pixel joins the wrong ones, sets counted one by one."""
    multilabel = mask.dim() == 4
    p = logits.softmax(dim=1)
    losses, weights = [0 * logits.sum()], [torch.tensor(0.0).double()]
    for number in range(logits.shape[1]):
        counts = valid[:, number] == 1
        y, weight = truth[:, number][counts], w[number]
        if not (counts.any() if multilabel else y.any()):
            continue
        z = logits[:, number][counts]
        errors = (1 - z * (2 * y - 1)).clamp_min(0) if multilabel else (y - p[:, number][counts]).abs()
        order = errors.argsort(descending=True, stable=True)
        wrong = torch.ones(len(y), len(y)).double().tril()  # row i: the i + 1 largest errors
        y = y[order]
        left = (y * (1 - wrong)).sum(dim=1)
        union = torch.maximum(y.expand_as(wrong), wrong).sum(dim=1)
        growth = (1 - left / union).diff(prepend=torch.zeros(1).double())
        losses.append(weight * (errors[order] * growth).sum())
        weights.append(weight)
    return over(torch.stack(losses).sum(), torch.stack(weights).sum())


def boundary(logits: Tensor, truth: Tensor, valid: Tensor, mask: Tensor, w: Tensor) -> Tensor:
    """Distances by measuring all pairs of pixels."""
    p = probabilities(logits, mask)
    batch, classes, height, width = p.shape
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double()
    losses = 0 * p
    for sample in range(batch):
        for number in range(classes):
            y, v = truth[sample, number].flatten() == 1, valid[sample, number].flatten() == 1
            if not (y.any() and (v & ~y).any()):
                continue
            to_class = torch.cdist(places, places[y]).amin(dim=1)
            to_others = torch.cdist(places, places[v & ~y]).amin(dim=1)
            signed = torch.where(y, 1 - to_others, to_class) * v
            losses[sample, number] = signed.view(height, width) * p[sample, number]
    share = w / w.sum()
    if mask.dim() == 4:
        return sum(over(losses[:, k].sum() * share[k], valid[:, k].sum()) for k in range(classes))
    return over((losses * share.view(-1, 1, 1)).sum(), valid[:, 0].sum())


@st.composite
def cases(draw: st.DrawFn, *, multilabel: bool = False) -> tuple[Tensor, Tensor]:
    """Float64 logits and a mask, sizes of their own: classes absent, one class only, ignored pixels, all ignored."""
    batch, *sizes = (draw(st.integers(1, upper)) for upper in (3, 6, 6, 7, 7))
    if draw(st.booleans()):
        sizes[:2] = sizes[2:]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = 3 * torch.randn(batch, CLASSES, *sizes[:2], generator=generator, dtype=torch.float64)
    values = [0, 1, IGNORE] if multilabel else [0, 1, 2, IGNORE]
    present = torch.tensor(draw(st.lists(st.sampled_from(values), min_size=1, max_size=4)))
    shape = (batch, CLASSES, *sizes[2:]) if multilabel else (batch, *sizes[2:])
    return logits, present[torch.randint(len(present), shape, generator=generator)].to(torch.uint8)
