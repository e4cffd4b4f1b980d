"""Data sets of a few files, written for a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_pair(root: Path, image: str, mask: str, seed: int, ids: tuple[int, ...] = (0, 1), size: int = 16) -> None:
    """An image of noise and a mask of which each of `ids` fills a stripe."""
    random = np.random.default_rng(seed)
    for name in (image, mask):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.integers(0, 255, (size, size, 3), np.uint8)).save(root / image)
    stripes = np.repeat(np.array(ids, np.uint8), -(-size // len(ids)))[:size]
    Image.fromarray(np.repeat(stripes[:, None], size, axis=1)).save(root / mask)
