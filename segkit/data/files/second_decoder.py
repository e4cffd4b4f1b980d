"""Images read by another library than the one that training uses, to find out where one of them is wrong."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segkit.data.files.bounded import read_content
from segkit.data.files.decode import TIFF, as_image, exif_orientation, upright


def disagreement(path: Path, image: NDArray[Any]) -> str | None:
    """How a second decoder sees `image` (H, W, C) otherwise, which `read_image` gave of this file; None if it does not.

    For what is not of 8 bits: those every library reads alike. TIFF is read by OpenCV, without its conversions,
    where it reads the layout; other files by Pillow, which keeps the upper 8 bits of colours.
    """
    if image.dtype == np.uint8:
        return None
    content = read_content(path)
    if content.startswith(b"\x93NUMPY"):
        return None
    channels = image.shape[2]
    try:
        other, tolerance = (_by_opencv if content.startswith(TIFF) else _by_pillow)(content, channels)
    except Exception:  # it does not read this kind at all, or not into so many channels
        return None
    if other.shape != image.shape:
        return f"{other.shape[1]}x{other.shape[0]} pixels instead of {image.shape[1]}x{image.shape[0]}"
    difference = float(np.abs(image - other).max(initial=0))
    if difference <= tolerance:
        return None
    return f"values that differ by up to {difference:.4g}, where the image spans {np.ptp(image):.4g}"


def _by_opencv(content: bytes, channels: int) -> tuple[NDArray[Any], float]:
    with Image.open(io.BytesIO(content)) as header:
        tags = dict(header.tag_v2)  # type: ignore[attr-defined]
        pages = getattr(header, "n_frames", 1)
    planes, photometric = tags.get(284, 1), tags.get(262)
    kept = tags.get(259, 1) in (1, 5, 8, 32946, 32773)  # none, LZW, Deflate, PackBits: others it may lack
    if pages != 1 or planes != 1 or photometric not in (1, 2) or tags.get(277, 1) not in (1, 3, 4) or not kept:
        raise ValueError("a layout that OpenCV does not read")
    image: NDArray[Any] | None = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("a file that OpenCV does not read")
    image = image[..., None] if image.ndim == 2 else image[..., [2, 1, 0, 3][: image.shape[2]]]
    other = as_image(upright(image, tags.get(274, 1)), channels)
    # Grey of colours is rounded.
    return other, 0 if channels == image.shape[2] else 1e-4 * float(np.abs(other).max(initial=1))


def _by_pillow(content: bytes, channels: int) -> tuple[NDArray[Any], float]:
    with Image.open(io.BytesIO(content)) as file:
        image = np.asarray(file)
    image = image[..., None] if image.ndim == 2 else image
    other = as_image(upright(image, exif_orientation(content)), channels)
    return (other / np.float32(255), 1.5 / 255) if other.dtype == np.uint8 else (other, 1e-4)
