from __future__ import annotations

import pytest
import torch

from segkit.contracts import Prediction, UserError
from segkit.losses.combined import CombinedLoss
from segkit.losses.cross_entropy import CrossEntropyLoss
from segkit.losses.dice import DiceLoss
from segkit.losses.focal import FocalLoss
from segkit.losses.weighted import WeightedLoss
from tests.composed import experiment

SPACE = {"num_classes": 7, "ignore_index": 255}


def from_command_line(*overrides: str) -> WeightedLoss:
    built = experiment("loss=weighted", *overrides).loss()
    assert isinstance(built, WeightedLoss)
    return built


def case() -> tuple[Prediction, torch.Tensor]:
    logits, auxiliary = torch.randn(2, 7, 4, 4), torch.randn(2, 7, 2, 2)
    return Prediction(logits, {"auxiliary": auxiliary}), torch.randint(7, (2, 16, 16), dtype=torch.uint8)


def test_it_is_the_weighted_sum_of_its_terms() -> None:
    prediction, mask = case()
    ce = CrossEntropyLoss(**SPACE, label_smoothing=0.1, auxiliary_weight=0.5)
    focal, dice = FocalLoss(**SPACE, auxiliary_weight=0.0), DiceLoss(**SPACE, auxiliary_weight=0.25)
    loss = WeightedLoss(
        terms={"dice": {"weight": 0.5, "loss": dice}, "a": {"loss": ce}, "b": {"weight": 3, "loss": focal}}
    )
    terms, alone = loss(prediction, mask), {"dice": dice, "a": ce, "b": focal}
    apart = {name: of_term(prediction, mask) for name, of_term in alone.items()}
    torch.testing.assert_close(terms.total, apart["dice"].total / 2 + apart["a"].total + 3 * apart["b"].total)
    for name in alone:
        torch.testing.assert_close(terms.parts[name], next(iter(apart[name].parts.values())))
    expected = sum(w * apart[n].parts["auxiliary"] for n, w in (("dice", 0.5), ("a", 1.0), ("b", 3.0)))
    torch.testing.assert_close(terms.parts["auxiliary"], expected)
    assert not any(part.requires_grad for part in terms.parts.values())


def test_the_command_line_adds_replaces_and_removes_terms() -> None:
    prediction, mask = case()
    added = from_command_line("+loss@loss.terms.third.loss=lovasz", "+loss.terms.third.weight=0.5")
    assert set(added(prediction, mask).parts) == {"pixel", "region", "third", "auxiliary"}
    replaced = from_command_line("loss@loss.terms.region.loss=tversky", "loss.terms.region.loss.alpha=0.6")
    assert type(replaced.losses["region"]).__name__ == "TverskyLoss"
    assert replaced.losses["region"].alpha == 0.6
    assert set(from_command_line("~loss.terms.region")(prediction, mask).parts) == {"pixel", "auxiliary"}
    combined = from_command_line("loss@loss.terms.region.loss=combined")
    assert set(combined(prediction, mask).parts) == {"pixel", "region_ce", "region_dice", "auxiliary"}


def test_cross_entropy_and_dice_with_weights_are_the_combined_loss() -> None:
    prediction, mask = case()
    loss = from_command_line("loss.terms.pixel.weight=2", "loss.terms.region.weight=0.5")
    combined = CombinedLoss(**SPACE, ce_weight=2.0, dice_weight=0.5)
    torch.testing.assert_close(loss(prediction, mask).total, combined(prediction, mask).total)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, "at least one term"),
        ({"a": {"weight": 0.0, "loss": DiceLoss(**SPACE)}}, "at least one term"),
        ({"a": {"weight": -1.0, "loss": DiceLoss(**SPACE)}}, r"loss\.terms\.a\.weight=-1\.0"),
        ({"a": {"weight": "x", "loss": DiceLoss(**SPACE)}}, r"loss\.terms\.a\.weight='x'"),
        ({"a": {"wieght": 1.0, "loss": DiceLoss(**SPACE)}}, r"loss\.terms\.a holds wieght, loss; allowed: weight and"),
        ({"a": {"weight": 1.0}}, r"loss\.terms\.a\.loss is nothing; .*\+loss@loss\.terms\.a\.loss=dice"),
        ({"a": 3}, r"loss\.terms\.a holds 3"),
        ({"auxiliary": {"loss": DiceLoss(**SPACE)}}, "this name is taken"),
        (
            {"a": {"loss": DiceLoss(**SPACE)}, "b": {"loss": DiceLoss(num_classes=7, ignore_index=254)}},
            r"differ .*a: \(7, 255, False\); b: \(7, 254, False\)",
        ),
    ],
)
def test_terms_that_cannot_be_are_named(terms: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        WeightedLoss(terms=terms)
