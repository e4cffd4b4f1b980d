"""What Hydra calls around runs; nothing heavy is imported before there is something to do."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from segkit.cli import app
from segkit.config.credentials import MASK, masked, revealed
from segkit.config.masking import mask_in_place
from segkit.errors import UserError
from segkit.run.run_folder import results_in

log = logging.getLogger(__name__)


class WrittenConfig(Callback):
    """Writes `.hydra/{config,hydra,overrides}.yaml` in place of Hydra, which would do so in any folder and unmasked."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        # Before sweepers and launchers write it to files of theirs.
        mask_in_place(config)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        for name, value in config.hydra.job.env_set.items():
            if MASK in str(value):
                os.environ[str(name)] = revealed(value, f"hydra.job.env_set.{name}")
        folder = Path(config.hydra.runtime.output_dir)
        # Those of a run that is there already are replaced when it is known that this one may go on with it.
        if not results_in(folder):
            write_config(config, folder)


def write_config(config: DictConfig, folder: Path) -> None:
    """Write the composed `config`, with its node `hydra`, to a run folder as Hydra does, with secrets masked."""
    content: dict[Any, Any] = OmegaConf.to_container(config, resolve=False, enum_to_str=True)  # pyright: ignore
    hydra = {"hydra": content.pop("hydra")}
    files = {"config": content, "hydra": hydra, "overrides": hydra["hydra"]["overrides"]["task"]}
    try:
        (folder / ".hydra").mkdir(parents=True, exist_ok=True)
        for name, part in files.items():
            text = OmegaConf.to_yaml(OmegaConf.create(masked(part)))
            (folder / ".hydra" / f"{name}.yaml").write_text(text, encoding="utf-8")
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{folder / '.hydra'}: cannot be written ({error.strerror}); give another folder") from None
    except OSError as error:
        log.warning("%s: cannot be written (%s)", folder / ".hydra", error.strerror)


class MeanAndSpread(Callback):
    """Tells mean and spread over the folds or seeds of a multirun at its end, also when some of the runs failed."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        # Trials of a search are no repeats of one another, and sweepers of their own know what to tell.
        if app.is_plain_multirun(config.hydra):
            # Hydra calls on_multirun_end only if no run failed.
            sweep: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
            depth = len(Path(str(sweep["subdir"])).parts)
            app.closing.callback(_summarise, Path(str(config.hydra.sweep.dir)), depth)


def _summarise(folder: Path, depth: int) -> None:
    from segkit.commands.multirun import summarise

    try:
        summarise(folder, depth)
    except Exception:  # the runs themselves are done and well kept
        log.warning("mean and spread could not be told", exc_info=True)
