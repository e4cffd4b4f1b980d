from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segkit.data.reading import UnusableError, read_image, read_mask

IDS = np.array([[0, 1, 2], [3, 2, 1]], np.uint8)


def test_palette_masks_give_indices(tmp_path: Path) -> None:
    image = Image.fromarray(IDS).convert("P")
    image.putdata(IDS.ravel().tolist())
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    image.save(tmp_path / "m.png")
    assert Image.open(tmp_path / "m.png").mode == "P"
    assert read_mask(tmp_path / "m.png").tolist() == IDS.tolist()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_8_bit_masks(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(IDS).save(tmp_path / f"m{suffix}")
    mask = read_mask(tmp_path / f"m{suffix}")
    assert mask.dtype == np.uint8
    assert mask.tolist() == IDS.tolist()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_masks(tmp_path: Path, suffix: str) -> None:
    ids = np.array([[0, 256, 65535]], np.uint16)
    Image.fromarray(ids).save(tmp_path / f"m{suffix}")
    mask = read_mask(tmp_path / f"m{suffix}")
    assert mask.dtype == np.int32
    assert mask.tolist() == [[0, 256, 65535]]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_1_bit_masks_hold_0_and_1(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(IDS > 1).save(tmp_path / f"m{suffix}")
    assert read_mask(tmp_path / f"m{suffix}").tolist() == [[0, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_masks_of_few_bits_are_not_stretched(tmp_path: Path, bits: int) -> None:
    Image.fromarray(IDS).save(tmp_path / "m.png", bits=bits)
    content = (tmp_path / "m.png").read_bytes()
    assert (content[24], content[25]) == (bits, 0), "a grey PNG of that many bits"
    assert read_mask(tmp_path / "m.png").tolist() == IDS.tolist()


def test_jpeg_masks_are_refused_whatever_their_name(tmp_path: Path) -> None:
    Image.fromarray(IDS).save(tmp_path / "m.png", format="JPEG")
    with pytest.raises(UnusableError, match="JPEG masks"):
        read_mask(tmp_path / "m.png")


def test_jpeg_inside_tiff_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "m.tif", compression="jpeg")
    with pytest.raises(UnusableError, match="JPEG masks"):
        read_mask(tmp_path / "m.tif")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_masks_of_several_channels_are_refused(tmp_path: Path, mode: str) -> None:
    Image.fromarray(IDS).convert(mode).save(tmp_path / "m.png")
    with pytest.raises(UnusableError, match=f"masks stored as {mode} instead of one class id a pixel"):
        read_mask(tmp_path / "m.png")


def test_floating_point_masks_are_refused(tmp_path: Path) -> None:
    Image.fromarray(IDS.astype(np.float32)).save(tmp_path / "m.tif")
    with pytest.raises(UnusableError, match="stored as F"):
        read_mask(tmp_path / "m.tif")


def test_ids_that_16_bits_cannot_hold_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[-1, 70000]], np.int32)).save(tmp_path / "m.tif")
    with pytest.raises(UnusableError, match="below 0 or above 65535"):
        read_mask(tmp_path / "m.tif")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_cut_off_images_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / f"i{suffix}"
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UnusableError, match="damaged or cut off"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_cut_off_masks_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    path = tmp_path / f"m{suffix}"
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UnusableError, match="damaged or cut off"):
        read_mask(path)


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_missing_files_say_so(tmp_path: Path, read: object) -> None:
    with pytest.raises(UnusableError, match="cannot be read: No such file"):
        read(tmp_path / "nothing.png")  # type: ignore[operator]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_images_come_as_rgb(tmp_path: Path, mode: str) -> None:
    color = Image.new("RGB", (3, 2), (255, 255, 255) if mode in ("L", "1") else (255, 0, 0))
    color.convert(mode).save(tmp_path / "i.png")
    image = read_image(tmp_path / "i.png")
    assert (image.shape, image.dtype) == ((2, 3, 3), np.uint8)
    assert image[0, 0].tolist() == list(color.getpixel((0, 0)))


def test_16_bit_images_keep_their_depth(tmp_path: Path) -> None:
    bgr = np.zeros((1, 2, 3), np.uint16)
    bgr[0, 1] = (1, 2, 65535)
    cv2.imwrite(str(tmp_path / "i.png"), bgr)
    image = read_image(tmp_path / "i.png")
    assert image.dtype == np.float32
    assert image[0, 1] == pytest.approx([1, 2 / 65535, 1 / 65535])


def test_images_are_turned_upright(tmp_path: Path) -> None:
    wide = Image.new("RGB", (4, 2))
    exif = wide.getexif()
    exif[0x0112] = 6  # a camera held upright
    wide.save(tmp_path / "i.jpg", exif=exif)
    assert read_image(tmp_path / "i.jpg").shape == (4, 2, 3)
