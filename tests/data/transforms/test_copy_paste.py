from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segkit.contracts import DataError, LabelSpace, ReadingTransform, Sample, UserError
from segkit.data.transforms.copy_paste import CopyPaste


class Scenes:
    """Sample i is ground (id 0) of grey 10 * i, with a square of id 1 and one of id 2; grey tells i and the id."""

    labels = LabelSpace(("ground", "one", "two"), ((0, 0, 0),) * 3)

    def __len__(self) -> int:
        return 4

    def read(self, index: int) -> Sample:
        mask = np.zeros((20, 20), np.uint8)
        mask[2:8, 2:8] = 1
        mask[10:12, 10:12] = 2
        mask[19] = 255
        image = np.repeat((10 * index + mask % 255)[..., None], 3, axis=2).astype(np.uint8)
        return Sample(image, mask, str(index))


def plain(sample: Sample, seed: int) -> Sample:
    """Shifted by the seed, so that two samples of one source differ in place."""
    shift = seed % 7
    return Sample(np.roll(sample.image, shift, axis=1), np.roll(sample.mask, shift, axis=1), sample.id)


def made(seeds: int = 60, **keys: Any) -> list[Sample]:
    transform = CopyPaste(plain, 255, **{"p": 1.0, **keys})
    assert isinstance(transform, ReadingTransform)
    return [transform.read(Scenes(), 1, seed) for seed in range(seeds)]


def partner_pixels(sample: Sample) -> np.ndarray[Any, Any]:
    return sample.image[..., 0] // 10 != 1


def test_image_and_mask_are_pasted_together() -> None:
    crops = made()
    assert any(partner_pixels(crop).any() for crop in crops)
    for crop in crops:
        valid = crop.mask != 255
        assert np.array_equal(crop.image[..., 0][valid] % 10, crop.mask[valid])
        assert crop.id == "1"


def test_only_objects_of_the_classes_are_pasted() -> None:
    for crop in made(classes=[1], object_p=1.0):
        pasted = partner_pixels(crop)
        assert set(np.unique(crop.mask[pasted])) <= {1}
        assert pasted.sum() in (0, 36)  # whole squares; 0 where the partner is the sample itself


def test_small_objects_and_ignored_pixels_are_left_out() -> None:
    for crop in made(object_p=1.0, min_pixels=5):
        assert set(np.unique(crop.mask[partner_pixels(crop)])) <= {0, 1}


def test_p_is_the_share_of_samples() -> None:
    assert not any(partner_pixels(crop).any() for crop in made(p=0.0))
    changed = [partner_pixels(crop).any() for crop in made(400, p=0.5, object_p=1.0)]
    assert np.mean(changed) == pytest.approx(0.5 * 3 / 4, abs=0.08)  # one partner in four is the sample itself


def test_the_seed_and_the_number_decide() -> None:
    transform = CopyPaste(plain, 255, p=1.0)
    for seed in (2, 3, 5):
        first, second = (transform.read(Scenes(), 2, seed) for _ in range(2))
        assert first.image.tobytes() == second.image.tobytes()
        assert first.mask.tobytes() == second.mask.tobytes()


def test_multi_label_objects_bring_all_their_channels() -> None:
    class Layers(Scenes):
        def read(self, index: int) -> Sample:
            sample = super().read(index)
            return Sample(sample.image, np.stack([sample.mask == 1, sample.mask == 2], -1).astype(np.uint8), sample.id)

    for seed in range(30):
        crop = CopyPaste(plain, 255, p=1.0, object_p=1.0).read(Layers(), 1, seed)
        for channel in range(2):
            assert np.array_equal(crop.image[..., 0] % 10 == channel + 1, crop.mask[..., channel] == 1)


def test_crops_of_different_sizes_are_refused() -> None:
    class Sizes(Scenes):
        def read(self, index: int) -> Sample:
            sample = super().read(0)
            return Sample(sample.image[: 10 + index], sample.mask[: 10 + index], str(index))

    with pytest.raises(UserError, match=r"transform\.base made crops of different kinds: 1 uint8 \(11, 20, 3\)"):
        _ = [CopyPaste(plain, 255, p=1.0).read(Sizes(), 1, seed) for seed in range(20)]


def test_a_partner_that_cannot_be_read_is_named() -> None:
    class Damaged(Scenes):
        def read(self, index: int) -> Sample:
            if index != 1:
                raise DataError(f"images/{index}.png: damaged")
            return super().read(index)

    with pytest.raises(DataError, match=r"images/[023]\.png: damaged"):
        _ = [CopyPaste(plain, 255, p=1.0).read(Damaged(), 1, seed) for seed in range(20)]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"p": 2}, r"transform\.p=2; allowed: 0 to 1"),
        ({"object_p": -1}, r"transform\.object_p=-1; allowed: 0 to 1"),
        ({"min_pixels": 0}, r"transform\.min_pixels=0; allowed: 1 or more"),
    ],
)
def test_mistakes_are_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CopyPaste(plain, 255, **keys)
