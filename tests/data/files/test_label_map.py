from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.contracts import LabelSpace, UserError
from segkit.data.files.bounded import UnusableError
from segkit.data.files.label_map import LabelMap, listed

LABELS = LabelSpace(("a", "b", "c"), ((0, 0, 0),) * 3, 255)


def test_without_a_mapping_ids_stay() -> None:
    mask = LabelMap(LABELS, None, np.uint8)(np.array([[0, 2, 255]], np.int32))
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[0, 2, 255]]


def test_a_mapping_moves_ids_and_merges_them() -> None:
    label_map = LabelMap(LABELS, {7: 0, 8: 1, 1000: 1, 3: 255}, np.uint8)
    assert label_map(np.array([7, 8, 1000, 3, 255], np.int32)).tolist() == [0, 1, 1, 255, 255]


def test_the_ignored_id_may_become_a_class() -> None:
    assert LabelMap(LABELS, {0: 0, 255: 1}, np.uint8)(np.array([0, 255], np.uint8)).tolist() == [0, 1]


def test_a_negative_ignore_index_comes_from_a_mapping() -> None:
    labels = LabelSpace(("a", "b"), ((0, 0, 0),) * 2, -100)
    assert LabelMap(labels, {0: 0, 1: 1, 9: -100}, np.int32)(np.array([9, 1], np.uint8)).tolist() == [-100, 1]


def test_ids_without_a_place_are_named() -> None:
    label_map = LabelMap(LABELS, {7: 0, 8: 1}, np.uint8)
    with pytest.raises(UnusableError, match=r"has ids 0, 9; allowed: 7..8, 255"):
        label_map(np.array([7, 9, 9, 0], np.uint8))
    assert label_map.is_known(np.array([0, 7, 9, 255])).tolist() == [False, True, False, True]
    with pytest.raises(UnusableError, match=r"has ids 9, 300; allowed"):
        label_map(np.array([[7, 9, 300]], np.int32))


def test_masks_of_8_bits_and_of_more_agree_in_every_shape() -> None:
    label_map = LabelMap(LABELS, {7: 0, 8: 1, 9: 255}, np.uint8)
    raw = np.random.default_rng(0).choice(np.array([7, 8, 9, 255], np.uint8), (5, 4, 6))
    for part in (raw, raw[::2, :, :1], raw[..., 0], raw[..., 0].T, raw[:0]):
        assert label_map(part).shape == part.shape
        assert np.array_equal(label_map(part), label_map(part.astype(np.int32)))


def test_multilabel_ids_are_0_and_1() -> None:
    labels = LabelSpace(("a", "b", "c"), ((0, 0, 0),) * 3, 255, multilabel=True)
    assert LabelMap(labels, None, np.uint8)(np.array([[[0, 1, 255]]], np.uint8)).tolist() == [[[0, 1, 255]]]
    with pytest.raises(UnusableError, match=r"has ids 2; allowed: 0\.\.1, 255"):
        LabelMap(labels, None, np.uint8)(np.array([[[2]]], np.uint8))
    with pytest.raises(UserError, match=r"maps 5 to 2; allowed: 0\.\.1 and"):
        LabelMap(labels, {5: 2}, np.uint8)


@pytest.mark.parametrize("mapping", [{-1: 0}, {65536: 0}, {0: 3}, {0: -1}])
def test_impossible_mappings_name_the_key(mapping: dict[int, int]) -> None:
    with pytest.raises(UserError, match=r"dataset\.class_mapping maps"):
        LabelMap(LABELS, mapping, np.uint8)


@given(
    st.dictionaries(st.integers(0, 65535), st.sampled_from([0, 1, 2, 255]), min_size=1),
    st.lists(st.integers(0, 65535), min_size=1),
)
def test_every_id_is_mapped_or_reported(mapping: dict[int, int], raw: list[int]) -> None:
    label_map = LabelMap(LABELS, mapping, np.uint8)
    expected = {255: 255, **mapping}
    unknown = sorted({value for value in raw if value not in expected})
    assert sorted({value for value in raw if not label_map.is_known(np.array(value))}) == unknown
    if unknown:
        with pytest.raises(UnusableError):
            label_map(np.array(raw, np.int32))
    else:
        assert label_map(np.array(raw, np.int32)).tolist() == [expected[value] for value in raw]


def test_long_lists_of_ids_are_cut() -> None:
    assert listed([1, 2, 3], limit=2) == "1, 2 and 1 more"
    assert listed([1, 2], limit=2) == "1, 2"
