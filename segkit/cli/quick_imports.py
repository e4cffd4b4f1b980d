"""Imports of large packages, without the search for garbage in between."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Generator[None]:
    """Collect no garbage until the imports inside are done.

    They make hundreds of thousands of objects, nearly all of which stay. Python goes through them again and again for
    cycles to free, which takes a quarter of the time of importing PyTorch and timm.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
