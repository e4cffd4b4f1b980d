"""Processes that read and augment, and what becomes of them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from segkit.contracts import UserError


class Workers:
    """A DataLoader whose workers die with it, and whose failures say what to do.

    Iterating gives what `collate` makes of each group of items; a UserError that `collate` returns is raised.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        groups: Iterable[list[Any]],
        *,
        collate: Callable[[list[Any]], Any],
        num_workers: int,
        pin_memory: bool,
        timeout_s: float,
        persistent: bool,
    ) -> None:
        self._timeout_s = timeout_s
        self._loader = DataLoader(
            dataset,
            batch_sampler=groups,
            collate_fn=collate,
            num_workers=num_workers,
            pin_memory=pin_memory,
            timeout=timeout_s if num_workers else 0,
            worker_init_fn=_prepare_worker,
            persistent_workers=persistent and num_workers > 0,
            # Its own generator: the loader seeds workers by a draw, which must not move the global one.
            generator=torch.Generator().manual_seed(0),
        )
        self._iterator: Any = None

    def __iter__(self) -> Iterator[Any]:
        self._iterator = iter(self._loader)
        while (item := self._next()) is not None:
            if isinstance(item, UserError):
                raise item
            yield item

    def _next(self) -> Any:
        try:
            return next(self._iterator, None)
        except RuntimeError as error:
            if "timed out" in str(error):
                raise RuntimeError(
                    f"no batch came from the data workers within {self._timeout_s:g} s; "
                    "is the file system that holds the data hanging?"
                ) from error
            if "DataLoader worker" in str(error) and "Caught" not in str(error):
                raise RuntimeError(
                    f"a data worker died ({error}); if memory ran out, lower trainer.num_workers"
                ) from error
            raise

    def close(self) -> None:
        iterator, self._iterator = self._iterator, None
        self._loader._iterator = None  # where PyTorch keeps persistent workers
        # PyTorch offers no public way to end workers before the garbage collector does.
        if hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()
            for worker in iterator._workers:
                worker.kill()
                worker.join()


def _prepare_worker(worker: int) -> None:
    """Leave threads to the training process, and the end of the run to it as well."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # Ctrl-C and a scheduler's SIGTERM reach the whole process group; the parent still needs its batch then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
