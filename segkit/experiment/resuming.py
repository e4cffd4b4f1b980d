"""A run that goes on from a checkpoint: which one, whether it may with the config and data at hand, and put back."""

from __future__ import annotations

import copy
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segkit.config import instantiate
from segkit.config.recipe import LABEL_SPACE, Recipe, set_at
from segkit.contracts import SampleSource
from segkit.engine.trainer import Trainer
from segkit.errors import UserError
from segkit.experiment import mean_and_std
from segkit.experiment.resolved import Kept, Resolved
from segkit.experiment.resume_rules import Change, Effect, changes
from segkit.run import checkpoint
from segkit.run.run_folder import RunFolder, results_in
from segkit.run.stored_config import stored_config

log = logging.getLogger(__name__)

SHOWN = 10
GO_ON = "resume_changed_data=true"


@dataclass(frozen=True)
class Earlier:
    """The checkpoint that a run goes on from, and the config it was saved with, as it was composed."""

    path: Path
    content: checkpoint.Content
    config: Mapping[str, Any]


def find(resume: str | None, folder: RunFolder) -> Earlier | None:
    """The checkpoint that `resume` means; None for a run that starts.

    Raises UserError where there is none, and for a folder that holds the results of another run.
    """
    source = None if resume in (None, "auto") else Path(resume)
    if source is not None and not source.exists():
        raise UserError(f"resume={resume}: no such file or folder; allowed: a checkpoint, a run folder, or auto")
    if resume != "auto" and not _lies_in(source, folder.path) and (results := results_in(folder.path)):
        raise UserError(
            f"{folder.path}: holds the results of a run already ({results}), and those of two runs would be mixed. "
            "To go on with that run: resume=auto. For a run of its own: another hydra.run.dir, or none"
        )
    found = checkpoint.newest(folder.checkpoints) if source is None and resume else None
    if source is not None:
        found = checkpoint.resolve(source)
    if found is not None:
        return Earlier(*found, _composed(*found))
    if resume == "auto":
        _tell_of_fresh_start(folder)
    return None


def _lies_in(source: Path | None, folder: Path) -> bool:
    return source is not None and source.resolve().is_relative_to(folder.resolve())


def _tell_of_fresh_start(folder: RunFolder) -> None:
    steps = folder.last_step()
    log.log(
        logging.WARNING if steps else logging.INFO,
        "resume=auto: no checkpoint in %s yet; starting afresh%s",
        folder.checkpoints,
        f", though metrics.jsonl tells of {steps} steps: their checkpoints were never saved, or are gone"
        if steps
        else "",
    )


def _composed(path: Path, content: checkpoint.Content) -> dict[str, Any]:
    """The stored config as it was composed, but with the batch size that was decided.

    Version 0.1 wrote what the data decided into it: class weights are methods again, and lists have no digest.
    """
    try:
        config = copy.deepcopy(stored_config(content))
        if content.get("resolved", {}).get("batch_size") is not None:
            config["trainer"]["batch_size"] = int(content["resolved"]["batch_size"])
        for key, method in config.pop("computed", {}).items():
            set_at(config, key, method)
        config.get("split", {}).pop("digest", None)
        _leave_out_label_space(config)
        return config
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise UserError(f"resume: {path} carries no usable config ({error})") from None


def _leave_out_label_space(config: dict[str, Any]) -> None:
    """Take from each node what the data set decides and version 0.1 wrote there, as it is supplied now."""
    decided = {"multilabel": False} | config["dataset"]
    for part in ("model", "loss", "transform"):
        for _, node in instantiate.nodes(config[part], part):
            for name in LABEL_SPACE:
                if name in node and node[name] == decided.get(name):
                    del node[name]  # pyright: ignore[reportIndexIssue]


def kept(earlier: Earlier | None, recipe: Recipe) -> Kept:
    """What the run goes on with as it was decided: mean and std, and with `trainer.autobatch` the batch size."""
    if earlier is None:
        return Kept()
    batch_size = None
    if recipe.settings.trainer.autobatch:
        batch_size = int(earlier.config["trainer"]["batch_size"])
        log.info("trainer.autobatch: trainer.batch_size=%d, as the run had it before", batch_size)
    return Kept(batch_size, mean_and_std.stored(earlier.content, earlier.config))


def check_config(earlier: Earlier, recipe: Recipe) -> list[Change]:
    """The keys of the recipe that have changed since, all of them such as may change. Raises UserError for others."""
    values = recipe.to_dict()
    if recipe.settings.trainer.autobatch:
        values["trainer"]["batch_size"] = earlier.config["trainer"]["batch_size"]
    try:
        changed = changes(earlier.config, values)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"resume: {earlier.path} carries no usable config ({error})") from None
    keys = {change.key for change in changed}
    # The model's node repeats the backbone.
    changed = [c for c in changed if not (c.key.startswith("model.") and c.key.removeprefix("model.") in keys)]
    lines = [f"  {c} ({c.rule.why})" for c in changed if c.rule.effect in (Effect.REFUSED, Effect.PRODUCT)]
    monitor = str(values["trainer"]["checkpoint"]["monitor"])
    monitored = tuple(f"{part}{monitor.partition('/')[0]}." for part in ("", "metrics."))
    lines += [f"  {c} (best.pt is chosen by {monitor})" for c in changed if c.key.startswith(monitored)]
    if lines:
        raise UserError(
            f"resume: {earlier.path} is of another config, and a run cannot go on with other values of\n"
            f"{_listed(lines)}\n"
            "Give the earlier values, or start another run: without resume, in a folder of its own. "
            "docs/resume.md says what may change"
        )
    other_data = [change for change in changed if change.rule.effect is Effect.DATA]
    _ask_for_changed_data([str(change) for change in other_data], earlier, recipe)
    return changed


def identities(sources: Mapping[str, SampleSource]) -> dict[str, dict[str, Any]]:
    """What a checkpoint keeps of the data, by split: number and digest, and the names, compressed (uint8)."""
    kept: dict[str, dict[str, Any]] = {}
    for split, source in sources.items():
        identity = source.identity()
        names = "\0".join(source.name(index) for index in range(len(source)))
        packed = zlib.compress(names.encode("utf-8", "surrogateescape"), 1)
        kept[split] = {
            "samples": len(source),
            "digest": str(identity.get("digest", "")),
            "names": torch.frombuffer(bytearray(packed), dtype=torch.uint8),
        }
    return kept


def check_data(
    earlier: Earlier,
    recipe: Recipe,
    resolved: Resolved,
    data: Mapping[str, Mapping[str, Any]],
    steps_per_epoch: int,
) -> None:
    """Raise UserError where the data are others than those of the checkpoint, unless that is asked for."""
    content = earlier.content
    try:
        found = [line for split in data if (line := _difference(split, content, data[split]))]
        kept = content.get("resolved") or {"split_digest": stored_config(content).get("split", {}).get("digest")}
        before = kept["split_digest"]
        steps = None if "data" in content else content["position"]["steps_per_epoch"]  # all that version 0.1 kept
    except (KeyError, TypeError, ValueError, AttributeError, zlib.error) as error:
        raise UserError(f"resume: {earlier.path} does not tell which data it was trained on ({error})") from None
    now = resolved.split_digest
    if before not in (None, now) and not found:
        found = [f"split: other lists of samples ({now}, were {before})"]
    if steps not in (None, steps_per_epoch):
        found.append(f"train: an epoch has {steps_per_epoch} steps, had {steps}")
    _ask_for_changed_data(found, earlier, recipe)


def _difference(split: str, content: checkpoint.Content, now: Mapping[str, Any]) -> str | None:
    """How the samples of a split differ from those of a checkpoint's content; None where they are the same."""
    if "data" not in content:  # of version 0.1
        return None
    before = content["data"][split]
    if (before["samples"], before["digest"]) == (now["samples"], now["digest"]):
        return None
    old, new = _names(before), _names(now)
    told = [f"{split}: {now['samples']} samples, were {before['samples']}"]
    for what, names in (("gone", old - new), ("new", new - old)):
        if names:
            told.append(f"{len(names)} {what}, such as {min(names)}")
    return "; ".join(told) if len(told) > 1 else f"{split}: the same names, but other files or masks"


def _names(identity: Mapping[str, Any]) -> set[str]:
    limit = 4096 * int(identity["samples"]) + 1
    text = zlib.decompressobj().decompress(identity["names"].numpy().tobytes(), limit)
    return set(text.decode("utf-8", "surrogateescape").split("\0"))


def _ask_for_changed_data(found: Sequence[str], earlier: Earlier, recipe: Recipe) -> None:
    if not found:
        return
    text = f"resume: the data are not those that {earlier.path} was trained on:\n{_listed([f'  {f}' for f in found])}\n"
    if not recipe.settings.resume_changed_data:
        raise UserError(
            f"{text}What was trained on might be evaluated now, and an epoch has another order. "
            f"Put the data back, or go on all the same with {GO_ON}"
        )
    log.warning("%sGoing on all the same (%s): scores before and after are of different data", text, GO_ON)


def _listed(lines: Sequence[str]) -> str:
    more = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([*lines[:SHOWN], *more])


def go_on(trainer: Trainer, earlier: Earlier, changed: Sequence[Change]) -> str | None:
    """Put `trainer` where the checkpoint was saved, with all that has changed since; the MLflow run that goes on.

    Raises UserError when the checkpoint is of another model or optimizer.
    """
    keys = [change.key for change in changed if change.key.startswith(("optimizer.", "scheduler."))]
    trainer.resume(dict(earlier.content), {"lr", *(key.rpartition(".")[2] for key in keys)} if keys else ())
    log.info("resumed from %s at step %d", earlier.path, trainer.state.step)
    for change in changed:
        if change.rule.effect is Effect.TAKEN:
            log.warning("%s: takes effect from step %d on", change, trainer.state.step + 1)
    return earlier.content["run_id"]
