from __future__ import annotations

import io
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from segkit.data.files.bounded import MAX_PIXELS, UnusableError
from segkit.data.files.decode import orientation, read_color_mask, read_image, read_layers, read_mask
from segkit.data.files.second_decoder import disagreement

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


@pytest.mark.parametrize("stored", [1, 3, 4])
@pytest.mark.parametrize("asked", [1, 3, 4])
def test_16_bit_png_of_any_channels(tmp_path: Path, stored: int, asked: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (9, 8, stored), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "i.png"), values[..., [2, 1, 0, 3][:stored]] if stored > 1 else values)
    if asked == 4 != stored:
        with pytest.raises(UnusableError, match=f"in_channels=4: {stored}"):
            read_image(tmp_path / "i.png", asked)
        return
    expected = values[..., :3] / 65535
    if stored == 4 == asked:
        expected = values / 65535
    elif asked == 1 and stored > 1:
        expected = (expected @ np.array([0.299, 0.587, 0.114]))[..., None]
    image = read_image(tmp_path / "i.png", asked)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, np.broadcast_to(expected, (9, 8, asked)), atol=1e-4)
    assert disagreement(tmp_path / "i.png", image) is None


def test_images_are_turned_upright(tmp_path: Path) -> None:
    wide = Image.new("RGB", (4, 2))
    exif = wide.getexif()
    exif[0x0112] = 6  # a camera held upright
    wide.save(tmp_path / "i.jpg", exif=exif)
    assert read_image(tmp_path / "i.jpg").shape == (4, 2, 3)
    assert orientation(tmp_path / "i.jpg") == 6


RANDOM = np.random.default_rng(0)
RGB8 = RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_comes_as_the_colours_that_viewers_show(tmp_path: Path, suffix: str) -> None:
    picture = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # red, in ink
    picture.save(tmp_path / f"i{suffix}", quality=100)
    red, green, blue = read_image(tmp_path / f"i{suffix}")[4, 4].tolist()
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.parametrize(
    ("mode", "value", "grey"), [("L", 77, 77), ("RGB", (255, 0, 0), 76), ("RGBA", (0, 255, 0, 9), 150)]
)
def test_one_channel_is_the_luma(tmp_path: Path, mode: str, value: Any, grey: int) -> None:
    """Rec. 601: 0.299 red + 0.587 green + 0.114 blue."""
    Image.new(mode, (3, 2), value).save(tmp_path / "i.png")
    image = read_image(tmp_path / "i.png", channels=1)
    assert (image.shape, image.dtype) == ((2, 3, 1), np.uint8)
    assert image[0, 0, 0] == pytest.approx(grey, abs=1)


def test_four_channels_keep_transparency(tmp_path: Path) -> None:
    rgba = RANDOM.integers(0, 256, (4, 5, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "i.png")
    assert np.array_equal(read_image(tmp_path / "i.png", channels=4), rgba)
    assert np.array_equal(read_image(tmp_path / "i.png"), rgba[..., :3])


def save_contiguous(path: Path, array: np.ndarray[Any, Any]) -> None:
    config = "contig" if array.shape[2] > 1 else None
    tifffile.imwrite(path, array, photometric="minisblack", planarconfig=config)


def save_planes(path: Path, array: np.ndarray[Any, Any]) -> None:
    config = "separate" if array.shape[2] > 1 else None
    tifffile.imwrite(path, array.transpose(2, 0, 1), photometric="minisblack", planarconfig=config)


def save_pages(path: Path, array: np.ndarray[Any, Any]) -> None:
    tifffile.imwrite(path, array.transpose(2, 0, 1), photometric="minisblack")


def save_deflated(path: Path, array: np.ndarray[Any, Any]) -> None:
    config = "contig" if array.shape[2] > 1 else None
    tifffile.imwrite(path, array, photometric="minisblack", planarconfig=config, compression="zlib")


def save_array(path: Path, array: np.ndarray[Any, Any]) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def save_array_channels_first(path: Path, array: np.ndarray[Any, Any]) -> None:
    save_array(path, array.transpose(2, 0, 1))


MANY = [save_contiguous, save_planes, save_pages, save_deflated, save_array, save_array_channels_first]


@pytest.mark.parametrize("save", MANY)
@pytest.mark.parametrize("channels", [2, 5, 12])
def test_any_number_of_channels_in_tiff_and_arrays(tmp_path: Path, save: Callable[..., None], channels: int) -> None:
    image = RANDOM.integers(0, 256, (6, 9, channels), dtype=np.uint8)
    save(tmp_path / "i", image)
    found = read_image(tmp_path / "i", channels)
    assert found.dtype == np.uint8
    assert np.array_equal(found, image)
    with pytest.raises(UnusableError, match=r"another number of channels than dataset\.in_channels=7: "):
        read_image(tmp_path / "i", 7)


def test_pages_are_not_cut_down_to_the_first(tmp_path: Path) -> None:
    """OpenCV would read the first page of these five as a grey image."""
    save_pages(tmp_path / "i.tif", RANDOM.integers(0, 256, (6, 9, 5), dtype=np.uint8))
    with pytest.raises(UnusableError, match="another number of channels"):
        read_image(tmp_path / "i.tif")


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[[0, 65535, 257]]], np.uint16), [0, 1, 257 / 65535]),
        (np.array([[[0, 2**32 - 1, 1]]], np.uint32), [0, 1, 1 / (2**32 - 1)]),
        (np.array([[[-1000, 0, 3071]]], np.int16), [-1000, 0, 3071]),
        (np.array([[[-1.5, 0.25, 300]]], np.float64), [-1.5, 0.25, 300]),
        (np.array([[[True, False, True]]]), [255, 0, 255]),
    ],
)
def test_numbers_of_other_types(tmp_path: Path, array: np.ndarray[Any, Any], expected: list[float]) -> None:
    save_array(tmp_path / "i.npy", array)
    image = read_image(tmp_path / "i.npy")
    assert image.dtype == (np.uint8 if array.dtype == np.bool_ else np.float32)
    assert image.ravel().tolist() == pytest.approx(expected)


def test_tiff_of_floating_point_is_taken_as_it_is(tmp_path: Path) -> None:
    image = RANDOM.normal(size=(4, 5, 3)).astype(np.float32)
    tifffile.imwrite(tmp_path / "i.tif", image, photometric="rgb")
    assert np.array_equal(read_image(tmp_path / "i.tif"), image)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    save_array(tmp_path / "i.npy", np.array([[[0, value, 1]]], np.float32))
    with pytest.raises(UnusableError, match="not finite"):
        read_image(tmp_path / "i.npy")


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return (tmp_path.joinpath("harmed").touch, ())

    np.save(tmp_path / "i.npy", np.array([[Harmful()]], dtype=object))
    for read in (read_image, read_mask):
        with pytest.raises(UnusableError, match="arrays that hold objects"):
            read(tmp_path / "i.npy")
    assert not (tmp_path / "harmed").exists()


def png(width: int, height: int) -> bytes:
    """A PNG that declares a size and compresses as many zeros as it can in 10 kB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**7)))
        + chunk(b"IEND", b"")
    )


def jpeg(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG")
    content = file.getvalue()
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + struct.pack(">HH", height, width) + content[place + 4 :]


def bmp(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "BMP")
    return file.getvalue()[:18] + struct.pack("<ii", width, height) + file.getvalue()[26:]


def tiff(width: int, height: int) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((8, 8), np.uint8), photometric="minisblack")
    content = bytearray(file.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as parsed:
        for name, value in (("ImageWidth", width), ("ImageLength", height)):
            tag = parsed.pages[0].tags[name]  # pyright: ignore[reportAttributeAccessIssue]
            # Small numbers are stored as 16 bits; 32 are told by the type 4 in the entry.
            content[tag.offset + 2 : tag.offset + 4] = struct.pack("<H", 4)
            content[tag.valueoffset : tag.valueoffset + 4] = struct.pack("<I", value)
    return bytes(content)


def array(width: int, height: int) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (height, width)})
    return file.getvalue()


@pytest.mark.parametrize("made", [png, jpeg, bmp, tiff, array])
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_files_that_declare_huge_sizes_are_refused_without_their_memory(
    tmp_path: Path, made: Callable[[int, int], bytes], read: Callable[[Path], Any]
) -> None:
    (tmp_path / "bomb").write_bytes(made(60_000, 60_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnusableError, match=f"more than the {MAX_PIXELS} pixels|damaged or cut off"):
        read(tmp_path / "bomb")
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 200_000


def test_colours_of_masks(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[255, 0, 1], [0, 0, 0]]], np.uint8)).save(tmp_path / "m.png")
    assert read_color_mask(tmp_path / "m.png").tolist() == [[0xFF0001, 0]]
    palette = Image.new("P", (1, 1), 7)
    palette.putpalette([9] * 21 + [255, 0, 1])
    for picture in (palette, Image.new("RGBA", (1, 1), (255, 0, 1, 30))):
        picture.save(tmp_path / "m.png")
        assert read_color_mask(tmp_path / "m.png").tolist() == [[0xFF0001]]


@pytest.mark.parametrize(("mode", "name"), [("CMYK", "m.tif"), ("RGB", "m.jpg"), ("RGB", "m.webp"), ("I;16", "m.png")])
def test_colours_that_are_not_exact_are_refused(tmp_path: Path, mode: str, name: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / name)
    with pytest.raises(UnusableError, match=r"stored as|compression changes ids"):
        read_color_mask(tmp_path / name)


@pytest.mark.parametrize("save", MANY)
@pytest.mark.parametrize("num_layers", [1, 2, 3, 6])
def test_layers(tmp_path: Path, save: Callable[..., None], num_layers: int) -> None:
    layers = RANDOM.integers(0, 2, (4, 5, num_layers), dtype=np.uint8)
    save(tmp_path / "m", layers)
    assert np.array_equal(read_layers(tmp_path / "m", num_layers), layers)
    with pytest.raises(UnusableError, match=r"one channel for each of the 7 classes: "):
        read_layers(tmp_path / "m", 7)


@pytest.mark.parametrize("mode", ["1", "L"])
def test_one_layer_may_be_a_grey_picture(tmp_path: Path, mode: str) -> None:
    Image.fromarray(IDS % 2 * 255).convert(mode).save(tmp_path / "m.png")
    expected = IDS % 2 * (1 if mode == "1" else 255)
    assert np.array_equal(read_layers(tmp_path / "m.png", 1)[..., 0], expected)


def test_layers_hold_small_whole_numbers(tmp_path: Path) -> None:
    for layers in (np.full((2, 2, 2), 0.5), np.full((2, 2, 2), 300)):
        save_array(tmp_path / "m.npy", layers)
        with pytest.raises(UnusableError, match=r"more than whole numbers in 0\.\.255"):
            read_layers(tmp_path / "m.npy", 2)


def test_masks_as_arrays(tmp_path: Path) -> None:
    save_array(tmp_path / "m.npy", np.array([[0, 300]], np.int64))
    assert read_mask(tmp_path / "m.npy").tolist() == [[0, 300]]
    save_array(tmp_path / "m.npy", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(UnusableError, match=r"no array \(H, W\) of whole numbers: uint8 \(2, 2, 3\)"):
        read_mask(tmp_path / "m.npy")
