"""Files to arrays: images as a camera meant them, masks as the ids they hold."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from segkit.data.files import tiff
from segkit.data.files.bounded import NOT_AN_IMAGE, OTHER_NUMBER, TOO_LARGE, UnusableError, check_size, read_content

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
TIFF = (b"II", b"MM")  # how such files begin
SUFFIXES = PICTURES | {".npy"}
MASK_FORMATS = ("PNG", "TIFF", "BMP")
FORMATS = (*MASK_FORMATS, "JPEG", "WEBP")
ID_MODES = frozenset({"1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N"})
COLOR_MODES = frozenset({"RGB", "RGBA", "P", "L", "1"})
# Pillow widens grey of 2 and 4 bits to the full range of 8; these factors undo it.
WIDENED = {"L;2": 85, "L;4": 17}
# What begins EXIF in JPEG and PNG or in WebP, and the same said in ImageMagick's or Adobe's way.
EXIF_MARKS = (b"Exif", b"eXIf", b"EXIF", b"Raw profile type exif", b"tiff:Orientation")
READING_VERSION = 2
"""Raised whenever files come to give other pixels, so that nothing is taken from caches of before."""
DAMAGED_ARRAY = "arrays that hold objects, or are damaged or cut off"
NOT_A_MASK = "not a PNG, TIFF, BMP or NPY mask, or damaged or cut off"

# The bound is held before anything is decoded, so Pillow need not warn of sizes below it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_image(path: Path, channels: int = 3) -> NDArray[Any]:
    """The image (H, W, channels), turned upright as its EXIF says: uint8 for 8-bit files, else float32.

    Whole numbers of more bits are divided by the largest that their type holds, which gives 0..1. Floating-
    point numbers, and whole numbers with a sign, are taken as they are, so mean and std are in their units.
    For 3 channels grey is repeated, CMYK and palettes become their colours, and transparency is dropped; for
    1 colours become grey. Any other number must be that of the file: arrays (.npy) and TIFF files may have
    any. Raises UnusableError.
    """
    content = read_content(path)
    if content.startswith(b"\x93NUMPY"):
        return as_image(_channels_last(_array(content), channels), channels)
    if content.startswith(TIFF):
        picture = tiff.read(content, channels)
        return as_image(upright(tiff.as_shown(picture, channels), picture.orientation), channels)
    size = _declared_size(content)
    if size is None:
        raise UnusableError(NOT_AN_IMAGE)
    check_size(*size)
    flags = {1: cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, 3: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH}
    flag = flags[channels] | cv2.IMREAD_IGNORE_ORIENTATION if channels in flags else cv2.IMREAD_UNCHANGED
    # Decoded from memory: on some systems OpenCV does not open names outside the local code page.
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(error.err) from None
        image = None
    if image is None:
        raise UnusableError(NOT_AN_IMAGE)
    if image.ndim == 2:
        image = image[..., None]
    if channels not in flags and image.shape[2] == 4:
        image = image[..., [2, 1, 0, 3]]
    return as_image(upright(image, exif_orientation(content)), channels)


def read_mask(path: Path) -> NDArray[Any]:
    """The ids (H, W) in a mask file, in 0..65535: uint8, or int32 for files of more than 8 bits.

    Turned upright as the EXIF of the mask file itself says, as images are by theirs. Palette masks give their
    indices, never their colours. Raises UnusableError.
    """
    content = read_content(path)
    if content.startswith(b"\x93NUMPY"):
        ids = _array(content)
        if ids.ndim != 2 or ids.dtype.kind not in "bui":
            raise UnusableError("masks that are no array (H, W) of whole numbers", f"{ids.dtype} {ids.shape}")
        return _in_range(ids)
    # Pillow, because OpenCV turns palettes to colours and stretches masks of 2 and 4 bits.
    with _opened_mask(content) as image:
        if image.mode not in ID_MODES:
            raise UnusableError(
                f"masks stored as {image.mode} instead of one class id a pixel"
                + "; for class colours set dataset.mask_format=colors" * (image.mode in ("RGB", "RGBA"))
            )
        factor = WIDENED.get(_stored_as(image), 1)
        ids = upright(np.asarray(image), _mask_orientation(content))
    if ids.dtype == np.uint8 and factor > 1:
        return ids // np.uint8(factor)
    return _in_range(ids)


def read_color_mask(path: Path) -> NDArray[np.int32]:
    """The colours (H, W) of a mask file as numbers 0xRRGGBB. Raises UnusableError."""
    content = read_content(path)
    with _opened_mask(content) as image:
        if image.mode not in COLOR_MODES:
            raise UnusableError(f"masks stored as {image.mode} instead of RGB class colours of 8 bits")
        rgb = upright(np.asarray(image.convert("RGB")), _mask_orientation(content))
    colors = rgb[..., 0].astype(np.int32)
    for channel in (1, 2):
        colors <<= 8
        colors |= rgb[..., channel]
    return colors


def read_layers(path: Path, num_layers: int) -> NDArray[np.uint8]:
    """The values (H, W, num_layers) of a mask file with one channel a class, in 0..255.

    An array (.npy) or TIFF with the channels last or first, or a PNG of that many channels; one class may
    leave the channels out. Raises UnusableError.
    """
    content = read_content(path)
    if content.startswith(b"\x93NUMPY"):
        layers = _channels_last(_array(content), num_layers)
    elif content.startswith(TIFF):
        picture = tiff.read(content, num_layers)
        layers = upright(picture.channels, picture.orientation)
    else:
        with _opened_mask(content) as image:
            layers = upright(_channels_last(np.asarray(image), num_layers), exif_orientation(content))
    if layers.shape[2] != num_layers:
        raise UnusableError(
            f"masks without one channel for each of the {num_layers} classes", f"{layers.shape[2]} channels"
        )
    if layers.dtype.kind not in "bui" or (layers.size and (layers.min() < 0 or layers.max() > 255)):
        raise UnusableError("masks whose channels hold more than whole numbers in 0..255", str(layers.dtype))
    return np.ascontiguousarray(layers).astype(np.uint8)


def orientation(path: Path) -> int:
    """How a viewer turns the picture in a file, 1..8 as in EXIF; 1: not at all, also for files that cannot be read."""
    try:
        return exif_orientation(read_content(path))
    except UnusableError:
        return 1


def exif_orientation(content: bytes) -> int:
    """How a viewer turns the picture in `content`, 1..8 as in EXIF; 1 for not at all."""
    if not content.startswith(TIFF) and not any(mark in content for mark in EXIF_MARKS):
        return 1
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            found = image.getexif().get(0x0112, 1)
            return found if found in range(1, 9) else 1
    except Exception:  # Pillow raises whatever damaged EXIF makes Python raise
        return 1


def upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Stored pixels (H, W) or (H, W, C) as a viewer shows them, for an orientation of 1..8 as in EXIF."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array if orientation == 1 else np.ascontiguousarray(array)


def _mask_orientation(content: bytes) -> int:
    """That of a mask which Pillow has decoded: it has turned TIFF files already."""
    return 1 if content.startswith(TIFF) else exif_orientation(content)


def _declared_size(content: bytes) -> tuple[int, int] | None:
    """(height, width) in the header of an image file; None if it has none."""
    if content.startswith(b"\x89PNG\r\n\x1a\n") and len(content) >= 24:
        return int.from_bytes(content[20:24], "big"), int.from_bytes(content[16:20], "big")
    if content.startswith(b"\xff\xd8"):
        return _jpeg_size(content)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return image.height, image.width
    except Image.DecompressionBombError:
        raise UnusableError(TOO_LARGE) from None
    except Exception:  # Pillow raises whatever a damaged file makes Python raise
        # And it knows fewer kinds of TIFF than are read here.
        return (0, 0) if content.startswith(TIFF) else None


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """From the frame header; the segments before it say how long they are."""
    position = 2
    while position + 9 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # filling
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = content[position + 5 : position + 7], content[position + 7 : position + 9]
            return int.from_bytes(height, "big"), int.from_bytes(width, "big")
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return None


def _array(content: bytes) -> NDArray[Any]:
    """The array of an .npy file, which must be as long as its header says; objects are never unpickled."""
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        shape, _, dtype = read_header(file)
        if dtype.kind not in "buif" or math.prod(shape) * dtype.itemsize != len(content) - file.tell():
            raise UnusableError(DAMAGED_ARRAY)
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)
    except UnusableError:
        raise
    except Exception:  # NumPy reads the header as Python, and raises whatever that does
        raise UnusableError(DAMAGED_ARRAY) from None


def _channels_last(array: NDArray[Any], channels: int) -> NDArray[Any]:
    """An array (H, W), (H, W, C) or (C, H, W) as (H, W, C); where both fit, channels are last."""
    if array.ndim == 2:
        return array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        raise UnusableError("arrays that are not (H, W) or (H, W, C)", str(array.shape))
    if array.shape[2] != channels and array.shape[0] == channels:
        return np.moveaxis(array, 0, -1)
    return array


@contextmanager
def _opened_mask(content: bytes) -> Iterator[ImageFile.ImageFile]:
    try:
        size = _declared_size(content)
        check_size(*(size or (0, 0)))
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.format in ("JPEG", "WEBP") or image.info.get("compression") == "jpeg":
                lossy = "WebP" if image.format == "WEBP" else "JPEG"
                raise UnusableError(f"{lossy} masks: their compression changes ids; use PNG or TIFF")
            yield image
    except (UnusableError, MemoryError):
        raise
    except Exception:  # Pillow raises whatever a damaged file makes Python raise
        raise UnusableError(NOT_A_MASK) from None


def as_image(image: NDArray[Any], channels: int) -> NDArray[Any]:
    """(H, W, channels) in the types that `read_image` gives."""
    if image.dtype == np.bool_:
        image = image.astype(np.uint8) * np.uint8(255)
    found = image.shape[2]
    if found != channels and channels == 3 and found in (1, 2, 4):
        image = np.repeat(image[..., :1], 3, axis=2) if found < 3 else image[..., :3]
    elif found != channels and channels == 1 and found in (2, 3, 4):
        weights = (1, 0) if found == 2 else (0.299, 0.587, 0.114, 0)[:found]
        grey = (image @ np.array(weights, np.float32))[..., None]
        image = grey if image.dtype.kind == "f" else np.rint(grey).astype(image.dtype)
    elif found != channels:
        raise UnusableError(OTHER_NUMBER.format(channels), f"{found}")
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    if image.dtype.kind not in "uif":
        raise UnusableError("images of numbers that are neither whole nor floating-point", str(image.dtype))
    scale = np.float32(np.iinfo(image.dtype).max) if image.dtype.kind == "u" else np.float32(1)
    floats = np.ascontiguousarray(image, np.float32) / scale
    if not np.isfinite(floats).all():
        raise UnusableError("images that hold values that are not finite")
    return floats


def _in_range(ids: NDArray[Any]) -> NDArray[Any]:
    if ids.dtype in (np.bool_, np.uint8):
        return ids.astype(np.uint8)
    if ids.size and (ids.min() < 0 or ids.max() > 65535):
        raise UnusableError("masks with ids below 0 or above 65535")
    return ids.astype(np.int32)


def _stored_as(image: ImageFile.ImageFile) -> str:
    """Pillow's name for the layout of pixels in the file, of which `image.mode` is the widened form."""
    arguments = image.tile[0].args if image.tile else None
    return str(arguments[0]) if isinstance(arguments, tuple) else str(arguments)
