"""The set-prediction loss at predictions that can be worked out by hand, and what must not change it."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.contracts import Prediction, QueryPrediction, UserError
from segkit.logits import resize_logits
from segkit.losses.set_prediction import Segments, SetPredictionLoss, match, resized_at, semantic_segments

SURE = 30.0


def loss(**options: object) -> SetPredictionLoss:
    return SetPredictionLoss(**{"num_classes": 3, "ignore_index": 255, "num_points": None, **options})


def halves() -> Tensor:
    """A mask (1, 4, 4): class 0 above, class 2 below."""
    mask = torch.zeros(1, 4, 4, dtype=torch.uint8)
    mask[:, 2:] = 2
    return mask


def perfect(order: tuple[int, ...] = (0, 2, 3)) -> QueryPrediction:
    """Three queries for `halves`, sure and right: class 0, class 2 and nothing (3), in any order."""
    classes = F.one_hot(torch.tensor(order), 4).float().unsqueeze(0) * 2 * SURE
    masks = {0: halves() == 0, 2: halves() == 2, 3: torch.zeros(1, 4, 4, dtype=torch.bool)}
    return QueryPrediction(classes, torch.cat([masks[c] for c in order]).unsqueeze(0).float() * 2 * SURE - SURE)


def random_queries(batch: int = 2, queries: int = 5, size: int = 8, seed: int = 0) -> QueryPrediction:
    generator = torch.Generator().manual_seed(seed)
    return QueryPrediction(
        torch.randn(batch, queries, 4, generator=generator).requires_grad_(),
        torch.randn(batch, queries, size, size, generator=generator).requires_grad_(),
    )


def value(terms: SetPredictionLoss, queries: QueryPrediction, mask: Tensor) -> Tensor:
    return terms(Prediction(queries.mask_logits, queries=[queries]), mask).total


def number(scalar: Tensor) -> float:
    return float(scalar.detach())


def test_a_perfect_prediction_costs_nothing_in_whatever_order() -> None:
    for order in permutations((0, 2, 3)):
        assert number(value(loss(), perfect(order), halves())) == pytest.approx(0, abs=1e-6)


def test_terms_by_hand() -> None:
    """Undecided everywhere: each class has probability 1/4, each pixel 1/2."""
    undecided = QueryPrediction(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4, 4))
    terms = loss()(Prediction(undecided.mask_logits, queries=[undecided]), halves())
    assert float(terms.parts["class"]) == pytest.approx(math.log(4))
    assert float(terms.parts["mask"]) == pytest.approx(math.log(2))
    # 8 pixels of each segment, 4 of them found in expectation, 8 predicted.
    assert float(terms.parts["dice"]) == pytest.approx(1 - (2 * 4 + 1) / (8 + 8 + 1))
    assert number(terms.total) == pytest.approx(2 * math.log(4) + 5 * math.log(2) + 5 * (1 - 9 / 17))


def test_a_query_too_many_weighs_a_tenth() -> None:
    """Right but for the third query, which claims class 1 with all its might."""
    queries = perfect()
    queries.class_logits[0, 2] = torch.tensor([0, SURE, 0, 0])
    expected = 0.1 * SURE / (1 + 1 + 0.1)
    assert number(value(loss(class_weight=1.0), queries, halves())) == pytest.approx(expected, rel=1e-4)


def test_matching_is_the_cheapest_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(5, 3, generator=generator)
    pairs = match(cost)
    best = min(sum(cost[q, s] for s, q in enumerate(chosen)) for chosen in permutations(range(5), 3))
    assert float(cost[pairs.queries, pairs.segments].sum()) == pytest.approx(float(best))
    assert sorted(pairs.segments.tolist()) == [0, 1, 2]


def test_costs_are_the_losses_of_the_pairs() -> None:
    queries, mask = random_queries(batch=1), torch.randint(0, 3, (1, 8, 8))
    (segments,) = semantic_segments(mask, 255)
    logits, target = queries.mask_logits[0].flatten(1), segments.masks.flatten(1).float()
    cost = loss(class_weight=0.0)._cost(queries.class_logits[0], logits, segments.classes, target)
    for q in range(5):
        for s in range(len(target)):
            share = logits[q].sigmoid()
            dice = 1 - (2 * (share * target[s]).sum() + 1) / (share.sum() + target[s].sum() + 1)
            bce = F.binary_cross_entropy_with_logits(logits[q], target[s])
            assert float(cost[q, s]) == pytest.approx(float((5 * bce + 5 * dice).detach()), rel=1e-5)


def test_the_order_of_queries_does_not_matter() -> None:
    queries, mask = random_queries(), torch.randint(0, 3, (2, 16, 16))
    order = torch.tensor([3, 1, 4, 0, 2])
    shuffled = QueryPrediction(queries.class_logits[:, order], queries.mask_logits[:, order])
    assert number(value(loss(), shuffled, mask)) == pytest.approx(number(value(loss(), queries, mask)), rel=1e-6)


def test_more_segments_than_queries() -> None:
    mask = torch.arange(9).view(1, 3, 3) % 3
    assert value(loss(), random_queries(batch=1, queries=2), mask).isfinite()


def test_segments_of_a_mask() -> None:
    mask = torch.tensor([[[0, 2], [255, 2]], [[255, 255], [255, 255]]], dtype=torch.uint8)
    first, second = semantic_segments(mask, 255)
    assert first.classes.tolist() == [0, 2]
    assert first.masks.tolist() == [[[True, False], [False, False]], [[False, True], [False, True]]]
    assert first.valid.tolist() == [[True, True], [False, True]]
    assert second.masks.shape == (0, 2, 2)


def test_instances_of_one_class_are_told_apart() -> None:
    """Two things of class 1: two queries that each find one are perfect, two that find both are not."""
    left, right = torch.zeros(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    left[:, :2], right[:, 2:] = True, True
    things = Segments(torch.tensor([1, 1]), torch.stack([left, right]), torch.ones(4, 4, dtype=torch.bool))
    classes = F.one_hot(torch.tensor([1, 1]), 4).float().unsqueeze(0) * 2 * SURE
    apart = torch.stack([right, left]).unsqueeze(0).float() * 2 * SURE - SURE
    assert float(loss().of_segments([QueryPrediction(classes, apart)], [things]).total) == pytest.approx(0, abs=1e-6)
    together = torch.full((1, 2, 4, 4), SURE)
    assert float(loss().of_segments([QueryPrediction(classes, together)], [things]).total) > 50


@pytest.mark.parametrize("num_points", [None, 20])
def test_ignored_pixels_change_neither_the_loss_nor_a_gradient(num_points: int | None) -> None:
    mask = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(1))
    mask[:, 3:6] = 255
    results = []
    for content in (0.0, 40.0):
        queries = random_queries()
        with torch.no_grad():
            queries.mask_logits[:, :, 3:6] += content
        torch.manual_seed(7)
        total = value(loss(num_points=num_points), queries, mask)
        total.backward()
        assert queries.mask_logits.grad is not None
        assert (queries.mask_logits.grad[:, :, 3:6] == 0).all()
        results.append((total.detach(), queries.mask_logits.grad, queries.class_logits.grad))
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def test_an_image_that_is_all_ignored_counts_for_nothing() -> None:
    mask = torch.randint(0, 3, (2, 8, 8))
    mask[1] = 255
    queries = random_queries()
    both = value(loss(), queries, mask)
    both.backward()
    alone = value(loss(), QueryPrediction(queries.class_logits[:1], queries.mask_logits[:1]), mask[:1])
    assert number(both) == pytest.approx(number(alone))
    assert queries.class_logits.grad is not None
    assert (queries.class_logits.grad[1] == 0).all()

    nothing = random_queries()
    total = value(loss(), nothing, torch.full_like(mask, 255))
    total.backward()
    assert number(total) == 0
    assert nothing.mask_logits.grad is not None
    assert (nothing.mask_logits.grad == 0).all()


@pytest.mark.parametrize("size", [(8, 8), (33, 50), (3, 5)])
def test_points_are_those_of_the_resized_logits(size: tuple[int, int]) -> None:
    logits = torch.randn(3, 8, 12)
    at = torch.randint(size[0] * size[1], (40,))
    expected = resize_logits(logits.unsqueeze(0), size)[0].flatten(1)[:, at]
    torch.testing.assert_close(resized_at(logits, size, at), expected, atol=1e-5, rtol=1e-5)


def test_points_stand_for_the_whole() -> None:
    queries, mask = random_queries(size=32), torch.randint(0, 3, (2, 64, 64))
    exact = number(value(loss(), queries, mask))
    assert number(value(loss(num_points=2000), queries, mask)) == pytest.approx(exact, rel=0.05)


def test_evaluation_draws_the_same_points_and_leaves_the_random_state() -> None:
    queries, mask = random_queries(size=32), torch.randint(0, 3, (2, 64, 64))
    few = loss(num_points=50)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with torch.inference_mode():
        values = {number(value(few, queries, mask)) for _ in range(3)}
    assert len(values) == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert len({number(value(few, queries, mask)) for _ in range(3)}) == 3


def test_every_block_is_supervised_and_the_parts_are_the_last_ones() -> None:
    blocks = [random_queries(seed=1), random_queries(seed=2)]
    mask = torch.randint(0, 3, (2, 16, 16))
    terms = loss()(Prediction(blocks[-1].mask_logits, queries=blocks), mask)
    single = [loss()(Prediction(block.mask_logits, queries=[block]), mask) for block in blocks]
    assert number(terms.total) == pytest.approx(sum(number(s.total) for s in single) / 2)
    assert terms.parts == {name: pytest.approx(float(part)) for name, part in single[-1].parts.items()}
    terms.total.backward()
    assert all(block.mask_logits.grad is not None for block in blocks)


def test_a_loss_that_is_not_finite_is_told_by_its_value() -> None:
    queries = random_queries()
    with torch.no_grad():
        queries.mask_logits[0, 0, 0, 0] = math.nan
    assert not value(loss(), queries, torch.randint(0, 3, (2, 8, 8))).isfinite()


def test_without_queries_training_is_refused_and_evaluation_undefined() -> None:
    prediction, mask = Prediction(torch.randn(1, 3, 4, 4)), halves()
    with pytest.raises(UserError, match="allowed: model=eomt"):
        loss()(prediction, mask)
    with torch.inference_mode():
        assert loss()(prediction, mask).total.isnan()


def test_multilabel_masks_are_refused() -> None:
    with pytest.raises(UserError, match="one channel a class"):
        loss()(Prediction(torch.randn(1, 3, 4, 4), queries=[perfect()]), halves().unsqueeze(1).expand(-1, 3, -1, -1))


@pytest.mark.parametrize("key", ["class_weight", "mask_weight", "dice_weight", "no_segment_weight", "num_points"])
def test_bad_numbers_are_named(key: str) -> None:
    with pytest.raises(UserError, match=f"loss.{key}=-1"):
        loss(**{key: -1})


def test_a_loss_of_no_terms_is_refused() -> None:
    with pytest.raises(UserError, match="all 0"):
        loss(class_weight=0.0, mask_weight=0.0, dice_weight=0.0)


@pytest.mark.parametrize("stray", [3, 7])
def test_an_id_that_is_no_class_is_refused(stray: int) -> None:
    """Three classes: the fourth column of the class logits is for no segment."""
    mask = torch.full((1, 4, 4), stray, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="out of range"):
        value(loss(), perfect(), mask)
