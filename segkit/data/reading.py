"""Files to arrays: images as a camera meant them, masks as the ids they hold."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
MASK_FORMATS = ("PNG", "TIFF", "BMP")
ID_MODES = frozenset({"1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N"})
# Pillow widens grey of 2 and 4 bits to the full range of 8; these factors undo it.
WIDENED = {"L;2": 85, "L;4": 17}


class UnusableError(Exception):
    """Why a file cannot be used, without its name: whoever has a name for it adds that."""


def read_image(path: Path) -> NDArray[Any]:
    """RGB (H, W, 3), turned upright: uint8 for 8-bit files, else float32, of 16-bit files in 0..1.

    Grey is repeated, palettes become their colours, transparency is dropped. Raises UnusableError.
    """
    # Decoded from memory: on some systems OpenCV does not open names outside the local code page.
    content = np.frombuffer(_content(path), np.uint8)
    try:
        image = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH) if len(content) else None
    except cv2.error:
        image = None
    if image is None:
        raise UnusableError("not an image, or damaged or cut off")
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return image / np.float32(65535)
    return image.astype(np.float32)


def read_mask(path: Path) -> NDArray[Any]:
    """The ids (H, W) in a mask file, in 0..65535: uint8, or int32 for files of more than 8 bits.

    Palette masks give their indices, never their colours. Raises UnusableError.
    """
    # Pillow, because OpenCV turns palettes to colours and stretches masks of 2 and 4 bits.
    try:
        with Image.open(io.BytesIO(_content(path)), formats=(*MASK_FORMATS, "JPEG")) as image:
            if image.format == "JPEG" or image.info.get("compression") == "jpeg":
                raise UnusableError("JPEG masks: their compression changes ids; use PNG or TIFF")
            if image.mode not in ID_MODES:
                raise UnusableError(f"masks stored as {image.mode} instead of one class id a pixel")
            factor = WIDENED.get(_stored_as(image), 1)
            ids = np.asarray(image)
    except Image.DecompressionBombError:
        raise UnusableError("masks of more pixels than Pillow opens") from None
    except (OSError, SyntaxError, ValueError):
        raise UnusableError("not a PNG, TIFF or BMP mask, or damaged or cut off") from None
    if ids.dtype in (np.bool_, np.uint8):
        return ids.astype(np.uint8) // np.uint8(factor)
    if ids.min() < 0 or ids.max() > 65535:
        raise UnusableError("masks with ids below 0 or above 65535")
    return ids.astype(np.int32)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusableError(f"cannot be read: {error.strerror}") from None


def _stored_as(image: ImageFile.ImageFile) -> str:
    """Pillow's name for the layout of pixels in the file, of which `image.mode` is the widened form."""
    arguments = image.tile[0].args if image.tile else None
    return str(arguments[0]) if isinstance(arguments, tuple) else str(arguments)
