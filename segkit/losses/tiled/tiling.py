"""Which tiles are worked on when, and by how many threads.

On a CPU each thread takes bands of its own, image by image, rather than its share of every operation: the threads
then wait for each other once, not at each of some thousand small operations, which matters most where other processes
want the same cores. Forward and backward of loss=combined on (8, 19, 512, 512), two threads of PyTorch against two
here: 0.59 s against 0.29 s with both cores for itself, 14 s against 1.2 s where some eight processes share them (the
best of five rounds, in turns). There, where the two cores are halves of one, a single thread takes 0.31 s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch

from segkit.losses.tiled.resize import Resizing, Tile

# Elements of all tensors of a tile together. CPUs keep these in their caches; GPUs want few, large kernels: with tiles
# that are a fraction of the logits, starting kernels takes twice as long as the rest of a training step.
CPU_ELEMENTS, CUDA_ELEMENTS = 600_000, 1 << 27
# On CPUs no more than this fraction of the full-size logits, over all threads ...
SHARE = 12
# ... or this for each thread where that is few elements, as many small tiles cost more in calls than in arithmetic.
SMALL_SHARE, SMALL = 4, 1 << 19
# Below this nothing is gained by tiles.
SMALLEST = 1 << 15
# Full-size elements below which starting threads costs more than it saves, and threads beyond which Python holds up.
WORTH_A_THREAD, MOST_THREADS = 1_000_000, 16
# More bands than threads, so that a thread that was held up leaves its share to the others.
BANDS_A_THREAD = 4

Result = TypeVar("Result")


@dataclass(frozen=True)
class Band:
    """Some images, or some rows of an image: rows of the mask, and the rows of the logits that they are made from."""

    images: slice
    rows: slice
    patch_rows: slice

    @property
    def origin(self) -> tuple[int, int]:
        """Its first image and its first row of the logits."""
        return self.images.start, self.patch_rows.start


class Plan:
    """The bands and tiles of one resizing; the same for the same sizes and number of threads, whatever the load.

    Args:
        held_at_once: tensors of a tile's size that work on a tile needs.
    """

    def __init__(self, resizing: Resizing, held_at_once: int) -> None:
        self.resizing = resizing
        batch, classes = resizing.logits.shape[:2]
        total = batch * classes * resizing.size[0] * resizing.size[1]
        on_cpu = resizing.logits.device.type == "cpu"
        self.threads = max(1, min(torch.get_num_threads(), MOST_THREADS, total // WORTH_A_THREAD)) if on_cpu else 1
        share = max(total // (SHARE * self.threads), min(total // SMALL_SHARE, SMALL), SMALLEST)
        self.elements = (min(CPU_ELEMENTS, share) if on_cpu else CUDA_ELEMENTS) // held_at_once

    def bands(self) -> list[Band]:
        """All bands, in the order in which their results are taken."""
        batch, (height, _) = len(self.resizing.logits), self.resizing.size
        if self.threads == 1:
            return [self._band(0, batch, 0, height)]
        an_image = min(height, -(-self.threads * BANDS_A_THREAD // batch))
        edges = [height * number // an_image for number in range(an_image + 1)]
        return [self._band(image, image + 1, top, bottom) for image in range(batch) for top, bottom in pairwise(edges)]

    def _band(self, first: int, last: int, top: int, bottom: int) -> Band:
        rows = slice(top, bottom)
        return Band(slice(first, last), rows, self.resizing.patch_rows(rows))

    def tiles(self, band: Band) -> Iterator[Tile]:
        return self.resizing.tiles(band.images, band.rows, elements=self.elements)

    def each(self, work: Callable[[Band, Resizing], Result]) -> Iterator[tuple[Band, Result]]:
        """Every band with what `work` makes of it, in order. `work` is given a resizing with buffers of its own."""
        bands = self.bands()
        if self.threads == 1:
            yield from ((band, work(band, self.resizing)) for band in bands)
            return
        inference, of_thread = torch.is_inference_mode_enabled(), threading.local()

        def run(band: Band) -> Result:
            if not hasattr(of_thread, "resizing"):
                of_thread.resizing = self.resizing.sibling()
            # Both modes belong to a thread.
            with torch.inference_mode(inference), torch.no_grad():
                return work(band, of_thread.resizing)

        num_threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(self.threads, "segkit-loss", initializer=_alone) as pool:
                yield from zip(bands, pool.map(run, bands), strict=True)
        finally:
            # For this thread it never changed, but PyTorch gives new threads what was set last, by any of them.
            torch.set_num_threads(num_threads)


def _alone() -> None:
    """Let operations of this thread use no other one."""
    torch.get_num_threads()  # takes over the number of the process, which would else undo the next line later
    torch.set_num_threads(1)
