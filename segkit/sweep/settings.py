"""The keys of `hydra.sweeper`, checked before the study is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from pydantic import Field, field_validator, model_validator

from segkit.config.credentials import hidden
from segkit.config.schema import NotNegative, Positive, Settings, checked
from segkit.errors import UserError

Seconds = Annotated[float, Field(gt=0)]
DIRECTIONS = {"max": "maximize", "min": "minimize", "maximize": "maximize", "minimize": "minimize"}


class SweepSettings(Settings):
    """See conf/hydra/sweeper/segkit.yaml, which says what each key means."""

    study_name: str | None
    storage: str | None
    direction: tuple[Literal["maximize", "minimize"], ...]
    objectives: tuple[str, ...] | None
    n_trials: Positive | None
    timeout_s: Seconds | None
    n_jobs: Positive
    max_failures: NotNegative | None
    max_retries: NotNegative
    retry_overrides: tuple[str, ...]
    folds: Annotated[int, Field(ge=2)] | None
    fold_key: str
    may_change: tuple[str, ...]
    pruned_checkpoints: Literal["delete", "keep"]
    heartbeat_s: Seconds
    grace_s: Seconds
    params: dict[str, Any]
    custom_search_space: str | None
    sampler: dict[str, Any]
    pruner: dict[str, Any]
    record: dict[str, Any] | None
    ticket: str | None

    @field_validator("direction", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        listed = [value] if isinstance(value, str) else value
        return tuple(DIRECTIONS.get(str(one), one) for one in listed) if isinstance(listed, list) else listed

    @field_validator("params", mode="before")
    @classmethod
    def _no_params(cls, value: Any) -> Any:
        return {} if value is None else value

    @model_validator(mode="after")
    def _fit_together(self) -> SweepSettings:
        if self.grace_s < 2 * self.heartbeat_s:
            raise ValueError(f"grace_s={self.grace_s:g}; allowed: at least twice heartbeat_s={self.heartbeat_s:g}")
        if len(self.direction) > 1 and (self.objectives is None or len(self.objectives) != len(self.direction)):
            raise ValueError(f"objectives: name one for each of the {len(self.direction)} directions")
        if len(self.direction) > 1 and self.folds is not None:
            raise ValueError("folds: cross-validation has one objective; give one direction")
        return self

    @property
    def is_multi_objective(self) -> bool:
        return len(self.direction) > 1


def read(hydra_config: Any) -> SweepSettings:
    """The settings in a composed `hydra` node, paths made absolute. Raises ConfigError naming the keys at fault."""
    node = hidden(OmegaConf.to_container(hydra_config.sweeper, resolve=True), "hydra.sweeper")
    assert isinstance(node, dict)
    # `folder` is for Hydra's own sweep folder, and interpolates the study name.
    values = {str(key): value for key, value in node.items() if key not in ("_target_", "_recursive_", "folder")}
    try:
        settings = checked(SweepSettings, values)
    except UserError as error:
        lines = [f"hydra.sweeper.{line.removeprefix(': ')}" for line in str(error).splitlines()]
        raise type(error)("\n".join(lines)) from None
    if settings.storage is None:
        return settings
    return settings.model_copy(update={"storage": absolute(settings.storage, Path(hydra_config.runtime.cwd))})


def stored(settings: SweepSettings, folder: Path) -> SweepSettings:
    """The settings with a storage: without one, the study is kept in the sweep's own `folder`."""
    if settings.storage is not None:
        return settings
    return settings.model_copy(update={"storage": f"sqlite:///{folder.absolute() / 'study.db'}"})


def absolute(storage: str, folder: Path) -> str:
    """A storage URL whose file, if it is one, does not depend on the working directory."""
    scheme, separator, rest = storage.partition(":///")
    if separator and scheme in ("sqlite", "journal"):
        return f"{scheme}:///{(folder / Path(rest).expanduser()).absolute()}"
    return storage
