"""TIFF of every layout gives the pixels that were written, the same at every read."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from segkit.data.files import tiff
from segkit.data.files.bounded import UnusableError
from segkit.data.files.decode import read_image, read_layers
from segkit.data.files.second_decoder import disagreement

TYPES = ["uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64", "bool"]
LAYOUTS: list[dict[str, Any]] = [
    {},
    {"tile": (16, 32)},
    {"planarconfig": "separate"},
    {"planarconfig": "separate", "tile": (16, 16)},
    {"bigtiff": True},
    {"byteorder": ">"},
    {"rowsperstrip": 3},
    {"pages": True},
    {"photometric": "miniswhite"},
]
COMPRESSIONS = [None, "zlib", "lzw", "packbits", "zstd", "lzma"]


def as_asked(values: NDArray[Any], channels: int) -> NDArray[Any] | None:
    """What `read_image` gives for the values (H, W, C) of a file; None where it has no such channels."""
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    elif values.dtype.kind == "u" and values.dtype != np.uint8:
        values = values / np.float64(np.iinfo(values.dtype).max)
    found = values.shape[2]
    if found == channels:
        return values
    if found > 4:
        return None
    if channels == 3:
        return values[..., :3] if found == 4 else values[..., :1].repeat(3, axis=2)
    return values[..., :1] if found == 2 else (values[..., :3] @ np.array([0.299, 0.587, 0.114]))[..., None]


@pytest.mark.parametrize("name", TYPES)
def test_any_layout_gives_what_was_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "i.tif"
    random = np.random.default_rng(0)
    read = 0
    for channels, compression, layout in itertools.product([1, 2, 3, 4, 5], COMPRESSIONS, LAYOUTS):
        if layout and compression not in (None, "lzw"):
            continue
        keywords = {"photometric": "rgb" if channels in (3, 4) else "minisblack"} | layout
        if (channels == 1 and "planarconfig" in keywords) or (channels > 1 and "photometric" in layout):
            continue
        drawn = random.integers(0, 120, (33, 47, channels))
        values = drawn > 60 if name == "bool" else drawn.astype(name)
        stored = values
        if keywords.pop("pages", False):
            keywords["photometric"] = "minisblack"
            stored = np.moveaxis(values, -1, 0)
        elif "planarconfig" in keywords:
            stored = np.moveaxis(values, -1, 0)
        elif channels > 1:
            keywords["planarconfig"] = "contig"
        tifffile.imwrite(path, stored.squeeze(), compression=compression, metadata=None, **keywords)
        if keywords["photometric"] == "miniswhite" and values.dtype.kind in "bu":
            values = ~values
        if name == "bool" and keywords.get("planarconfig") == "contig":
            with pytest.raises(UnusableError, match="interleave channels of less than 8 bits"):
                read_image(path, channels)
            continue
        for asked in sorted({1, 3, channels}):
            expected = as_asked(values, asked)
            # Pages are channels, but no colours.
            if expected is None or ("pages" in layout and asked != channels > 1):
                with pytest.raises(UnusableError, match=f"in_channels={asked}: {channels}"):
                    read_image(path, asked)
                continue
            image = read_image(path, asked)
            assert image.dtype == (np.uint8 if values.dtype in (np.uint8, np.bool_) else np.float32)
            # The grey of colours that are whole numbers is rounded.
            is_rounded = asked == 1 and channels > 2 and (values.dtype == np.uint8 or values.dtype.kind in "bi")
            atol = 0.51 if is_rounded else 1e-5
            np.testing.assert_allclose(image, expected, atol=atol, rtol=1e-6, err_msg=f"{channels} {layout}")
            assert np.array_equal(read_image(path, asked), image)
            assert disagreement(path, image) is None, (channels, asked, compression, layout)
            read += 1
    assert read > 50


def test_16_bit_rgb_is_the_same_in_tiff_and_png(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 65536, (40, 50, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "i.tif", image, photometric="rgb")
    for path in (tmp_path / "i.png", tmp_path / "lzw.tif"):  # OpenCV writes TIFF with LZW
        cv2.imwrite(str(path), image[..., ::-1])
    for path in (tmp_path / "i.tif", tmp_path / "i.png", tmp_path / "lzw.tif"):
        for _ in range(3):
            np.testing.assert_allclose(read_image(path), image / 65535, rtol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "PA", "LA"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg", "group4"])
def test_8_bit_files_look_as_pillow_shows_them(tmp_path: Path, mode: str, compression: str) -> None:
    steps = np.linspace(0, 255, 24 * 32 * 3).reshape(24, 32, 3).astype(np.uint8)
    picture = Image.fromarray(steps[:, ::-1].copy())
    picture = picture.convert("P" if mode == "PA" else mode)
    picture = picture.convert(mode)
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.fromarray(steps[..., 0]))  # transparent and opaque: colours are not multiplied by it
    path = tmp_path / "i.tif"
    try:
        picture.save(path, compression=compression)
    except Exception:
        pytest.skip("not a mode of this compression")
    with Image.open(path) as shown:
        expected = np.asarray(shown.convert("RGBA" if "A" in mode else "RGB"))[..., :3]
    assert np.array_equal(read_image(path), expected)


def test_four_inks_are_channels_where_four_are_asked_for(tmp_path: Path) -> None:
    inks = np.random.default_rng(0).integers(0, 256, (5, 6, 4), np.uint8)
    Image.fromarray(inks, "CMYK").save(tmp_path / "i.tif")
    assert np.array_equal(read_image(tmp_path / "i.tif", 4), inks)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_numbers_of_few_bits_fill_the_range(tmp_path: Path, channels: int) -> None:
    values = np.array([[0, 4095]], np.uint16)
    tifffile.imwrite(tmp_path / "i.tif", values, bitspersample=12, photometric="minisblack")
    if channels == 4:
        with pytest.raises(UnusableError, match=r"in_channels=4: 1"):
            read_image(tmp_path / "i.tif", channels)
        return
    assert read_image(tmp_path / "i.tif", channels)[0, :, 0].tolist() == [0, 1]


@pytest.mark.parametrize("mode", ["LAB", "YCbCr"])
def test_other_colour_spaces_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (8, 8), (9, 80, 200)).convert(mode).save(tmp_path / "i.tif")
    with pytest.raises(UnusableError, match="colour space that is not read; store them as RGB"):
        read_image(tmp_path / "i.tif")


def test_stacks_are_refused_with_their_axes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "i.tif", np.zeros((4, 5, 6, 3), np.uint8), photometric="rgb")
    with pytest.raises(UnusableError, match=r"other axes than height, width and channels: .*YXS \(4, 5, 6, 3\)"):
        read_image(tmp_path / "i.tif")


def test_planes_that_are_as_wide_as_channels_are_not_confused(tmp_path: Path) -> None:
    """Five planes of 4x5 pixels: the shape (5, 4, 5) alone does not tell which axis is which."""
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 5), np.uint8)
    planes = np.moveaxis(image, -1, 0)
    tifffile.imwrite(tmp_path / "i.tif", planes, photometric="minisblack", planarconfig="separate")
    assert np.array_equal(read_image(tmp_path / "i.tif", 5), image)
    assert np.array_equal(read_layers(tmp_path / "i.tif", 5), image)


@pytest.mark.parametrize("channels", [2, 5])
def test_arrays_written_as_a_page_a_row_are_known_by_their_channels(tmp_path: Path, channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 9, channels), np.uint8)
    tifffile.imwrite(tmp_path / "i.tif", image, photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "i.tif") as file:
        assert len(file.pages) == 7
    assert np.array_equal(read_image(tmp_path / "i.tif", channels), image)
    with pytest.raises(UnusableError, match=r"in_channels=3: 7 pages"):
        read_image(tmp_path / "i.tif")


def test_a_missing_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "i.tif", compression="tiff_lzw")
    monkeypatch.setattr(tiff.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnusableError, match=r"needs the package imagecodecs \(pip install imagecodecs\): LZW"):
        read_image(tmp_path / "i.tif")


def test_a_second_decoder_finds_what_was_read_wrongly(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 65536, (9, 8, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "i.tif", image, photometric="rgb")
    found = read_image(tmp_path / "i.tif")
    found[3, 4, 0] = 2
    assert "differ by up to" in (disagreement(tmp_path / "i.tif", found) or "")
    assert disagreement(tmp_path / "i.tif", found[:5]) == "8x9 pixels instead of 8x5"
