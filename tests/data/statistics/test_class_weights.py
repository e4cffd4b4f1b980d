"""Class weights against their formulas, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from segkit.contracts import ClassWeightMethod
from segkit.data.statistics.class_weights import METHODS, class_weights

# Two images. Class 0: 600 + 300 = 900 pixels, class 1: 0 + 100 = 100; 1,000 in all, so p = 0.9 and 0.1.
READING_VERSION = np.array([[600, 0], [300, 100]])


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("inverse", [1000 / (2 * 900), 1000 / (2 * 100)]),
        ("inverse_sqrt", [math.sqrt(1000 / 1800), math.sqrt(5)]),
        ("enet", [1 / math.log(1.92), 1 / math.log(1.12)]),
        # Class 0 is in both images (1,000 pixels), class 1 in the second (400): f = 0.9 and 0.25, median 0.575.
        ("median", [0.575 / 0.9, 0.575 / 0.25]),
    ],
)
def test_the_formulas_without_a_scale_of_their_own(method: ClassWeightMethod, expected: list[float]):
    assert class_weights(READING_VERSION, method) == pytest.approx(expected)


def test_inverse_log_and_effective_number_have_a_mean_of_one():
    log = np.array([1 / math.log(901), 1 / math.log(101)])
    assert class_weights(READING_VERSION, "inverse_log") == pytest.approx((log / log.mean()).tolist())
    beta = 1 - 2 / 1000
    effective = np.array([(1 - beta) / (1 - beta**900), (1 - beta) / (1 - beta**100)])
    assert class_weights(READING_VERSION, "effective") == pytest.approx((effective / effective.mean()).tolist())


@pytest.mark.parametrize("method", METHODS)
def test_a_class_without_a_pixel_weighs_as_much_as_the_rarest(method: ClassWeightMethod):
    with_absent = np.hstack([READING_VERSION, np.zeros((2, 1), np.int64)])
    weights = class_weights(with_absent, method)
    assert all(math.isfinite(weight) and weight > 0 for weight in weights)
    assert weights[2] == max(weights[:2])


@pytest.mark.parametrize("method", METHODS)
def test_rarer_classes_never_weigh_less(method: ClassWeightMethod):
    pixels = np.array([[10**9, 10**7, 10**4, 1]])
    weights = class_weights(pixels, method)
    if method == "median":  # all in one image: frequencies are shares
        assert weights[2] / weights[1] == pytest.approx(1000)
    assert weights == sorted(weights)
    assert class_weights(np.zeros((3, 4), np.int64), method) == [1, 1, 1, 1]
