"""Which keys of the config may change when a run goes on from a checkpoint: one table, which docs/resume.md shows."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from segkit.config import instantiate

SHOWN = 60
"""Characters of a value that a message shows."""


class Effect(Enum):
    """What a changed value does; the text is what docs/resume.md says of it."""

    FREE = "free: changes nothing that is learned"
    TAKEN = "takes effect from the step that the run goes on at"
    PRODUCT = "their product, the images of a step, stays; each of them may change"
    DATA = "refused, unless resume_changed_data=true"
    REFUSED = "refused"


@dataclass(frozen=True)
class Rule:
    """What a change of the keys that match one of `keys` does, and why. `a.*` is `a` and all below it."""

    keys: tuple[str, ...]
    effect: Effect
    why: str


def _rule(effect: Effect, keys: str, why: str) -> Rule:
    return Rule(tuple(keys.split()), effect, why)


RULES = (
    _rule(
        Effect.FREE,
        "name tracker.* paths.* resume resume_changed_data",
        "what the run is called, where it is recorded, what it goes on from",
    ),
    _rule(
        Effect.FREE,
        "dataset.root dataset.cache_dir dataset.decoded_cache split.folder split.cache_dir",
        "data may have moved; that they are the same data is told by their files, their masks and the lists",
    ),
    _rule(
        Effect.FREE,
        "trainer.strategy.* trainer.device trainer.deterministic trainer.channels_last trainer.compile "
        "trainer.num_threads trainer.num_workers trainer.data_timeout_s backbone.gradient_checkpointing "
        "model.backbone.gradient_checkpointing",
        "how the same is computed; another device or algorithm changes the last digits",
    ),
    _rule(Effect.FREE, "trainer.autobatch", "the run keeps the batch size that it has"),
    _rule(
        Effect.FREE,
        "trainer.stop_after_steps trainer.progress trainer.profile trainer.log_sample_ids",
        "when this process ends, what it shows and writes",
    ),
    _rule(
        Effect.TAKEN,
        "trainer.max_epochs trainer.max_steps dataset.epochs",
        "the run ends there. A schedule that spans the run is, from here on, that of the new length: a run whose rate "
        "has come down to 0 goes on with a rate above it. To go on with the schedule as it is, plan the whole length "
        "and stop with trainer.stop_after_steps",
    ),
    _rule(
        Effect.TAKEN,
        "optimizer.lr optimizer.weight_decay optimizer.head_lr_factor optimizer.backbone_lr_factor "
        "optimizer.optimizer.*",
        "the optimizer's moments stay, its numbers are the new ones; the learning rate is what the schedule makes of "
        "them at this step",
    ),
    _rule(
        Effect.TAKEN,
        "scheduler.*",
        "the learning rate is what a run with this schedule from its start would have at this step; reductions that "
        "scheduler=plateau has made stay made",
    ),
    _rule(Effect.TAKEN, "loss.*", "the loss has no state; scores named loss are of the new one"),
    _rule(
        Effect.TAKEN,
        "transform.* dataset.crop_size dataset.on_error",
        "augmentation is a function of the sample, the epoch and the seed",
    ),
    _rule(
        Effect.TAKEN,
        "trainer.precision trainer.clip_norm trainer.non_finite.* trainer.ema.*",
        "an average of the weights that was not kept so far starts from the weights as they are",
    ),
    _rule(
        Effect.TAKEN,
        "trainer.evaluate.* trainer.early_stopping.* trainer.checkpoint.every_steps trainer.checkpoint.every_epochs "
        "trainer.checkpoint.keep_top trainer.checkpoint.on_error metrics.* predictor.*",
        "from the next evaluation or save on; scores of before stay as they were",
    ),
    _rule(
        Effect.PRODUCT,
        "trainer.batch_size trainer.accumulate",
        "an epoch is planned in steps: with another number of images a step, samples would come twice or not at all",
    ),
    _rule(
        Effect.DATA,
        "dataset.* split.*",
        "the data, and which of them train and evaluate: what was trained on before might be evaluated from now on",
    ),
    _rule(
        Effect.REFUSED,
        "dataset.num_classes dataset.class_names dataset.colors dataset.ignore_index dataset.multilabel "
        "dataset.class_mapping dataset.mask_format dataset.ignore_colors dataset.in_channels",
        "the weights have learned these classes and channels",
    ),
    _rule(
        Effect.FREE,
        "dataset.mean dataset.std dataset.data_mean dataset.data_std model.mean model.std",
        "images stay normalised as they were; other numbers for dataset.mean and dataset.std are refused",
    ),
    _rule(Effect.REFUSED, "model.* backbone.*", "the weights are those of another model"),
    _rule(
        Effect.REFUSED,
        "optimizer.* optimizer.optimizer._target_ optimizer.optimizer.opt",
        "its state is that of another optimizer, or of other groups of parameters",
    ),
    _rule(Effect.REFUSED, "seed", "the order of the data, augmentation and dropout follow from it"),
    _rule(
        Effect.REFUSED,
        "trainer.checkpoint.monitor trainer.checkpoint.mode",
        "best.pt and the best score are chosen by it; where it names the loss or one of `metrics`, that is refused too",
    ),
)
"""Every key of the config falls under the one rule that has the longest pattern for it."""

_BY_PATTERN = {pattern: rule for rule in RULES for pattern in rule.keys}


def rule_of(key: str) -> Rule | None:
    """The rule of a dotted key, such as `transform.steps[0].p`; None if the table has none."""
    if key in _BY_PATTERN:
        return _BY_PATTERN[key]
    parts = key.replace("[", ".[").split(".")
    wildcards = (".".join([*parts[:length], "*"]) for length in range(len(parts), 0, -1))
    return next((_BY_PATTERN[pattern] for pattern in wildcards if pattern in _BY_PATTERN), None)


@dataclass(frozen=True)
class Change:
    """A key of the config that has another value than it had; None stands for a key that is not there."""

    key: str
    before: Any
    now: Any
    rule: Rule

    def __str__(self) -> str:
        return f"{self.key}={_short(self.now)}, was {_short(self.before)}"


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """The keys of two composed configs that differ, in the order of the second.

    A key that one of them lacks, as it is newer than a checkpoint, has the default of its constructor there, or null.
    Raises LookupError for a key of `now` that the table has no rule for.
    """
    old, new = dict(leaves(before)), dict(leaves(now))
    defaults = dict(_defaults(now))
    found: list[Change] = []
    for key in dict.fromkeys([*new, *old]):
        one, other = old.get(key, defaults.get(key)), new.get(key, defaults.get(key))
        if _same(one, other):
            continue
        rule = rule_of(key)
        if rule is None and key not in new:
            continue  # of another version of segkit
        if rule is None:
            raise LookupError(f"{key}: segkit.experiment.resume_rules has no rule for this key")
        if rule.effect is not Effect.PRODUCT or _images_of_a_step(before) != _images_of_a_step(now):
            found.append(Change(key, one, other, rule))
    return found


def _images_of_a_step(config: Mapping[str, Any]) -> int:
    return int(config["trainer"]["batch_size"]) * int(config["trainer"]["accumulate"])


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value, and every list of plain values, by its dotted key; an empty mapping counts as null."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():  # pyright: ignore
            yield from leaves(item, f"{key}.{name}" if key else str(name))  # pyright: ignore
    elif isinstance(value, list | tuple) and any(isinstance(item, dict | list) for item in value):  # pyright: ignore
        for index, item in enumerate(value):  # pyright: ignore
            yield from leaves(item, f"{key}[{index}]")
    else:
        yield key, None if value == {} else value


def _defaults(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What the constructors of a config's nodes take for keys that are not given."""
    for part, value in config.items():
        for key, node in instantiate.nodes(value, part):
            try:
                parameters = inspect.signature(instantiate.locate(str(node["_target_"]), key)).parameters
            except (TypeError, ValueError):  # a builtin without a signature
                continue
            for name, parameter in parameters.items():
                if parameter.default is not parameter.empty:
                    yield f"{key}.{name}", parameter.default


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        pairs = zip(one, other, strict=False)  # pyright: ignore
        return len(one) == len(other) and all(_same(a, b) for a, b in pairs)  # pyright: ignore
    return bool(one == other) or (one != one and other != other)  # NaN is the same as NaN


def _short(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def as_table() -> str:
    """The table of docs/resume.md."""
    rows = [f"| {', '.join(f'`{key}`' for key in rule.keys)} | {rule.effect.value} | {rule.why} |" for rule in RULES]
    return "\n".join(["| keys | when changed | why |", "|---|---|---|", *rows, ""])


if __name__ == "__main__":
    print(as_table(), end="")
