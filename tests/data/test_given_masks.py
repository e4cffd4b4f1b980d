"""What a source gives is only read: by every transform, by glob of conf/transform, and by the batches made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from omegaconf import OmegaConf

from segkit.contracts import DataError, LabelSpace, Sample, UserError
from segkit.data.statistics.counts import count_sample
from segkit.data.transforms.albumentations_pipeline import AlbumentationsTransform
from segkit.data.transforms.apply import augmented, read
from segkit.data.transforms.copy_paste import CopyPaste
from segkit.data.workers.collate import collate_runs
from segkit.data.workers.samples import PlainSamples
from tests.composed import recipe
from tests.harness.options import options

IGNORE = 100  # which int8 holds too
TYPES = ["bool", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


class InMemory:
    """The same arrays at every read, as a source of one's own may give them."""

    on_error = "raise"

    def __init__(self, masks: Sequence[NDArray[Any]], ignore_index: int = IGNORE, *, multilabel: bool = False) -> None:
        self.labels = LabelSpace(("a", "b"), ((0, 0, 0), (1, 1, 1)), ignore_index, multilabel)
        random = np.random.default_rng(0)
        images = [random.integers(0, 256, (40, 36, 3), np.uint8) for _ in masks]
        # What is written to shows as an error at once.
        for array in (*images, *masks):
            array.flags.writeable = False
        self.samples = [Sample(*pair, str(index)) for index, pair in enumerate(zip(images, masks, strict=True))]

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> Sample:
        return self.samples[index]


def masks(dtype: str, layers: int | None = None) -> list[NDArray[Any]]:
    shape = (40, 36) if layers is None else (40, 36, layers)
    drawn = np.random.default_rng(1).choice([0, 1] if dtype == "bool" else [0, 1, IGNORE], (2, *shape))
    return list(drawn.astype(dtype))


@pytest.fixture(autouse=True, scope="module")
def _resolvers() -> None:
    OmegaConf.register_new_resolver("pid", lambda: 0, replace=True)


@pytest.mark.parametrize("option", options("transform"))
def test_a_transform_writes_into_nothing_and_minds_no_type_and_no_layout(option: str) -> None:
    composed = recipe(f"transform={option}", "dataset.crop_size=24", f"dataset.ignore_index={IGNORE}")
    transform = composed.build("transform", filled={"ignore_index": IGNORE})
    for layers in (None, 2):
        expected: dict[int, Sample] = {}
        for dtype in ["uint8", *TYPES[1:]]:
            for layout in (np.copy, np.asfortranarray, lambda mask: np.repeat(mask, 2, axis=1)[:, ::2]):
                source = InMemory([layout(mask) for mask in masks(dtype, layers)], multilabel=layers is not None)
                for seed in range(6):
                    found = augmented(transform, source, seed % 2, seed)  # pyright: ignore[reportArgumentType]
                    first = expected.setdefault(seed, found)
                    assert found.mask.dtype == ("int32" if dtype == "int32" else "uint8")
                    assert np.array_equal(found.mask, first.mask)
                    assert np.array_equal(found.image, first.image)


def test_nothing_is_pasted_into_the_arrays_of_the_source() -> None:
    source = InMemory(masks("uint8"))
    paste = CopyPaste(AlbumentationsTransform([], None), IGNORE, p=1.0, object_p=1.0, min_pixels=1)
    made = [paste.read(source, 0, seed) for seed in range(6)]  # pyright: ignore[reportArgumentType]
    assert any(not np.array_equal(sample.mask, source.samples[0].mask) for sample in made)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_mask_of_any_integer_type_makes_the_same_batch(dtype: str) -> None:
    source = InMemory(masks(dtype))
    items = [PlainSamples(source, "raise")[index] for index in range(2)]  # pyright: ignore[reportArgumentType]
    collated = collate_runs(items)
    assert isinstance(collated, tuple)
    assert np.array_equal(collated[0][0].mask.numpy(), np.stack(masks(dtype)).astype(np.uint8))
    facts = count_sample(read(source, 0), source.labels, "")  # pyright: ignore[reportArgumentType]
    assert facts.pixels == tuple(int((masks(dtype)[0] == index).sum()) for index in (0, 1))


def test_an_ignored_id_that_uint8_cannot_hold_makes_masks_of_int32() -> None:
    source = InMemory([np.array([[0, 1, -1]], np.int8)], ignore_index=-1)
    mask = read(source, 0).mask  # pyright: ignore[reportArgumentType]
    assert mask.dtype == np.int32
    assert mask.tolist() == [[0, 1, -1]]


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (
            np.zeros((2, 2), np.float32),
            UserError,
            "dataset: the mask of 0 is float32; allowed: integers, such as uint8",
        ),
        (
            np.array([[0, 5, 100]]),
            DataError,
            r"the mask of 0 holds ids 5\.\.5; allowed: 0\.\.1 and dataset\.ign",
        ),
        (np.array([[0, 256 + 100]]), DataError, r"ids 356\.\.356"),
        (np.array([[0, -1]], np.int8), DataError, r"ids -1\.\.-1"),
    ],
)
def test_what_cannot_be_a_mask_is_told(mask: NDArray[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read(InMemory([mask]), 0)  # pyright: ignore[reportArgumentType]
