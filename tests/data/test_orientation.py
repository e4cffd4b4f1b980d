"""EXIF orientation: images and masks come as viewers show them, each as its own file says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from segkit.commands import data_check
from segkit.data.datasets.folder import Folder
from segkit.data.files.decode import orientation, read_color_mask, read_image, read_layers, read_mask
from segkit.data.statistics.verification import turned_apart

# Smooth, for JPEG's sake, and the same in no other orientation.
ROWS, COLUMNS = np.mgrid[:16, :24]
STORED = np.stack([16 * ROWS, 10 * COLUMNS, 4 * (ROWS + COLUMNS)], axis=-1).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, turn: int) -> Image.Image:
    """The picture that viewers show of the file that is written."""
    exif = Image.Exif()
    exif[0x112] = turn
    keywords = {".webp": {"lossless": True, "exact": True}, ".jpg": {"quality": 100, "subsampling": 0}}
    picture = Image.fromarray(pixels)
    picture.save(path, exif=exif, **keywords.get(path.suffix, {}))
    picture.getexif()[0x112] = turn
    return ImageOps.exif_transpose(picture)


@pytest.mark.parametrize("turn", range(1, 9))
class TestAllOrientations:
    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
    def test_images(self, tmp_path: Path, suffix: str, turn: int) -> None:
        shown = save(tmp_path / f"i{suffix}", STORED, turn)
        assert shown.size == ((24, 16) if turn < 5 else (16, 24))
        image = read_image(tmp_path / f"i{suffix}")
        tolerance = 4 if suffix == ".jpg" else 0
        assert np.abs(image.astype(int) - np.asarray(shown)).max() <= tolerance
        grey = read_image(tmp_path / f"i{suffix}", channels=1)
        assert np.abs(grey[..., 0].astype(int) - np.asarray(shown.convert("L"))).max() <= 2
        assert orientation(tmp_path / f"i{suffix}") == turn

    @pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
    def test_four_channels(self, tmp_path: Path, suffix: str, turn: int) -> None:
        stored = np.dstack([STORED, STORED[..., 0] // 2])
        shown = save(tmp_path / f"i{suffix}", stored, turn)
        assert np.array_equal(read_image(tmp_path / f"i{suffix}", channels=4), np.asarray(shown))

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_masks(self, tmp_path: Path, suffix: str, turn: int) -> None:
        path = tmp_path / f"m{suffix}"
        shown = save(path, STORED[..., 0], turn)
        assert np.array_equal(read_mask(path), np.asarray(shown))
        assert np.array_equal(read_layers(path, 1)[..., 0], np.asarray(shown))
        shown = save(path, STORED[..., 0].astype(np.uint16) * 9, turn)
        assert np.array_equal(read_mask(path), np.asarray(shown))
        shown = save(path, STORED, turn)
        red, green, blue = np.moveaxis(np.asarray(shown).astype(int), -1, 0)
        assert np.array_equal(read_color_mask(path), (red << 16) + (green << 8) + blue)
        assert np.array_equal(read_layers(path, 3), np.asarray(shown))


@pytest.mark.parametrize("turn", [0, 9, 300])
def test_orientations_that_are_none_change_nothing(tmp_path: Path, turn: int) -> None:
    save(tmp_path / "i.png", STORED, turn)
    assert np.array_equal(read_image(tmp_path / "i.png"), STORED)


@pytest.mark.parametrize(
    ("shape", "turns", "told"),
    [
        ((9, 9), (1, 1), None),
        ((9, 9), (6, 6), None),
        ((8, 9), (6, 1), None),  # were the mask drawn on the stored pixels, it would be 8x9 and refused
        ((9, 9), (6, 1), "EXIF says the image is turned clockwise (6); its mask has no EXIF orientation"),
        ((8, 9), (3, 1), "EXIF says the image is turned by 180 degrees (3); its mask has no EXIF orientation"),
        ((8, 9), (1, 3), "the image has no EXIF orientation; EXIF says its mask is turned by 180 degrees (3)"),
        (
            (8, 9),
            (6, 8),
            "EXIF says the image is turned clockwise (6); EXIF says its mask is turned anticlockwise (8)",
        ),
    ],
)
def test_where_sizes_do_not_tell(shape: tuple[int, int], turns: tuple[int, int], told: str | None) -> None:
    assert turned_apart(shape, turns) == told


def folder(root: Path) -> Folder:
    return Folder(root=str(root), split="train", num_classes=2)


@pytest.mark.parametrize("turn", [1, 6])
def test_check_data_shows_pictures_turned_apart_from_their_masks(tmp_path: Path, turn: int) -> None:
    for part in ("images", "masks"):
        (tmp_path / "train" / part).mkdir(parents=True)
    save(tmp_path / "train/images/a.jpg", STORED[:, :16], turn)
    Image.fromarray(STORED[:, :16, 0] // 128).save(tmp_path / "train/masks/a.png")
    report = data_check.inspect({"train": folder(tmp_path)}, None, 1)
    assert report.faults == {}
    found = report.remarks.get(data_check.TURNED, [])
    expected = "train/images/a.jpg: EXIF says the image is turned clockwise (6); its mask has no EXIF orientation"
    assert found == ([] if turn == 1 else [expected])


def test_training_warns_of_one_of_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for part in ("images", "masks"):
        (tmp_path / "train" / part).mkdir(parents=True)
    for name in "ab":
        save(tmp_path / f"train/images/{name}.jpg", STORED[:, :16], 3)
        Image.fromarray(STORED[:, :16, 0] // 128).save(tmp_path / f"train/masks/{name}.png")
    folder(tmp_path).check()
    (record,) = caplog.records
    assert "train/images/a.jpg: EXIF says the image is turned by 180 degrees (3)" in record.getMessage()


class Uncertain(Folder):
    """A reader that gives other pixels at every read, as OpenCV did for 16-bit RGB TIFF."""

    def read(self, index: int):
        sample = super().read(index)
        sample.image[0, 0] = np.random.default_rng().integers(0, 256, 3)
        return sample


def test_check_data_refuses_what_is_not_read_the_same_twice(tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (tmp_path / "train" / part).mkdir(parents=True)
    Image.fromarray(STORED).save(tmp_path / "train/images/a.png")
    Image.fromarray(STORED[..., 0] // 128).save(tmp_path / "train/masks/a.png")
    source = Uncertain(root=str(tmp_path), split="train", num_classes=2)
    report = data_check.inspect({"train": source}, None, 1)
    (problem,) = report.faults["samples that cannot be read"]
    assert re.fullmatch(r".*train/images/a\.png: two reads gave different pixels", problem)


def test_check_data_tells_of_another_scale(tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (tmp_path / "train" / part).mkdir(parents=True)
    np.save(tmp_path / "train/images/a.npy", np.array([[-1000, 0], [0, 1000]], np.int16))
    Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).save(tmp_path / "train/masks/a.png")
    report = data_check.inspect({"train": folder(tmp_path)}, None, 1)
    expected = "train: set dataset.data_mean=[0.0, 0.0, 0.0] dataset.data_std=[707.1, 707.1, 707.1]"
    assert report.remarks[data_check.OTHER_SCALE] == [expected]
