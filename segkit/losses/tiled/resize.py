"""Bilinear resizing of logits tile by tile, and its transpose, which takes gradients back.

Bilinear resizing is linear and separable: full_HW = rows_Hh @ logits_hw @ columns_wW. A tile of the full-size logits
needs a small patch of the logits at their own stride, so the full-size tensor need never exist.

Shape suffixes: B batch, C classes, H W mask pixels, h w pixels of the logits; b images and R T rows and columns
of a tile, r t rows and columns of its patch.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from math import floor

import torch
from torch import Tensor

from segkit.logits import resize_logits

# A tile has no fewer columns, unless the mask has; 16 rows where the rest allows it.
COLUMNS = 64
# Columns that one multiplication takes: the matrix of a wider one would be mostly zeros.
SEGMENT = 128


@dataclass(frozen=True)
class Tile:
    """A part of the mask (images, rows, columns) and the part of the logits (patch rows, columns) it is made from."""

    images: slice
    rows: slice
    columns: slice
    patch_rows: slice
    patch_columns: slice


class Resizing:
    """The resizing of (B, C, h, w) logits to `size` = (H, W), as `logits.resize_logits` does it, by tiles.

    The tiles come in a fixed order and share buffers: what `tile` returns is valid until the next tile. Threads that
    work on tiles of their own each need a `sibling`.

    Args:
        logits: of any floating type and layout; computed in float64 if they are float64, else in float32.
        size: (H, W).
    """

    def __init__(self, logits: Tensor, size: tuple[int, int]) -> None:
        self.logits = logits
        self.dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        self.size = size
        self.same_size = tuple(logits.shape[-2:]) == size
        if not self.same_size:
            height, width = logits.shape[-2:]
            # Its values at unit vectors are the matrix of a linear map: exactly what resize_logits computes.
            eye = torch.eye(height, dtype=self.dtype, device=logits.device)
            self.rows_Hh = resize_logits(eye.view(1, height, height, 1), (size[0], 1)).view(height, -1).t().contiguous()
            eye = torch.eye(width, dtype=self.dtype, device=logits.device)
            self.columns_wW = resize_logits(eye.view(1, width, 1, width), (1, size[1])).view(width, -1)
        self._buffers: dict[str, Tensor] = {}

    def sibling(self) -> Resizing:
        """The same resizing with buffers of its own."""
        other = copy(self)
        other._buffers = {}
        return other

    def tiles(self, images: slice, rows: slice, *, elements: int) -> Iterator[Tile]:
        """Every pixel of these images and rows once, in tiles of about that many elements."""
        classes, width = self.logits.shape[1], self.size[1]
        columns = min(width, max(COLUMNS, elements // (16 * classes) // COLUMNS * COLUMNS))
        num_rows = min(_length(rows), max(1, elements // (classes * columns)))
        num_images = max(1, elements // (classes * _length(rows) * width))
        for first in range(images.start, images.stop, num_images):
            for top in range(rows.start, rows.stop, num_rows):
                for left in range(0, width, columns):
                    bottom, right = min(top + num_rows, rows.stop), min(left + columns, width)
                    yield Tile(
                        slice(first, min(first + num_images, images.stop)),
                        slice(top, bottom),
                        slice(left, right),
                        self.patch_rows(slice(top, bottom)),
                        self._patch(left, right, dimension=1),
                    )

    def patch_rows(self, rows: slice) -> slice:
        """The rows of the logits that these rows of the mask are made from."""
        return self._patch(rows.start, rows.stop, dimension=0)

    def _patch(self, start: int, stop: int, dimension: int) -> slice:
        """The rows or columns of the logits that rows or columns start..stop-1 of the mask are made from."""
        if self.same_size:
            return slice(start, stop)
        there, here = self.logits.shape[2 + dimension], self.size[dimension]
        # The margin is for rounding in resize_logits, which places pixels in float32.
        first = floor((start + 0.5) * there / here - 0.5 - 1e-3)
        last = floor((stop - 0.5) * there / here - 0.5 + 1e-3) + 1
        return slice(max(first, 0), min(last + 1, there))

    def buffer(self, name: str, *shape: int) -> Tensor:
        """A tensor of this shape with any content, in memory that is used again under the same name."""
        count = 1
        for length in shape:
            count *= length
        held = self._buffers.get(name)
        if held is None or held.numel() < count:
            held = self._buffers[name] = torch.empty(count, dtype=self.dtype, device=self.logits.device)
        return held[:count].view(shape)

    def tile(self, tile: Tile) -> Tensor:
        """The resized logits of a tile, (b, R, C, T), in a buffer that may be overwritten."""
        patch_brCt = self.logits[tile.images, :, tile.patch_rows, tile.patch_columns].transpose(1, 2)
        if self.same_size:
            return self.buffer("tile", *patch_brCt.shape).copy_(patch_brCt)
        images, patch_rows, classes, patch_columns = patch_brCt.shape
        flat_Nt = self.buffer("patch", *patch_brCt.shape).copy_(patch_brCt).view(-1, patch_columns)
        wide_NT = self.buffer("wide", len(flat_Nt), _length(tile.columns))
        for part, source, matrix in self._segments(tile):
            torch.mm(flat_Nt[:, source], matrix, out=wide_NT[:, part])
        rows_Rr = self.rows_Hh[tile.rows, tile.patch_rows].expand(images, -1, -1)
        out = self.buffer("tile", images, _length(tile.rows), classes, _length(tile.columns))
        torch.bmm(rows_Rr, wide_NT.view(images, patch_rows, -1), out=out.flatten(2))
        return out

    def add_gradient(self, tile: Tile, gradient_bRCT: Tensor, target: Tensor, origin: tuple[int, int]) -> None:
        """Add to `target` what the gradient of a tile's resized logits says of the logits.

        `target`, (b, C, h, w), is the gradient of the logits from `origin`, an image and a row of the logits, on.
        """
        images, rows = _shifted(tile.images, origin[0]), _shifted(tile.patch_rows, origin[1])
        target_brCt = target[images, :, rows, tile.patch_columns].transpose(1, 2)
        if self.same_size:
            target_brCt.copy_(gradient_bRCT)
            return
        images, rows, classes, columns = gradient_bRCT.shape
        wide = self.buffer("wide", images, _length(tile.patch_rows), classes * columns)
        rows_rR = self.rows_Hh[tile.rows, tile.patch_rows].t().contiguous().expand(images, -1, -1)
        torch.bmm(rows_rR, gradient_bRCT.reshape(images, rows, -1), out=wide)
        wide_NT = wide.view(-1, columns)
        flat_Nt = self.buffer("patch", len(wide_NT), _length(tile.patch_columns)).zero_()
        for part, source, matrix in self._segments(tile):
            flat_Nt[:, source].addmm_(wide_NT[:, part], matrix.t())
        target_brCt += flat_Nt.view(target_brCt.shape)

    def one_class(self, number: int) -> Tensor:
        """The resized logits of one class, (B, H, W)."""
        return resize_logits(self.logits[:, number : number + 1].to(self.dtype), self.size).squeeze(1)

    def transposed(self, gradient_BHW: Tensor) -> Tensor:
        """The gradient of one class's logits, (B, h, w), given that of the resized ones."""
        if self.same_size:
            return gradient_BHW
        return self.rows_Hh.t() @ (gradient_BHW @ self.columns_wW.t())

    def _segments(self, tile: Tile) -> Iterator[tuple[slice, slice, Tensor]]:
        """Columns within a tile, the columns within its patch that they are made from, and the matrix between."""
        origin = tile.patch_columns.start
        for left in range(tile.columns.start, tile.columns.stop, SEGMENT):
            right = min(left + SEGMENT, tile.columns.stop)
            source = self._patch(left, right, dimension=1)
            part = slice(left - tile.columns.start, right - tile.columns.start)
            yield part, slice(source.start - origin, source.stop - origin), self.columns_wW[source, left:right]

    def gradient(self) -> Tensor:
        """Zeros for the gradient of the logits; in the logits' own type where tiles do not overlap."""
        dtype = self.logits.dtype if self.same_size else self.dtype
        return torch.zeros_like(self.logits, dtype=dtype)


def _length(part: slice) -> int:
    return part.stop - part.start


def _shifted(part: slice, origin: int) -> slice:
    return slice(part.start - origin, part.stop - origin)
