"""What Hydra calls around runs; nothing heavy is imported before there is something to do."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from segkit.cli import app


class MeanAndSpread(Callback):
    """Tells mean and spread over the folds or seeds of a multirun at its end, also when some of the runs failed."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        # Trials of a search are no repeats of one another, and sweepers of their own know what to tell.
        if str(config.hydra.sweeper._target_).endswith(".BasicSweeper"):
            # Hydra calls on_multirun_end only if no run failed.
            sweep: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
            depth = len(Path(str(sweep["subdir"])).parts)
            app.closing.callback(_summarise, Path(str(config.hydra.sweep.dir)), depth)


def _summarise(folder: Path, depth: int) -> None:
    from segkit.multirun import summarise

    try:
        summarise(folder, depth)
    except Exception:  # the runs themselves are done and well kept
        logging.getLogger(__name__).warning("mean and spread could not be told", exc_info=True)
