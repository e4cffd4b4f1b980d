"""Any losses, added with weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from segkit.contracts import Batch, LossTerms, Prediction, UserError
from segkit.losses.base import SegmentationLoss, at_least_zero, mask_of


class WeightedLoss(nn.Module):
    """The sum of weight * loss over named terms; the terms are logged by name, before they are weighted.

    Auxiliary heads are added as each term's own `auxiliary_weight` says. What several terms need is computed once.

    Args:
        terms: by name, `loss`, a loss of this package, and `weight`, from 0 up; 1 if it is left out.
    """

    def __init__(self, *, terms: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        for name, term in terms.items():
            _check(name, term)
        self.weights: dict[str, float] = {name: term.get("weight", 1.0) for name, term in terms.items()}
        if not any(self.weights.values()):
            raise UserError("loss.terms: at least one term with a weight above 0 is needed")
        self.losses = nn.ModuleDict({name: term["loss"] for name, term in terms.items()})
        readings = {name: (loss.num_classes, loss.ignore_index, loss.multilabel) for name, loss in self._losses()}
        if len(set(readings.values())) > 1:
            found = "; ".join(f"{name}: {reading}" for name, reading in readings.items())
            raise UserError(f"loss.terms differ in num_classes, ignore_index or multilabel ({found}); all must agree")

    def forward(self, prediction: Prediction, batch: Batch | Tensor) -> LossTerms:
        losses = self._losses()
        heads = losses[0][1].heads(prediction, mask_of(batch), uniform=any(loss.wants_uniform for _, loss in losses))
        total, parts = prediction.logits.new_zeros(()), dict[str, Tensor]()
        for name, loss in losses:
            terms = loss.over(heads)
            total = total + self.weights[name] * terms.total
            if "auxiliary" in terms.parts:
                parts["auxiliary"] = parts.get("auxiliary", 0) + self.weights[name] * terms.parts.pop("auxiliary")
            for part, value in terms.parts.items():
                parts[name if len(terms.parts) == 1 else f"{name}_{part}"] = value
        return LossTerms(total, parts)

    def _losses(self) -> list[tuple[str, SegmentationLoss]]:
        return list(self.losses.items())  # type: ignore[return-value]


def _check(name: str, term: Any) -> None:
    key = f"loss.terms.{name}"
    if name == "auxiliary":
        raise UserError(f"{key}: this name is taken by the auxiliary heads; choose another")
    if not isinstance(term, Mapping) or set(term) - {"loss", "weight"}:
        found = ", ".join(term) if isinstance(term, Mapping) else repr(term)
        raise UserError(f"{key} holds {found}; allowed: weight and loss")
    weight = term.get("weight", 1.0)
    if not isinstance(weight, int | float):
        raise UserError(f"{key}.weight={weight!r}; allowed: numbers from 0 up")
    at_least_zero(f"terms.{name}.weight", weight)
    if not isinstance(term.get("loss"), SegmentationLoss):
        found = type(term["loss"]).__name__ if "loss" in term else "nothing"
        raise UserError(
            f"{key}.loss is {found}; allowed: any other option of the loss group, as in "
            f"+loss@loss.terms.{name}.loss=dice on the command line"
        )
