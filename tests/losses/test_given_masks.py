"""No loss, by glob of conf/loss, writes into the mask that it is given, whatever integers that is made of."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from segkit.config.recipe import Recipe
from segkit.contracts import Prediction, QueryPrediction, UserError
from tests.composed import recipe
from tests.conftest import REPOSITORY

# 100 fits all types; 2 and 3 are classes too, so that what is wrongly taken for a class shows.
IGNORE, CLASSES = 100, 4
TYPES = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]
OPTIONS = sorted(path.stem for path in (REPOSITORY / "conf" / "loss").glob("*.yaml"))
EVERY = pytest.mark.parametrize("option", [*OPTIONS, "all at once"])


@cache
def composed(option: str) -> Recipe:
    arguments = [f"loss={option}"]
    if option == "all at once":  # terms share what they are given
        arguments = ["loss=weighted", *(f"+loss@loss.terms.{o}.loss={o}" for o in ("ohem", "boundary", "lovasz"))]
    return recipe(*arguments)


def built(option: str, *, multilabel: bool = False) -> nn.Module:
    label_space = {"num_classes": CLASSES, "ignore_index": IGNORE, "multilabel": multilabel}
    return composed(option).build("loss", filled=label_space)


def batch(*, multilabel: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, those of an auxiliary head, and a mask whose upper half is ignored."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, CLASSES, 12, 10) if multilabel else (2, 12, 10)
    mask = torch.randint(2 if multilabel else CLASSES, shape, generator=generator)
    mask[..., :6, :] = IGNORE
    logits = torch.randn(2, 2, CLASSES, 12, 10, generator=generator)
    return logits[0], logits[1], mask


def value_and_gradient(loss: nn.Module, logits: Tensor, auxiliary: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    queries = [QueryPrediction(torch.ones(2, CLASSES, CLASSES + 1), logits)]
    torch.manual_seed(0)  # set prediction draws points
    total = loss(Prediction(logits, {"auxiliary": auxiliary}, queries), mask).total
    total.backward()
    assert logits.grad is not None
    return total.detach(), logits.grad


@EVERY
@pytest.mark.parametrize("multilabel", [False, True], ids=["multiclass", "multilabel"])
def test_a_mask_of_any_integer_type_is_only_read_and_gives_the_same(option: str, multilabel: bool) -> None:
    if multilabel and option == "set_prediction":
        pytest.skip("of class ids only")
    loss = built(option, multilabel=multilabel)
    logits, auxiliary, mask = batch(multilabel=multilabel)
    expected, slope = value_and_gradient(loss, logits, auxiliary, mask.to(torch.uint8))
    assert expected != 0
    for dtype in TYPES:
        strided = mask.to(dtype).repeat_interleave(2, dim=-1)[..., ::2]
        for given in (mask.to(dtype), strided):
            before = given.clone()
            for _ in range(2):  # the second call finds what the first has left
                value, gradient = value_and_gradient(loss, logits, auxiliary, given)
                assert torch.equal(given.long(), before.long())
                assert torch.equal(value, expected)
                assert torch.equal(gradient, slope)
                assert not gradient[..., :6, :].any()


@EVERY
def test_masks_that_are_not_of_integers_are_refused(option: str) -> None:
    logits, auxiliary, mask = batch()
    with pytest.raises(UserError, match="masks are float32; allowed: integers"):
        value_and_gradient(built(option), logits, auxiliary, mask.float())


@pytest.mark.parametrize(("ids", "ignore_index"), [(44, 300), (255, -1)])
def test_an_id_is_not_taken_for_an_ignored_one_that_its_type_cannot_hold(ids: int, ignore_index: int) -> None:
    """In uint8, PyTorch says, 44 == 300 and 255 == -1."""
    loss = composed("ce").build("loss", filled={"num_classes": 256, "ignore_index": ignore_index})
    mask = torch.full((1, 2, 2), ids, dtype=torch.uint8)
    total = loss(Prediction(torch.zeros(1, 256, 2, 2)), mask).total
    torch.testing.assert_close(total, torch.tensor(256.0).log())
