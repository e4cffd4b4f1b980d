"""What one tile of full-size logits says of its classes, read as a softmax or as sigmoids: sums, and their gradient.

Shape suffixes: C classes; b images, R T rows and columns of a tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.losses.tiled.resize import Resizing


@dataclass(frozen=True)
class Reading:
    """How logits and mask are read.

    Attributes:
        ignore_index: the mask value that counts for nothing.
        sigmoid: every class for itself (p = sigmoid of its logit) in place of a softmax over classes.
        gamma: exponent of the focal factor on the negative log-likelihood; 0: none.
        uniform: whether the `uniform` sums are wanted.
    """

    ignore_index: int
    sigmoid: bool = False
    gamma: float = 0.0
    uniform: bool = False


class SoftmaxTile:
    """One tile read as a softmax over classes; in place, in two buffers of the tile's size."""

    def __init__(self, resizing: Resizing, logits_bRCT: Tensor, mask_bRT: Tensor, reading: Reading) -> None:
        self.logits_bRCT, self.mask = logits_bRCT, mask_bRT
        self.reading = reading
        ids_bRT = mask_bRT.long()
        valid_bRT = ids_bRT != reading.ignore_index
        self.target_bR1T = ids_bRT.where(valid_bRT, 0).unsqueeze(2)
        self.valid_bR1T = valid_bRT.to(logits_bRCT.dtype).unsqueeze(2)
        batch, _, classes, _ = logits_bRCT.shape
        image_b111 = torch.arange(batch, device=mask_bRT.device).view(-1, 1, 1, 1)
        self.entry = (self.target_bR1T + image_b111 * classes).flatten()
        self.p_bRCT = torch.softmax(logits_bRCT, 2, out=resizing.buffer("probabilities", *logits_bRCT.shape))

    def log_probability_of_truth(self) -> Tensor:
        """(b, R, 1, T): from the logits, since a probability may be too small for its type. 0 where ignored."""
        log_p = self.logits_bRCT.gather(2, self.target_bR1T) + self._minus_log_sum()
        return log_p * self.valid_bR1T

    def _minus_log_sum(self) -> Tensor:
        """log p - logit, the same for every class of a pixel; taken at the largest, where it is the most exact."""
        return self.p_bRCT.amax(2, keepdim=True).log_() - self.logits_bRCT.amax(2, keepdim=True)

    def nll(self) -> Tensor:
        return focal(self.log_probability_of_truth(), self.reading.gamma).squeeze(2)

    def sums(self) -> Tensor:
        log_p = self.log_probability_of_truth()
        truth = self._by_class(self.valid_bR1T)
        uniform = torch.zeros_like(truth)
        if self.reading.uniform:
            log_p_bRCT = self.logits_bRCT.add_(self._minus_log_sum()).mul_(self.valid_bR1T)
            uniform = log_p_bRCT.sum((1, 3)).double() / -self.p_bRCT.shape[2]
        predicted = self.p_bRCT.mul_(self.valid_bR1T).sum((1, 3)).double()
        nll = self._by_class(focal(log_p, self.reading.gamma))
        overlap = self._by_class(log_p.exp().mul_(self.valid_bR1T))
        return torch.stack([overlap, predicted, nll, torch.zeros_like(truth), uniform, truth, truth])

    def _by_class(self, values_bR1T: Tensor) -> Tensor:
        """Sums (b, C) of the values over the pixels of each true class."""
        batch, _, classes, _ = self.p_bRCT.shape
        if self.p_bRCT.is_cuda:
            return self._at_truth(values_bR1T).sum((1, 3), dtype=torch.float64)
        bins = torch.zeros(batch * classes, dtype=torch.float64, device=values_bR1T.device)
        return bins.scatter_add_(0, self.entry, values_bR1T.flatten().double()).view(batch, classes)

    def _at_truth(self, values_bR1T: Tensor) -> Tensor:
        """(b, R, C, T): the values at each pixel's true class, 0 elsewhere.

        On GPUs in place of scattering: there many pixels that add to few sums wait for each other, and PyTorch's
        deterministic way to scatter sorts all of them.
        """
        classes = torch.arange(self.p_bRCT.shape[2], device=values_bR1T.device).view(-1, 1)
        return torch.where(self.target_bR1T == classes, values_bR1T, 0.0)

    def gradient(self, gradients_5bC: Tensor) -> Tensor:
        """With g the gradients of overlap, predicted, nll and uniform, t the true class, f the slope of the nll
        in log p_t, and d the sum over k of p_k (g_predicted_k - g_even_k / C / p_k): d/d logit_k =
        p_k (g_predicted_k - d - g_overlap_t p_t - f) + [k = t] (g_overlap_t p_t + f) - g_even_k / C.
        """
        of_overlap, of_predicted, of_nll, _, of_uniform = gradients_5bC.contiguous()
        p_bRCT, shape = self.p_bRCT, self.target_bR1T.shape
        truth = of_overlap.view(-1).index_select(0, self.entry).view(shape) * p_bRCT.gather(2, self.target_bR1T)
        mean = torch.matmul(of_predicted.unsqueeze(1).unsqueeze(1), p_bRCT)
        slope = of_nll.view(-1).index_select(0, self.entry).view(shape)
        if self.reading.gamma:
            truth += slope * focal_slope(self.log_probability_of_truth(), self.reading.gamma)
        else:
            truth -= slope
        shared = -(mean + truth)
        if self.reading.uniform:
            of_uniform = of_uniform / p_bRCT.shape[2]
            shared += of_uniform.sum(1).view(-1, 1, 1, 1)
        gradient = torch.add(of_predicted[:, None, :, None], shared, out=self.logits_bRCT).mul_(p_bRCT)
        if gradient.is_cuda:
            gradient += self._at_truth(truth)
        else:
            gradient.scatter_add_(2, self.target_bR1T, truth)
        if self.reading.uniform:
            gradient -= of_uniform[:, None, :, None]
        return gradient.mul_(self.valid_bR1T)


class SigmoidTile:
    """One tile read as a sigmoid for every class."""

    def __init__(self, resizing: Resizing, logits_bRCT: Tensor, mask: Tensor, reading: Reading) -> None:
        self.logits, self.mask = logits_bRCT, mask
        self.reading = reading
        classes = logits_bRCT.shape[2]
        if mask.dim() == 4:
            mask = mask.transpose(1, 2).long()
            valid = mask != reading.ignore_index
            truth = mask == 1
            check_in_range((mask == 0) | truth | ~valid)
        else:
            mask = mask.unsqueeze(2).long()
            valid = mask != reading.ignore_index
            truth = mask == torch.arange(classes, device=mask.device).view(-1, 1)
            check_in_range((mask >= 0) & (mask < classes) | ~valid)
        self.truth = (truth & valid).to(logits_bRCT.dtype)
        self.valid = valid.to(logits_bRCT.dtype).expand_as(logits_bRCT)
        self.sign = 2 * self.truth - 1
        self.log_p = F.logsigmoid(self.logits * self.sign)  # of what is true

    def nll(self) -> Tensor:
        return (focal(self.log_p, self.reading.gamma) * self.valid).transpose(1, 2)

    def sums(self) -> Tensor:
        nll = focal(self.log_p, self.reading.gamma)
        p = self.logits.sigmoid()
        uniform = torch.zeros_like(p)
        if self.reading.uniform:
            uniform = -(F.logsigmoid(self.logits) + F.logsigmoid(-self.logits)) / 2 * self.valid
        absent = self.valid - self.truth
        terms = [p * self.truth, p * self.valid, nll * self.truth, nll * absent, uniform]
        return torch.stack([term.sum((1, 3)).double() for term in (*terms, self.truth, self.valid)])

    def gradient(self, gradients_5bC: Tensor) -> Tensor:
        of_overlap, of_predicted, of_nll, of_absent, of_uniform = gradients_5bC[:, :, None, :, None]
        p = self.logits.sigmoid()
        of_p = of_predicted + of_overlap * self.truth
        of_nll = of_absent + (of_nll - of_absent) * self.truth
        slope = focal_slope(self.log_p, self.reading.gamma)
        # The probability of what is not true, from the logit: 1 - p would lose small ones.
        gradient = of_nll * slope * self.sign * torch.sigmoid(-self.logits * self.sign)
        gradient += of_p * p * torch.sigmoid(-self.logits)
        if self.reading.uniform:
            gradient += of_uniform * (p - 0.5)
        return gradient.mul_(self.valid)


def check_in_range(fits: Tensor) -> None:
    """Raise RuntimeError unless all of `fits` is true; on CUDA later, as an assertion of the device: nothing waits."""
    torch._assert_async(fits.all(), "the mask holds a value that is out of range")  # pyright: ignore[reportPrivateImportUsage]


def focal(log_p: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p."""
    if not gamma:
        return -log_p
    return -(_complement(log_p) ** gamma) * log_p


def focal_slope(log_p: Tensor, gamma: float) -> Tensor:
    """The derivative of `focal` in log p."""
    if not gamma:
        return -torch.ones_like(log_p)
    complement = _complement(log_p)
    return gamma * complement ** (gamma - 1) * log_p.exp() * log_p - complement**gamma


def _complement(log_p: Tensor) -> Tensor:
    """1 - p; clamped because a power below 1 has no finite slope at 0."""
    return (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).eps)
