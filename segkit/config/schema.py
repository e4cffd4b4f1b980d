"""Typed settings of what the engine itself reads; nodes with a `_target_` have their constructor as schema.

The composed config is checked against these models before anything heavy is imported: unknown keys,
wrong types and values out of range are the user's to mend, and every one of them is named in one message.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from omegaconf import DictConfig, OmegaConf
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from segkit.config.findings import ConfigError, describe
from segkit.config.odd_values import odd_values

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
SettingsT = TypeVar("SettingsT", bound="Settings")


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_odd_value(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        # What a node holds is held against its constructor.
        odd = [] if isinstance(value, dict) else [f"{at}{text}" for at, text in odd_values(value, annotation)]
        if odd:
            raise PydanticCustomError("odd_value", "{finding}", {"finding": odd[0].removeprefix(": ")})
        return value


class CheckpointSettings(Settings):
    """When the run is saved, and what is kept: the newest two, and the `keep_top` best by `monitor`."""

    every_steps: Positive | None
    every_epochs: Annotated[float, Field(gt=0)] | None
    monitor: str
    mode: Literal["max", "min"]
    keep_top: Positive
    on_error: Literal["continue", "stop"]


class EvaluateSettings(Settings):
    every_steps: Positive | None
    every_epochs: Annotated[float, Field(gt=0)] | None
    batch_size: Positive
    loss: bool
    panel_samples: NotNegative


class EarlyStoppingSettings(Settings):
    """Stop after `patience` evaluations in a row without the monitored score gaining `min_delta`; null is never."""

    patience: Positive | None
    min_delta: Annotated[float, Field(ge=0)]


class EmaSettings(Settings):
    """Exponential moving average of the weights, used for evaluation and export; null is none."""

    decay: Annotated[float, Field(gt=0, lt=1)] | None


class NonFiniteSettings(Settings):
    """What a loss or gradients that are not finite do: end the run, or have the step skipped, up to `limit` times."""

    policy: Literal["stop", "skip"]
    limit: NotNegative


class TrainerSettings(Settings):
    strategy: dict[str, Any]
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    deterministic: bool | None
    channels_last: bool
    compile: bool
    max_epochs: Positive | None
    max_steps: Positive | None
    stop_after_steps: Positive | None = None  # newer than the oldest checkpoints, whose configs are checked too
    batch_size: Positive
    autobatch: bool
    accumulate: Positive
    clip_norm: Annotated[float, Field(gt=0)] | None
    non_finite: NonFiniteSettings
    num_workers: NotNegative | None
    data_timeout_s: Annotated[float, Field(gt=0)]
    num_threads: Positive | None
    ema: EmaSettings
    evaluate: EvaluateSettings
    checkpoint: CheckpointSettings
    early_stopping: EarlyStoppingSettings
    log_sample_ids: bool
    profile: bool
    progress: Literal["auto", "live", "plain", "off"]

    @model_validator(mode="after")
    def has_an_end(self) -> TrainerSettings:
        if self.max_epochs is None and self.max_steps is None:
            raise ValueError("max_epochs and max_steps are both null; give at least one")
        return self


class MetricSettings(Settings):
    """One more torchmetrics metric: its own node, the splits it is computed on, and if the display shows it."""

    metric: dict[str, Any]
    splits: tuple[Literal["val", "test"], ...] = ("val", "test")
    progress: bool = False
    input: Literal["labels", "probabilities"] = "labels"


class RootSettings(Settings):
    """The top level of a training config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    resume: str | None
    resume_changed_data: bool = False
    dataset: dict[str, Any]
    split: dict[str, Any]
    transform: dict[str, Any]
    model: dict[str, Any]
    backbone: dict[str, Any] | None = None
    loss: dict[str, Any]
    metrics: dict[str, MetricSettings]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    trainer: TrainerSettings
    predictor: dict[str, Any]
    tracker: dict[str, Any]
    paths: dict[str, str]


class EvaluateScriptSettings(Settings):
    """The top level of `scripts/evaluate.py`."""

    run: str
    split: Literal["train", "val", "test"]
    dataset: dict[str, Any]
    split_folder: str | None
    predictor: dict[str, Any] | None = None
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16"] | None
    batch_size: Positive | None
    num_workers: NotNegative | None
    trust: tuple[str, ...]
    output: str | None
    paths: dict[str, str]


class PredictScriptSettings(Settings):
    """The top level of `scripts/predict.py`."""

    run: str
    input: str | Annotated[tuple[str, ...], Field(min_length=1)]
    output: str
    predictor: dict[str, Any] | None = None
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16"] | None
    overlay_opacity: Annotated[float, Field(ge=0, le=1)]
    trust: tuple[str, ...]
    paths: dict[str, str]


class CheckDataSettings(Settings):
    """The top level of `scripts/check_data.py`."""

    dataset: dict[str, Any]
    output: str | None
    processes: Positive | None
    cache_dir: str
    paths: dict[str, str]


class MakeSplitsSettings(Settings):
    """The top level of `scripts/make_splits.py`."""

    dataset: dict[str, Any]
    output: str
    folds: Annotated[int, Field(ge=2)] | None
    val_share: Annotated[float, Field(gt=0, lt=1)]
    test_share: Annotated[float, Field(ge=0, lt=1)]
    group_pattern: str | None
    pool: tuple[Literal["train", "val", "test"], ...]
    seed: NotNegative
    processes: Positive | None
    cache_dir: str
    paths: dict[str, str]


class BrowseSettings(Settings):
    """The top level of `scripts/browse.py`."""

    dataset: dict[str, Any]
    transform: dict[str, Any]
    split: Literal["train", "val", "test"]
    samples: Positive
    variants: Positive
    seed: NotNegative
    opacity: Annotated[float, Field(ge=0, le=1)]
    output: str | None
    paths: dict[str, str]


class InitDatasetSettings(Settings):
    """The top level of `scripts/init_dataset.py`."""

    folder: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=100)] | None
    output: str | None
    image_folder: str | None
    mask_folder: str | None
    image_suffix: str | None
    mask_suffix: str | None
    splits_from: Literal["table", "lists", "folders"] | None
    lists: str | None
    mask_format: Literal["ids", "colors"] | None
    names: str | None
    ignore: list[int | str | Annotated[list[int], Field(min_length=3, max_length=3)]] | None
    class_mapping: dict[NotNegative, NotNegative] | None
    threshold: Annotated[int, Field(ge=1, le=255)] | None
    in_channels: Positive | None
    batch_size: Positive | None
    epochs: Positive | None
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    val_share: Annotated[float, Field(gt=0, lt=1)]
    group_pattern: str | None
    seed: NotNegative
    processes: Positive | None
    cache_dir: str
    overwrite: bool
    paths: dict[str, str]


def checked(settings: type[SettingsT], values: dict[str, Any]) -> SettingsT:
    """`values` as `settings`. Raises ConfigError naming every key at fault, what was found and what is allowed."""
    try:
        return TypeAdapter(settings).validate_python(values)
    except ValidationError as error:
        raise ConfigError(describe(error, settings)) from None


def require_use_of_backbone(config: Any) -> None:
    """Refuse a backbone (+backbone=...) beside a model that reads nothing of it: interpolations still say so.

    Raises ConfigError.
    """
    if isinstance(config, DictConfig) and "backbone" in config and "${backbone" not in OmegaConf.to_yaml(config.model):
        raise ConfigError(f"backbone: nothing reads it; {config.model.get('_target_')} takes no backbone")
