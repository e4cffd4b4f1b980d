"""TIFF files of more kinds than OpenCV reads: any number of channels, pages as channels, many compressions."""

from __future__ import annotations

import importlib.util
import io
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from segkit.data.content import MAX_PIXELS, NOT_AN_IMAGE, TOO_LARGE, UnusableError, check_size

if TYPE_CHECKING:
    import tifffile

INFLATION = 1032
"""The most bytes that one byte of Deflate can stand for."""
SPARE_BYTES = 2**26
"""What inflating may take at a time, whatever the size of the image."""
UNCOMPRESSED, DEFLATE = (1, 32773), (8, 32946, 50013)  # PackBits stand for 64 times as many bytes at most
INFLATED = "TIFF files that hold more than they say, as if to fill the memory"
NOT_READ = "TIFF compressed in a way that is not read; store it with Deflate or none"


def is_unusual(content: bytes, channels: int) -> bool:
    """Whether OpenCV would cut short or not open this TIFF, of which `channels` are wanted. Raises UnusableError."""
    with _opened(content) as file:
        series = file.series[0]
        page = series.keyframe
        check_size(page.imagelength, page.imagewidth)
        return len(series.pages) != 1 or page.samplesperpixel not in (1, 3, 4) or channels not in (1, 3)


def read(content: bytes) -> NDArray[Any]:
    """The first series of a TIFF: one image, or pages of one size that are its channels, first or last.

    Raises UnusableError, also for what would decompress to more than it declares.
    """
    with _opened(content) as file:
        series = file.series[0]
        if math.prod(series.shape) > 4 * MAX_PIXELS:  # as many values as of four channels
            raise UnusableError(TOO_LARGE, str(series.shape))
        check_size(series.keyframe.imagelength, series.keyframe.imagewidth)
        for page in series.pages:
            if page is not None:
                _refuse_inflation(page, content)
        return series.asarray()


def _refuse_inflation(page: Any, content: bytes) -> None:
    """Raise UnusableError for a page whose parts decompress to more than it has pixels: tifffile would do so."""
    kind = int(page.keyframe.compression)
    if kind not in (*UNCOMPRESSED, *DEFLATE) and importlib.util.find_spec("imagecodecs") is None:
        raise UnusableError(NOT_READ)
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
