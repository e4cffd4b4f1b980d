"""A set of queries against the set of segments in each image: matched one to one, then compared.

Shape suffixes: B batch, Q queries, C classes, S segments of one image, P points of one image, H W mask pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from segkit.contracts import Batch, LossTerms, Prediction, QueryPrediction, UserError, integer_mask
from segkit.losses.base import at_least_zero, mask_of, positive
from segkit.losses.tiled.probabilities import check_in_range


class Segments(NamedTuple):
    """What is to be found in one image: each segment a class and a mask.

    Attributes:
        classes: (S,) int64.
        masks: (S, H, W) bool; segments of one class are separate things, or one region of stuff.
        valid: (H, W) bool, the pixels that count.
    """

    classes: Tensor
    masks: Tensor
    valid: Tensor


def semantic_segments(mask: Tensor, ignore_index: int) -> list[Segments]:
    """For each image of a mask (B, H, W) of class ids, one segment a class in it."""
    found: list[Segments] = []
    for mask_HW in integer_mask(mask).long():
        valid_HW = mask_HW != ignore_index
        classes_S = mask_HW[valid_HW].unique()
        found.append(Segments(classes_S, mask_HW == classes_S.view(-1, 1, 1), valid_HW))
    return found


class Pairs(NamedTuple):
    """Queries (K,) and the segments (K,) they are matched to, of one image."""

    queries: Tensor
    segments: Tensor


class SetPredictionLoss(nn.Module):
    """A LossTerms of `Prediction.queries` and a full-size mask of any integer type.

    Mask2Former's loss (Cheng et al., arXiv 2112.01527, section 3.3), as EoMT uses it: of the Hungarian matching
    with the same three terms, class_weight * cross-entropy over the queries' classes, mask_weight * binary
    cross-entropy and dice_weight * Dice over the matched masks. The cost of a class is -p(class).

    Every supervised block is matched on its own. The total is their mean and not, as in the paper, their sum, so
    that training, with many blocks, and evaluation, with the last one, give numbers on one scale; the parts are
    the last block's. Points are drawn evenly from the valid pixels, afresh at every step, for matching and
    masks alike; the paper draws three quarters where a mask is uncertain. Evaluation draws the same ones every
    time. Images whose pixels are all ignored count for nothing, and ignored pixels are never drawn.

    Args:
        num_classes: C.
        ignore_index: the mask id that is left out.
        class_weight: of the cross-entropy of the classes.
        mask_weight: of the binary cross-entropy of the masks.
        dice_weight: of their Dice loss.
        no_segment_weight: of a query without a segment in the cross-entropy, beside 1 for one that has one.
        num_points: P; None: every valid pixel.

    Raises:
        UserError: multi-label masks; in training, a prediction without queries. In evaluation, as from a
            predictor that merges views, the loss is NaN then.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_index: int,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_segment_weight: float = 0.1,
        num_points: int | None = 12544,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.class_weight = at_least_zero("class_weight", class_weight)
        self.mask_weight = at_least_zero("mask_weight", mask_weight)
        self.dice_weight = at_least_zero("dice_weight", dice_weight)
        if class_weight == mask_weight == dice_weight == 0:
            raise UserError("loss.class_weight, loss.mask_weight and loss.dice_weight are all 0; allowed: one above 0")
        self.no_segment_weight = at_least_zero("no_segment_weight", no_segment_weight)
        if num_points is not None:
            positive("num_points", num_points)
        self.num_points = num_points

    def forward(self, prediction: Prediction, batch: Batch | Tensor) -> LossTerms:
        mask = mask_of(batch)
        if mask.ndim != 3:
            raise UserError("loss=set_prediction: the masks have one channel a class; allowed: masks of class ids")
        if not prediction.queries:
            if torch.is_grad_enabled():
                raise UserError(
                    "loss=set_prediction needs a model of queries; allowed: model=eomt, or another loss for this model"
                )
            return LossTerms(mask.new_full((), torch.nan, dtype=torch.float32))
        segments = semantic_segments(mask, self.ignore_index)
        classes_S = torch.cat([of_image.classes for of_image in segments])
        # The id num_classes would pass for "no segment".
        check_in_range((classes_S >= 0) & (classes_S < self.num_classes))
        return self.of_segments(prediction.queries, segments)

    def of_segments(self, queries: Sequence[QueryPrediction], segments: Sequence[Segments]) -> LossTerms:
        """The loss against any segments, those of instances included, with one entry of `segments` an image."""
        points = [self._draw(of_image.valid) for of_image in segments]
        targets = [of_image.masks.flatten(1)[:, at].float() for of_image, at in zip(segments, points, strict=True)]
        device_type = queries[-1].mask_logits.device.type
        with torch.autocast(device_type, enabled=False):
            blocks = [self._of_block(block, segments, points, targets) for block in queries]
        total = torch.stack([block.total for block in blocks]).mean()
        return LossTerms(total, blocks[-1].parts)

    def _draw(self, valid_HW: Tensor) -> Tensor:
        """(P,) flat indices of pixels that count."""
        at = valid_HW.flatten().nonzero().squeeze(1)
        if self.num_points is None or len(at) <= self.num_points:
            return at
        generator = None
        if not torch.is_grad_enabled():
            # The random state of training is left as it is, lest an evaluation that is broken off change a run.
            generator = torch.Generator(at.device).manual_seed(0)
        return at[torch.randint(len(at), (self.num_points,), device=at.device, generator=generator)]

    def _of_block(
        self,
        block: QueryPrediction,
        segments: Sequence[Segments],
        points: Sequence[Tensor],
        targets: Sequence[Tensor],
    ) -> LossTerms:
        class_logits_BQC = block.class_logits.float()
        wanted_BQ = torch.full(class_logits_BQC.shape[:2], self.num_classes, device=class_logits_BQC.device)
        masks: list[Tensor] = []
        for number, (of_image, at, target_SP) in enumerate(zip(segments, points, targets, strict=True)):
            logits_QP = resized_at(block.mask_logits[number].float(), of_image.valid.shape, at)
            cost_QS = self._cost(class_logits_BQC[number], logits_QP, of_image.classes, target_SP)
            pairs = match(cost_QS)
            wanted_BQ[number, pairs.queries] = of_image.classes[pairs.segments]
            masks.append(_mask_losses(logits_QP[pairs.queries], target_SP[pairs.segments]))
        bce, dice = torch.cat(masks, dim=1).mean(dim=1) if any(m.shape[1] for m in masks) else _zeros(block)
        counted_B = torch.tensor([len(at) > 0 for at in points], device=class_logits_BQC.device)
        classes = self._class_loss(class_logits_BQC, wanted_BQ, counted_B)
        total = self.class_weight * classes + self.mask_weight * bce + self.dice_weight * dice
        parts = {"class": classes, "mask": bce, "dice": dice}
        return LossTerms(total, {name: part.detach() for name, part in parts.items()})

    @torch.no_grad()
    def _cost(self, class_logits_QC: Tensor, logits_QP: Tensor, classes_S: Tensor, target_SP: Tensor) -> Tensor:
        """(Q, S): what the loss of each pair would be."""
        of_class_QS = -class_logits_QC.softmax(dim=-1)[:, classes_S]
        num_points = max(logits_QP.shape[1], 1)
        # softplus(-x) where the target is 1, softplus(x) = softplus(-x) + x where it is 0.
        background_Q1 = F.softplus(logits_QP).sum(dim=1, keepdim=True)
        bce_QS = (background_Q1 - logits_QP @ target_SP.T) / num_points
        shares_QP = logits_QP.sigmoid()
        overlap_QS = shares_QP @ target_SP.T
        sizes_QS = shares_QP.sum(dim=1, keepdim=True) + target_SP.sum(dim=1)
        dice_QS = 1 - (2 * overlap_QS + 1) / (sizes_QS + 1)
        return self.class_weight * of_class_QS + self.mask_weight * bce_QS + self.dice_weight * dice_QS

    def _class_loss(self, class_logits_BQC: Tensor, wanted_BQ: Tensor, counted_B: Tensor) -> Tensor:
        each_BQ = F.cross_entropy(class_logits_BQC.transpose(1, 2), wanted_BQ, reduction="none")
        empty_BQ = wanted_BQ == self.num_classes
        weights_BQ = torch.where(empty_BQ, self.no_segment_weight, 1.0) * counted_B.unsqueeze(1)
        return (each_BQ * weights_BQ).sum() / weights_BQ.sum().clamp(min=1e-6)


def resized_at(logits_Qhw: Tensor, size: Sequence[int], at_P: Tensor) -> Tensor:
    """(Q, P): what `resize_logits` to `size` = (H, W) gives at the pixels of flat indices `at_P`, and only there."""
    if len(at_P) == 0:
        return logits_Qhw.new_zeros(len(logits_Qhw), 0)
    height, width = size
    y_P, x_P = at_P // width, at_P % width
    # From -1 to 1 across the areas of all pixels.
    grid_P2 = torch.stack([(2 * x_P + 1) / width - 1, (2 * y_P + 1) / height - 1], dim=-1).float()
    sampled_1Q1P = F.grid_sample(
        logits_Qhw.unsqueeze(0), grid_P2.view(1, 1, -1, 2), padding_mode="border", align_corners=False
    )
    return sampled_1Q1P[0, :, 0]


def match(cost_QS: Tensor) -> Pairs:
    """The one-to-one matching of least cost; of Q queries and S segments, the fewer all have a partner."""
    # Costs that are not finite would end the run here, ahead of the loss, which is told with its step and samples.
    costs = torch.nan_to_num(cost_QS, nan=0.0, posinf=1e6, neginf=-1e6).cpu().numpy()
    queries, segments = linear_sum_assignment(costs)
    device = cost_QS.device
    return Pairs(torch.as_tensor(queries, device=device), torch.as_tensor(segments, device=device))


def _mask_losses(logits_KP: Tensor, target_KP: Tensor) -> Tensor:
    """(2, K): binary cross-entropy and Dice loss of each matched mask."""
    if 0 in logits_KP.shape:
        return logits_KP.new_zeros(2, 0)
    bce_K = F.binary_cross_entropy_with_logits(logits_KP, target_KP, reduction="none").mean(dim=1)
    shares_KP = logits_KP.sigmoid()
    sizes_K = shares_KP.sum(dim=1) + target_KP.sum(dim=1)
    dice_K = 1 - (2 * (shares_KP * target_KP).sum(dim=1) + 1) / (sizes_K + 1)
    return torch.stack([bce_K, dice_K])


def _zeros(block: QueryPrediction) -> Tensor:
    """(2,) zeros that hang on the masks, whose gradient is then zero and not missing."""
    return 0 * block.mask_logits.float().sum().expand(2)
