"""TIFF files of any layout: strips, tiles or planes, any compression, number of channels, depth and byte order.

tifffile reads them all alike. OpenCV, which reads the other formats, multiplies colours by alpha here and leaves
channels of more than 8 bits undefined.
"""

from __future__ import annotations

import importlib.util
import io
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segkit.data.files.bounded import MAX_PIXELS, NOT_AN_IMAGE, OTHER_NUMBER, TOO_LARGE, UnusableError, check_size

if TYPE_CHECKING:
    import tifffile

INFLATION = 1032
"""The most bytes that one byte of Deflate can stand for."""
SPARE_BYTES = 2**26
"""What inflating may take at a time, whatever the size of the image."""
UNCOMPRESSED, DEFLATE, JPEG = (1, 32773), (8, 32946, 50013), (6, 7, 33007, 34892)
# PackBits, 32773, stand for 64 times as many bytes at most.
INFLATED = "TIFF files that hold more than they say, as if to fill the memory"
NOT_READ = "TIFF compressed in a way that needs the package imagecodecs (pip install imagecodecs)"
PACKED = "TIFF files that interleave channels of less than 8 bits; store them with 8 bits"
COLORS = "TIFF files in a colour space that is not read; store them as RGB"
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, TRANSPARENCY, CMYK, YCBCR = range(7)
LINEAR = 34892  # as raw photographs are stored once they have three channels


class Picture(NamedTuple):
    """The first image of a TIFF: its channels (H, W, C) as they are stored, and what they mean.

    Attributes:
        photometric: the TIFF tag of that name, 2 for RGB.
        bits: of one value; the type of `channels` may hold more.
        palette: (3, number of colours), 16-bit, or None.
        orientation: as in EXIF, 1 for upright.
        has_pages: whether the channels are pages, which have no colours.
    """

    channels: NDArray[Any]
    photometric: int
    bits: int
    palette: NDArray[Any] | None
    orientation: int
    has_pages: bool


def read(content: bytes, channels: int) -> Picture:
    """The first series of a TIFF: one image, or pages of one size that are its channels.

    An array (H, W, C) that was written as H pages, as tifffile does unless told otherwise, is known by its number
    of `channels`. Raises UnusableError, also for what would decompress to more than it declares.
    """
    with _opened(content) as file:
        series = file.series[0]
        page = series.keyframe
        if math.prod(series.shape) > 4 * MAX_PIXELS:  # as many values as of four channels
            raise UnusableError(TOO_LARGE, str(series.shape))
        check_size(page.imagelength, page.imagewidth)
        bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
        if bits < 8 and page.samplesperpixel > 1 and page.planarconfig == 1:  # which tifffile confuses
            raise UnusableError(PACKED, f"{page.samplesperpixel} channels of {bits} bits")
        for part in series.pages:
            if part is not None:
                _refuse_inflation(part, content)
        photometric = int(page.photometric)
        if photometric == YCBCR and int(page.compression) in JPEG:
            photometric = RGB  # the decoder of JPEG has converted it
        orientation = page.tags.get("Orientation")
        array, has_pages = series.asarray(), len(series.pages) > 1
        if has_pages and array.ndim == 3 and array.shape[2] == channels != array.shape[0]:
            has_pages = False
        else:
            array = _channels_last(array, series.axes)
        return Picture(
            array,
            photometric,
            bits,
            page.colormap,
            1 if orientation is None else int(orientation.value),
            has_pages,
        )


def as_shown(picture: Picture, channels: int) -> NDArray[Any]:
    """The channels as a viewer shows them: palettes and ink as RGB, white as the largest value, all bits used.

    Inks are left as they are where as many `channels` are asked for. Numbers with a sign and floating-point ones
    are in units of their own, and never changed. Raises UnusableError.
    """
    values, photometric = picture.channels, picture.photometric
    if picture.has_pages and values.shape[2] != channels:
        raise UnusableError(OTHER_NUMBER.format(channels), f"{values.shape[2]} pages")
    if photometric == PALETTE and picture.palette is not None:
        palette = picture.palette
        # Some programs store 8 bits where the format asks for 16.
        palette = palette >> 8 if palette.max() > 255 else palette
        return palette.astype(np.uint8).T[values[..., 0].astype(np.intp)]
    if photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, TRANSPARENCY, CMYK, LINEAR):
        raise UnusableError(COLORS, f"photometric interpretation {photometric}")
    if values.dtype.kind == "u":
        values = _filled(values, picture.bits)
    if photometric == WHITE_IS_ZERO and values.dtype.kind in "bu":
        values = ~values  # of unsigned numbers: the largest less each
    if photometric == CMYK and values.dtype == np.uint8 and values.shape[2] == 4 != channels:
        return np.asarray(Image.fromarray(np.ascontiguousarray(values), "CMYK").convert("RGB"))
    return values


def _filled(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Unsigned numbers of `bits` stretched to all bits of their type, as the largest number stands for white."""
    most = np.iinfo(values.dtype).max
    if most == 2**bits - 1:
        return values
    return np.rint(values * (most / (2**bits - 1))).astype(values.dtype)


def _channels_last(array: NDArray[Any], axes: str) -> NDArray[Any]:
    """An array with `axes` as tifffile names them as (H, W, C). Raises UnusableError for one of more axes."""
    others = "".join(axis for axis in axes if axis not in "YX")
    if len(others) > 1 or len(axes) != len(others) + 2:
        raise UnusableError("TIFF files of other axes than height, width and channels", f"{axes} {array.shape}")
    array = np.moveaxis(array, [axes.index("Y"), axes.index("X")], [0, 1])
    return array[..., None] if array.ndim == 2 else array


def _refuse_inflation(page: Any, content: bytes) -> None:
    """Raise UnusableError for a page whose parts decompress to more than it has pixels: tifffile would do so."""
    kind = page.keyframe.compression
    if kind not in (*UNCOMPRESSED, *DEFLATE) and importlib.util.find_spec("imagecodecs") is None:
        raise UnusableError(NOT_READ, getattr(kind, "name", str(kind)))
    declared = math.prod(page.keyframe.chunks) * page.keyframe.dtype.itemsize
    if kind not in DEFLATE or max(page.databytecounts, default=0) * INFLATION <= max(declared, SPARE_BYTES):
        return
    for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        inflated = zlib.decompressobj().decompress(content[start : start + length], declared + 1)
        if len(inflated) > declared:
            raise UnusableError(INFLATED)


@contextmanager
def _opened(content: bytes) -> Iterator[tifffile.TiffFile]:
    import tifffile  # a tenth of a second, and most data has no TIFF

    try:
        with tifffile.TiffFile(io.BytesIO(content), _multifile=False) as file:
            yield file
    except (UnusableError, MemoryError):
        raise
    except Exception as error:  # tifffile raises whatever a damaged file makes Python raise
        if "imagecodecs" in str(error):
            raise UnusableError(NOT_READ) from None
        raise UnusableError(NOT_AN_IMAGE) from None
