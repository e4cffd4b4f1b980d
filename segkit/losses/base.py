"""What every loss shares: sizes, precision, ignored pixels, auxiliary heads and class weights.

Losses are dataclasses: a loss adds its own options to those here, and its signature, which is what configs are
checked against, names them all. Annotations must be real types for that, hence no `annotations` import from
`__future__` in this file.

Shape suffixes: B batch, C classes, H W mask pixels, h w pixels of the logits.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor, nn

from segkit.contracts import Batch, ClassWeightMethod, LossTerms, Prediction, UserError, integer_mask
from segkit.losses.tiled.class_sums import ClassSums, class_sums
from segkit.losses.tiled.probabilities import Reading, check_in_range


class Head:
    """One head's logits beside the mask; gives the sums that losses are made of, and computes each of them once.

    Attributes:
        logits: (B, C, h, w) of any floating type.
        mask: (B, H, W) ids, or (B, C, H, W) of 0 and 1, of an integer type that can hold every class id and
            `ignore_index`. It may be the caller's own: nothing writes into it.
        ignore_index: the mask value that is left out.
    """

    def __init__(self, logits: Tensor, mask: Tensor, ignore_index: int, *, uniform: bool = False) -> None:
        self.logits = logits
        self.mask = mask
        self.ignore_index = ignore_index
        self._uniform = uniform
        self._sums: dict[tuple[bool, float], ClassSums] = {}

    @property
    def valid(self) -> Tensor:
        """Which entries of the mask count, bool in the mask's shape."""
        return self.mask != self.ignore_index

    def of_class(self, number: int) -> tuple[Tensor, Tensor]:
        """Where class `number` is and where the mask says so of it or of another, (B, H, W) bool each.

        Raises:
            RuntimeError: if a mask of channels holds anything but 0, 1 and `ignore_index`.
        """
        if self.mask.dim() == 3:
            return self.mask == number, self.valid
        mask = self.mask[:, number]
        valid = mask != self.ignore_index
        check_in_range((mask >= 0) & (mask <= 1) | ~valid)
        return mask == 1, valid

    def present(self) -> Tensor:
        """Which classes are somewhere in the batch, (C,) bool. Raises RuntimeError for ids out of range."""
        classes = self.logits.shape[1]
        if self.mask.dim() == 4:
            return torch.stack([self.of_class(number)[0].any() for number in range(classes)])
        valid = self.valid.flatten()
        ids = self.mask.long().flatten().where(valid, 0)
        counts = torch.zeros(classes, dtype=torch.int64, device=ids.device)
        return counts.scatter_add_(0, ids, valid.long()) > 0

    def sums(self, *, sigmoid: bool, gamma: float | None = None) -> ClassSums:
        """The per-class sums; without `gamma` the sums `nll` may carry any focal factor."""
        if gamma is None:
            for (made_with_sigmoid, _), sums in self._sums.items():
                if made_with_sigmoid == sigmoid:
                    return sums
            gamma = 0.0
        key = (sigmoid, gamma)
        if key not in self._sums:
            self._sums[key] = class_sums(
                self.logits, self.mask, Reading(self.ignore_index, sigmoid=sigmoid, gamma=gamma, uniform=self._uniform)
            )
        return self._sums[key]


@dataclass(kw_only=True, eq=False, repr=False)
class SegmentationLoss(nn.Module, ABC):
    """A LossTerms of logits at the heads' own strides and a full-size mask of any integer type.

    Computed in float32 (in float64 from float64 logits). Pixels of `ignore_index` change neither the loss nor its
    gradient; where all are ignored both are zero. Auxiliary heads get the same loss, each added with its weight; their
    unweighted sum is logged as part `auxiliary`.

    Args:
        num_classes: C.
        ignore_index: the mask value that is left out.
        multilabel: the mask is (B, C, H, W) of 0, 1 and `ignore_index`, and each class is scored for itself, by a
            sigmoid; for a single class a mask (B, H, W) does as well.
        auxiliary_weight: of each auxiliary head's loss, or one weight for each head by name; 0.4 is that of
            PSPNet (arXiv 1612.01105).
        class_weights: one number from 0 up for each class; None: all alike. The name of a method must have been
            replaced by its numbers before.
    """

    num_classes: int
    ignore_index: int
    multilabel: bool = False
    auxiliary_weight: float | Mapping[str, float] = 0.4
    class_weights: Sequence[float] | ClassWeightMethod | None = None
    weights: Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        nn.Module.__init__(self)
        if self.num_classes < (1 if self.multilabel else 2):
            raise UserError(
                f"loss.num_classes={self.num_classes}; allowed: from 2 up, or from 1 up with loss.multilabel=true"
            )
        weights = self.auxiliary_weight
        for name, weight in weights.items() if isinstance(weights, Mapping) else [("", weights)]:
            at_least_zero(f"auxiliary_weight{name and '.' + name}", weight)
        self.register_buffer("weights", _checked(self.class_weights, self.num_classes), persistent=False)

    def forward(self, prediction: Prediction, batch: Batch | Tensor) -> LossTerms:
        """The loss of a batch, or of its mask alone."""
        return self.over(self.heads(prediction, mask_of(batch), uniform=self.wants_uniform))

    def heads(self, prediction: Prediction, mask: Tensor, *, uniform: bool) -> dict[str, Head]:
        """The main head, as "", and the auxiliary ones by name. Raises UserError for shapes that do not fit."""
        mask = self._checked_mask(prediction, integer_mask(mask, self.ignore_index, self.num_classes - 1))
        logits = {"": prediction.logits, **prediction.auxiliary}
        return {name: Head(of_head, mask, self.ignore_index, uniform=uniform) for name, of_head in logits.items()}

    def over(self, heads: Mapping[str, Head]) -> LossTerms:
        """The loss of all heads, each with its weight."""
        terms = self.compute(heads[""])
        for name, weight in self._auxiliary_weights([name for name in heads if name]).items():
            auxiliary = self.compute(heads[name]).total
            terms.total = terms.total + weight * auxiliary
            terms.parts["auxiliary"] = terms.parts.get("auxiliary", 0) + auxiliary.detach()
        return terms

    @abstractmethod
    def compute(self, head: Head) -> LossTerms:
        """The loss of one head."""

    @property
    def wants_uniform(self) -> bool:
        """Whether the sums `uniform` are needed, by this loss or by one that it is made of."""
        return any(loss.wants_uniform for loss in self.children() if isinstance(loss, SegmentationLoss))

    def mean(self, losses_BC: Tensor) -> Tensor:
        """The mean over samples and classes, weighted with the class weights."""
        if self.weights is None:
            return losses_BC.mean()
        weights_C = self.weights.to(losses_BC.dtype)
        return (losses_BC * weights_C).mean(dim=0).sum() / weights_C.sum()

    def weighted_sum(self, sums_BC: Tensor) -> Tensor:
        """The sum over samples and classes, weighted with the class weights."""
        if self.weights is None:
            return sums_BC.sum()
        return (sums_BC * self.weights.to(sums_BC.dtype)).sum()

    def _checked_mask(self, prediction: Prediction, mask: Tensor) -> Tensor:
        if self.multilabel and self.num_classes == 1 and mask.dim() == 3:
            mask = mask.unsqueeze(1)
        batch = len(prediction.logits)
        expected = (batch, self.num_classes) if self.multilabel else (batch,)
        if mask.shape[:-2] != expected:
            raise UserError(
                f"the mask is {tuple(mask.shape)}; with loss.multilabel={str(self.multilabel).lower()} and "
                f"loss.num_classes={self.num_classes} it has to be ({', '.join(map(str, expected))}, height, width)"
            )
        for logits in (prediction.logits, *prediction.auxiliary.values()):
            if logits.shape[1] != self.num_classes:
                raise UserError(f"the model gives {logits.shape[1]} classes, but loss.num_classes={self.num_classes}")
        return mask

    def _auxiliary_weights(self, names: Sequence[str]) -> Mapping[str, float]:
        if not isinstance(self.auxiliary_weight, Mapping):
            return dict.fromkeys(names, self.auxiliary_weight)
        # In evaluation there are no auxiliary heads at all.
        if names and set(names) != set(self.auxiliary_weight):
            raise UserError(
                f"loss.auxiliary_weight is given for {', '.join(self.auxiliary_weight) or 'no head'}; the model's "
                f"auxiliary heads are {', '.join(names)}: allowed is one number for all, or one for each of these"
            )
        return {name: self.auxiliary_weight[name] for name in names}


def _checked(class_weights: Sequence[float] | str | None, num_classes: int) -> Tensor | None:
    if class_weights is None:
        return None
    if isinstance(class_weights, str):
        raise UserError(
            f"loss.class_weights={class_weights}: the method has not been applied to a data set here; "
            f"allowed: {num_classes} numbers, or null"
        )
    if len(class_weights) != num_classes:
        raise UserError(f"loss.class_weights has {len(class_weights)} entries for {num_classes} classes")
    if not all(isfinite(weight) and weight >= 0 for weight in class_weights) or sum(class_weights) == 0:
        raise UserError(
            f"loss.class_weights={list(class_weights)}; allowed: finite numbers from 0 up, not all of them 0"
        )
    return torch.tensor(list(class_weights), dtype=torch.float64)


def mask_of(batch: Batch | Tensor) -> Tensor:
    """The mask that a loss is called with, within its batch or alone, as in a training loop of one's own."""
    return batch if isinstance(batch, Tensor) else batch.targets.mask


def quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, and zero, with zero gradient, where the denominator is zero."""
    counts = denominator > 0
    return torch.where(counts, numerator, 0) / torch.where(counts, denominator, 1)


def at_least_zero(key: str, value: float) -> float:
    if not (value >= 0 and isfinite(value)):
        raise UserError(f"loss.{key}={value}; allowed: finite numbers from 0 up")
    return value


def positive(key: str, value: float) -> float:
    if not (value > 0 and isfinite(value)):
        raise UserError(f"loss.{key}={value}; allowed: finite numbers above 0")
    return value
