"""What Hydra calls around runs; nothing heavy is imported before there is something to do."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import Container, DictConfig, OmegaConf, flag_override

from segkit.cli import app
from segkit.credentials import MASK, hidden, hidden_in_override, masked, revealed


class WrittenConfig(Callback):
    """Writes `.hydra/{config,hydra,overrides}.yaml` in place of Hydra, with passwords and tokens masked."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        # Before sweepers and launchers write it to files of theirs; jobs get their overrides from here.
        _hide_in(config, "")
        with flag_override(config.hydra, "readonly", False):
            for part in ("task", "hydra"):
                config.hydra.overrides[part] = [hidden_in_override(str(one)) for one in config.hydra.overrides[part]]
            config.hydra.job.override_dirname = masked(config.hydra.job.override_dirname)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        for name, value in config.hydra.job.env_set.items():
            if MASK in str(value):
                os.environ[str(name)] = revealed(value, f"hydra.job.env_set.{name}")
        folder = Path(config.hydra.runtime.output_dir) / ".hydra"
        folder.mkdir(parents=True, exist_ok=True)
        content: dict[Any, Any] = OmegaConf.to_container(config, resolve=False, enum_to_str=True)  # pyright: ignore
        hydra = {"hydra": content.pop("hydra")}
        files = {"config": content, "hydra": hydra, "overrides": hydra["hydra"]["overrides"]["task"]}
        for name, part in files.items():
            (folder / f"{name}.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(masked(part))), encoding="utf-8")


def _hide_in(config: Container, prefix: str) -> None:
    """Mask passwords and tokens in a config that is not resolved; what stands behind interpolations stays there."""
    keys = config.keys() if isinstance(config, DictConfig) else range(len(config))  # pyright: ignore
    for name in list(keys):
        key = f"{prefix}.{name}" if prefix else str(name)
        if key == "hydra.overrides" or OmegaConf.is_missing(config, name) or OmegaConf.is_interpolation(config, name):
            continue
        value = config[name]
        if isinstance(value, Container):
            _hide_in(value, key)
        elif hidden(value, key) != value:
            with flag_override(config, "readonly", False):
                config[name] = hidden(value, key)


class MeanAndSpread(Callback):
    """Tells mean and spread over the folds or seeds of a multirun at its end, also when some of the runs failed."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        # Trials of a search are no repeats of one another, and sweepers of their own know what to tell.
        if str(config.hydra.sweeper._target_).endswith(".BasicSweeper"):
            # Hydra calls on_multirun_end only if no run failed.
            app.closing.callback(_summarise, Path(str(config.hydra.sweep.dir)))


def _summarise(folder: Path) -> None:
    from segkit.multirun import summarise

    try:
        summarise(folder)
    except Exception:  # the runs themselves are done and well kept
        logging.getLogger(__name__).warning("mean and spread could not be told", exc_info=True)
