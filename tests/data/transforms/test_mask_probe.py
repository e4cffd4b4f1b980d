"""Pipelines that give pixels a label which the mask does not have are refused before training, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import pytest

from segkit.cli.train import main
from segkit.contracts import LabelSpace, Sample, UserError
from segkit.data.datasets.source import palette
from segkit.data.transforms.albumentations_pipeline import AlbumentationsTransform, random_crop
from segkit.data.transforms.copy_paste import CopyPaste
from segkit.data.transforms.crop_window import RandomScaleCrop
from segkit.data.transforms.fused import FusedTransform
from segkit.data.transforms.mask_probe import check_masks
from tests.data.transforms.test_albumentations_pipeline import PRESETS, built

SPACES = {
    "two classes": LabelSpace(("a", "b"), tuple(palette(2)), 255),
    "many classes": LabelSpace(tuple(f"c{i}" for i in range(300)), tuple(palette(300)), -1),
    "ignored beyond 8 bits": LabelSpace(("a", "b", "c"), tuple(palette(3)), 1000),
    "several labels": LabelSpace(("a", "b", "c"), tuple(palette(3)), 255, multilabel=True),
    "one label": LabelSpace(("a",), tuple(palette(1)), 255, multilabel=True),
}


def rotated(**arguments: Any) -> Any:
    return A.Rotate(limit=(30, 60), p=1e-6, **arguments)


class Dimming(A.DualTransform):
    """A step of a user's own, whose masks have every second id halved."""

    def apply(self, img: Any, **_: Any) -> Any:
        return img

    def apply_to_mask(self, mask: Any, **_: Any) -> Any:
        return mask // 2


WRONG: dict[str, tuple[Callable[[int], Any], str]] = {
    "rotate": (lambda _: rotated(), r"steps\.0 \(Rotate\): fill_mask=0"),
    "rotate, another class": (lambda _: rotated(fill_mask=1), r"\(Rotate\): fill_mask=1"),
    "affine": (lambda _: A.Affine(translate_percent=(0.3, 0.4), p=0.01), r"\(Affine\): fill_mask=0"),
    "perspective": (lambda _: A.Perspective(), r"\(Perspective\): fill_mask"),
    "elastic": (lambda _: A.ElasticTransform(), r"\(ElasticTransform\): fill_mask"),
    "grid": (lambda _: A.GridDistortion(), r"\(GridDistortion\): fill_mask"),
    "optical": (lambda _: A.OpticalDistortion(), r"\(OpticalDistortion\): fill_mask"),
    "pad": (lambda _: A.PadIfNeeded(999, 999), r"\(PadIfNeeded\): fill_mask"),
    "crop": (lambda _: A.RandomCrop(16, 16, pad_if_needed=True), r"\(RandomCrop\): fill_mask"),
    "crop and pad": (lambda _: A.CropAndPad(percent=0.2), r"\(CropAndPad\): fill_mask"),
    "coarse dropout": (lambda _: A.CoarseDropout(fill_mask=0), r"\(CoarseDropout\): fill_mask"),
    "grid dropout": (lambda _: A.GridDropout(fill_mask=0), r"\(GridDropout\): fill_mask"),
    "mask dropout": (lambda _: A.MaskDropout(), r"\(MaskDropout\): fill_mask"),
    "masking": (
        lambda _: A.XYMasking(num_masks_x=2, mask_x_length=9, fill_mask=0),
        r"\(XYMasking\): fill_mask",
    ),
    "erasing": (lambda _: A.Erasing(fill_mask=0), r"\(Erasing\): fill_mask"),
    "pixel dropout": (lambda _: A.PixelDropout(mask_drop_value=0), r"\(PixelDropout\): mask_drop_value=0"),
    "interpolated": (
        lambda ignored: rotated(fill_mask=ignored, mask_interpolation=cv2.INTER_LINEAR),
        r"\(Rotate\): mask_interpolation=1 .* set mask_interpolation: 0",
    ),
    "resized": (
        lambda _: A.Resize(16, 16, mask_interpolation=cv2.INTER_CUBIC),
        r"\(Resize\): mask_interpolation=2",
    ),
    "one of": (
        lambda ignored: A.OneOf([rotated(fill_mask=ignored), A.Sequential([rotated()])], p=0.01),
        r"transform\.steps\.0\.transforms\.1\.transforms\.0 \(Rotate\): fill_mask=0",
    ),
    "some of": (
        lambda _: A.SomeOf([A.HorizontalFlip(), A.VerticalFlip(), rotated()], n=1, p=0.01),
        r"transforms\.2 \(Rotate\)",
    ),
    "a function": (lambda _: A.Lambda(mask=lambda mask, **_: mask * 0 + 7, p=0.01), r"\(Lambda\): made ids 7"),
    "a user's step": (lambda _: Dimming(p=0.01), r"\(Dimming\): made ids"),
}

RIGHT: dict[str, Callable[[int], Any]] = {
    "rotate": lambda ignored: rotated(fill_mask=ignored),
    "reflected": lambda _: rotated(border_mode=cv2.BORDER_REFLECT_101),
    "dropout of the image alone": lambda _: A.CoarseDropout(),
    "dropout": lambda ignored: A.CoarseDropout(fill_mask=ignored),
    "crop": lambda _: A.RandomCrop(16, 16),
    "too large a crop for the probe": lambda _: A.RandomCrop(2000, 2000),
    "shuffled": lambda _: A.RandomGridShuffle(),
    "one of": lambda ignored: A.OneOf([rotated(fill_mask=ignored), A.RandomGamma(), A.D4()]),
    "own crop": lambda ignored: random_crop(24, fill_mask=ignored),
}


@pytest.mark.parametrize("space", ["two classes", "several labels"])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_labels_are_refused(name: str, space: str) -> None:
    make, message = WRONG[name]
    labels = SPACES[space]
    for transform in (
        AlbumentationsTransform([make(labels.ignore_index)], None),
        FusedTransform(24, labels.ignore_index, RandomScaleCrop([0.5, 2]), steps=[make(labels.ignore_index)]),
    ):
        with pytest.raises(UserError, match=message):
            check_masks(transform, labels, 3)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", RIGHT)
def test_right_pipelines_pass(name: str, space: str) -> None:
    labels = SPACES[space]
    check_masks(AlbumentationsTransform([RIGHT[name](labels.ignore_index)], None), labels, 3)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_passes(name: str) -> None:
    check_masks(built(name), SPACES["two classes"], 3)


class Blackened:
    """A transform of a user's own, without any step of Albumentations."""

    size = 5
    steps = 3

    def __call__(self, sample: Sample, seed: int) -> Sample:
        sample.mask[:3] = seed % 2
        return sample


def test_transforms_of_users_are_tried_too() -> None:
    with pytest.raises(UserError, match="transform: made ids 0 of a mask of 1; a step may move ids"):
        check_masks(Blackened(), SPACES["two classes"], 3)


def test_the_base_of_copy_paste_is_looked_at() -> None:
    base = AlbumentationsTransform([A.Rotate()], None)
    with pytest.raises(UserError, match=r"transform\.base\.steps\.0 \(Rotate\): fill_mask=0"):
        check_masks(CopyPaste(base, 255), SPACES["two classes"], 3)


def test_the_command_refuses_it(call: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "transform").mkdir()
    (tmp_path / "transform" / "mine.yaml").write_text(
        "_target_: segkit.data.transforms.albumentations_pipeline.AlbumentationsTransform\nsize: 64\n"
        "steps: [{_target_: albumentations.Rotate, p: 0.1}]\n"
    )
    ended = call(main, "--config-dir", str(tmp_path), "transform=mine", "tracker=none", "trainer.max_steps=1")
    assert ended.returncode == 2
    assert "transform.steps.0 (Rotate): fill_mask=0" in ended.stderr
    assert "set fill_mask: ${dataset.ignore_index}, which is 255" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_step_itself_is_left_as_it_is() -> None:
    step = A.Rotate(fill_mask=255, p=0.25)
    check_masks(AlbumentationsTransform([step], None), SPACES["two classes"], 3)
    assert step.p == 0.25
