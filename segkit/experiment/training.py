"""One training run from its recipe to its end."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from segkit.config.credentials import masked
from segkit.config.recipe import Recipe
from segkit.config.schema import RootSettings, TrainerSettings
from segkit.contracts import LabelSpace, Task
from segkit.data.transforms.apply import augmented
from segkit.engine import memory
from segkit.engine.outputs import Recording
from segkit.engine.progress import make_display
from segkit.engine.trainer import Trainer
from segkit.errors import Interrupted, Pruned, UserError
from segkit.experiment import lifecycle, objectives, preflight, resuming
from segkit.experiment.assembly import Experiment
from segkit.reporting import best_evaluation
from segkit.run.checkpoint_store import CheckpointKeeper
from segkit.run.run_folder import RunFolder
from segkit.sweep.protocols import Trial
from segkit.tracking.trackers import guarded

log = logging.getLogger(__name__)


def run(
    recipe: Recipe,
    outputs: Path,
    trial: Trial | None = None,
    *,
    choices: Mapping[str, str],
    on_accepted: Callable[[], None] = lambda: None,
) -> float | list[float | None] | None:
    """Train what `recipe` describes in the run folder `outputs`; the best monitored score, for sweeps.

    A trial of a sweep that names its objectives gets those instead.

    Args:
        trial: the trial of a sweep that the run is, if it is one.
        choices: the options chosen for each config group, for the record.
        on_accepted: called once it is known that the run may have its folder.

    Raises UserError for what the user can mend, Interrupted after a signal, Pruned when a sweep ends the run, and
    anything else when the run itself fails.
    """
    started = time.monotonic()
    if trial is not None and recipe.settings.trainer.stop_after_steps is not None:
        raise UserError("trainer.stop_after_steps: a trial of a sweep would count as complete; allowed in sweeps: null")
    folder = RunFolder(outputs)
    try:
        earlier = resuming.find(recipe.settings.resume, folder)
        changed = [] if earlier is None else resuming.check_config(earlier, recipe)
        experiment = Experiment(recipe, kept=resuming.kept(earlier, recipe))
        trainer = make_trainer(experiment, folder, trial, earlier)
        continued = None if earlier is None else resuming.go_on(trainer, earlier, changed)
        on_accepted()
        trainer.recording.tracker.start(lifecycle.run_info(experiment, choices, trainer, trial, continued))
        lifecycle.announce(experiment, choices, trainer)
        score = _fit(trainer, experiment.labels, trial, started)
        if trial is None or not trial.objectives:
            return score
        return objectives.values(trial.objectives, trainer, lifecycle.best_scores(trainer))
    finally:
        folder.close()


def make_trainer(
    experiment: Experiment, folder: RunFolder, trial: Trial | None = None, earlier: resuming.Earlier | None = None
) -> Trainer:
    """Everything that the recipe names, joined to a trainer that stands at its first step.

    Raises UserError where the data are others than those of the `earlier` checkpoint that it is to go on from.
    """
    recipe, strategy = experiment.recipe, experiment.strategy
    settings = recipe.settings
    prepare_torch(settings.trainer, settings.seed, strategy.device)
    sources = {"train": experiment.source("train"), "val": experiment.source("val")}
    _check_monitor(settings, experiment.task)  # before anything is counted, tried or loaded
    data = experiment.train_loader()
    options = experiment.options
    identities = resuming.identities(sources)
    if earlier is not None:
        resuming.check_data(earlier, recipe, experiment.resolved, identities, data.steps_per_epoch)
    learning = experiment.components(data.steps_per_epoch)
    evaluator = experiment.evaluator("val", loss=learning.loss if options.evaluate.loss else None)
    with memory.shortage_explained(options, strategy.device):
        preflight.check(
            learning.model,
            learning.loss,
            evaluator.predictor,
            task=experiment.task,
            in_channels=experiment.in_channels,
            strategy=strategy,
            sample=lambda: augmented(experiment.transform, sources["train"], 0, 0),
            evaluates_loss=options.evaluate.loss,
        )
    folder.tracker = tracker = guarded(recipe.build("tracker", run_folder=folder.path))
    # A sweep has a display of its own.
    progress = "off" if trial is not None and options.progress == "auto" else options.progress
    shown = ("miou", "loss", *(name for name, metric in settings.metrics.items() if metric.progress))
    recording = Recording(
        folder,
        CheckpointKeeper(folder.checkpoints, keep_top=options.checkpoint.keep_top, mode=options.checkpoint.mode),
        tracker,
        make_display(progress, shown),
        identity={
            "config": recipe.to_dict(),
            "resolved": experiment.resolved.to_dict(),
            "labels": asdict(experiment.labels),
            "precision": strategy.precision,
            "data": identities,
        },
        on_best=lambda evaluation: best_evaluation.keep(evaluation, folder.path),
        **({} if trial is None else {"on_score": trial.report}),
    )
    return Trainer(learning, data, evaluator, recording, strategy=strategy, settings=options)


def _check_monitor(settings: RootSettings, task: Task) -> None:
    """Raise UserError, before the first step, if nothing that evaluations give has the monitored name."""
    monitor = settings.trainer.checkpoint.monitor
    names = task.score_names()
    names += [name for name, metric in settings.metrics.items() if "val" in metric.splits]
    names += ["loss"] if settings.trainer.evaluate.loss else []
    # Parts of the loss and single numbers of a listed metric are named below their whole.
    if monitor not in names and monitor.rpartition("/")[0] not in names:
        raise UserError(f"trainer.checkpoint.monitor={monitor}: no evaluation gives this. Allowed: {', '.join(names)}")


def prepare_torch(options: TrainerSettings, seed: int, device: torch.device) -> None:
    """Seeds, threads and algorithms of this process, as the settings want them."""
    deterministic = device.type == "cpu" if options.deterministic is None else options.deterministic
    memory.keep_freed()
    torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # Filling fresh tensors with NaN finds reads of memory never written, and costs a third of the speed.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    # Bilinear resizing has no deterministic CUDA backward; told once at the start instead of at every step.
    warnings.filterwarnings("once", message=".*does not have a deterministic implementation.*")


def _fit(trainer: Trainer, labels: LabelSpace, trial: Trial | None, started: float) -> float | None:
    """Train, then leave the record of how it ended, whatever way that was."""
    status, error = "failed", None
    try:
        status = trainer.fit()
    except Interrupted as interruption:
        status = interruption.status
        raise
    except Pruned:
        status = "pruned"
        raise
    except BaseException as failure:
        error = masked(f"{type(failure).__name__}: {failure}")
        raise
    finally:
        lifecycle.close(trainer, labels, trial, status, error, started)
    return trainer.state.best_score
