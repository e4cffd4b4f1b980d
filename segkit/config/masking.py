"""A composed config with its passwords and tokens masked in place, before sweepers and launchers write it to files."""

from __future__ import annotations

from typing import Any

from omegaconf import Container, DictConfig, OmegaConf, flag_override

from segkit.config.credentials import hidden, hidden_in_override, masked


def mask_in_place(config: DictConfig) -> None:
    """Mask `config` with its `hydra` node; what stands behind interpolations stays there. `revealed` undoes it."""
    _mask(config, "")
    with flag_override(config.hydra, "readonly", False):
        # Jobs get their overrides from here.
        for part in ("task", "hydra"):
            typed: Any = OmegaConf.to_container(config.hydra.overrides[part], resolve=False)
            config.hydra.overrides[part] = [hidden_in_override(str(one)) for one in typed]
        config.hydra.job.override_dirname = masked(config.hydra.job.override_dirname)


def _mask(config: Container, prefix: str) -> None:
    keys: list[Any] = list(config.keys() if isinstance(config, DictConfig) else range(len(config)))  # pyright: ignore
    for name in keys:
        key = f"{prefix}.{name}" if prefix else str(name)
        if key == "hydra.overrides" or OmegaConf.is_missing(config, name) or OmegaConf.is_interpolation(config, name):
            continue
        value = config[name]
        if isinstance(value, Container):
            _mask(value, key)
        elif hidden(value, key) != value:
            with flag_override(config, "readonly", False):
                config[name] = hidden(value, key)
