"""How many channels image files have, without decoding them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from segkit.contracts import UserError

TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
UNSPECIFIED = 0
"""What TIFF's tag ExtraSamples says of a channel that is no transparency."""


def stored_channels(path: Path) -> int | None:
    """Channels of an image without transparency; palettes and CMYK count as 3. None for what cannot be opened."""
    try:
        if path.suffix.lower() == ".npy":
            shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
            return 1 if len(shape) == 2 else min(shape[0], shape[-1])
        if path.suffix.lower() in TIFF_SUFFIXES:
            return _tiff_channels(path)
        with Image.open(path) as image:
            return 1 if image.mode in ("1", "L", "LA", "I", "F", "I;16", "I;16B") else 3
    except Exception:  # readers raise whatever a damaged file makes Python raise; the check names it
        return None


def _tiff_channels(path: Path) -> int:
    import tifffile  # a tenth of a second, and most data has no TIFF

    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        if len(series.pages) > 1:
            return len(series.pages)
        page = file.pages.first
        transparent = sum(int(kind) != UNSPECIFIED for kind in page.extrasamples)
        return 3 if page.photometric == tifffile.PHOTOMETRIC.PALETTE else page.samplesperpixel - transparent


def choose_channels(images: Sequence[Path], said: int | None) -> tuple[int, str | None]:
    """in_channels for the images, and what a person should know of it. Raises UserError where it is open."""
    if said is not None:
        return said, None
    looked_at = [images[place] for place in sorted({0, len(images) // 2, len(images) - 1})]
    found = {path: channels for path in looked_at if (channels := stored_channels(path)) is not None}
    numbers = set(found.values())
    if numbers <= {1, 3}:
        grey = "images are grey; each is repeated to 3 channels, in_channels=1 reads the one"
        return 3, grey if numbers == {1} else None
    if len(numbers) > 1 or numbers == {4}:
        shown = ", ".join(f"{path.name} has {channels}" for path, channels in found.items())
        most = max(numbers)
        raise UserError(f"channels: {shown}; give in_channels={most} to read all, or in_channels=3 for the first three")
    (number,) = numbers
    return number, f"images have {number} channels, all of which are read; in_channels=... chooses otherwise"
