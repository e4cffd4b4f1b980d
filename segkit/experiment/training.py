"""One experiment from its config: the only place that reads config keys and joins the parts."""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from segkit.config import instantiate
from segkit.config.credentials import masked
from segkit.config.schema import MetricSettings, RootSettings, TrainerSettings, checked
from segkit.contracts import LabelSpace, Loss, SampleSource, Tracker
from segkit.data.datasets.decoded_cache import with_decoded_cache
from segkit.data.loader import EvaluationLoader, TrainLoader, default_workers
from segkit.data.splits import Splitting
from segkit.data.transforms.apply import augmented
from segkit.data.transforms.mask_probe import check_masks
from segkit.engine import heap, memory
from segkit.engine.cadence import total_steps
from segkit.engine.components import CompiledForward, Learning
from segkit.engine.ema import Ema
from segkit.engine.evaluator import Evaluator
from segkit.engine.outputs import Recording
from segkit.engine.progress import make_display
from segkit.engine.strategy.single_device import SingleDevice
from segkit.engine.trainer import Trainer
from segkit.errors import DataError, Interrupted, Pruned, UserError
from segkit.experiment import autobatch, computed_weights, lifecycle, mean_and_std, objectives, preflight, resuming
from segkit.metrics.torchmetric import ListedMetric
from segkit.reporting import best_evaluation
from segkit.run.checkpoint_store import CheckpointKeeper
from segkit.run.run_folder import RunFolder
from segkit.sweep.protocols import current_trial
from segkit.tasks.judging import judging

log = logging.getLogger(__name__)


def run(
    config: DictConfig, folder: Path, choices: Mapping[str, str], on_accepted: Callable[[], None] = lambda: None
) -> float | list[float | None] | None:
    """Train what `config` describes in the run folder `folder`; the best monitored score, for sweeps.

    A trial of a sweep that names its objectives gets those instead. `choices` are the options chosen for each
    config group. `on_accepted` is called once it is known that the run may have its folder. Raises UserError for what
    the user can mend, Interrupted after a signal, Pruned when a sweep ends the run, and anything else when the run
    itself fails.
    """
    started = time.monotonic()
    values = instantiate.plain(config)
    settings = checked(RootSettings, values)
    check_nodes(values)
    if current_trial() is not None and settings.trainer.stop_after_steps is not None:
        raise UserError("trainer.stop_after_steps: a trial of a sweep would count as complete; allowed in sweeps: null")
    run_folder = RunFolder(folder)
    try:
        trainer, labels = build(values, settings, run_folder, choices, on_accepted)
        score = _fit(trainer, labels, started)
        trial = current_trial()
        if trial is None or not trial.objectives:
            return score
        return objectives.values(trial.objectives, trainer, lifecycle.best_scores(trainer))
    finally:
        run_folder.close()


# What each node's constructor is given at run time.
SUPPLIED = {
    "dataset": ("split",),
    "split": (),
    "transform": (),
    "model": (),
    "loss": (),
    "optimizer": ("model",),
    "scheduler": ("optimizer", "total_steps", "steps_per_epoch"),
    "predictor": ("model",),
    "tracker": ("run_folder",),
}


def check_nodes(values: Mapping[str, Any]) -> None:
    """Hold every node of the config against its constructor, before any of it is built."""
    computed_weights.check(values["loss"])
    for key, supplied in SUPPLIED.items():
        node = computed_weights.left_out(values[key])
        if key == "model":
            node, supplied = mean_and_std.left_out(node)
        instantiate.check(node, key, supplied)
    instantiate.check(values["trainer"]["strategy"], "trainer.strategy")
    for name, metric in values["metrics"].items():
        instantiate.check(metric["metric"], f"metrics.{name}.metric")


def build(
    values: dict[str, Any],
    settings: RootSettings,
    folder: RunFolder,
    choices: Mapping[str, str],
    on_accepted: Callable[[], None] = lambda: None,
) -> tuple[Trainer, LabelSpace]:
    """Everything that the config names, joined to a trainer that stands where it is to begin.

    `on_accepted` as in `run`.
    """
    earlier = resuming.find(settings.resume, folder)
    changed = []
    if earlier is not None:
        changed = resuming.check_config(earlier, values)
        settings = checked(RootSettings, values)  # with the batch size of the run
    strategy = build_strategy(values, settings.trainer)
    _prepare_torch(settings.trainer, settings.seed, strategy.device)
    train_source, val_source = build_sources(values)
    computed_weights.fill_in(values, train_source)
    image_kind = mean_and_std.image_kind(train_source)
    normalization = mean_and_std.decide(
        values, image_kind, None if earlier is None else mean_and_std.stored(earlier.content, earlier.config)
    )
    transform = instantiate.build(values["transform"], "transform")
    check_masks(transform, train_source.labels, int(values["dataset"].get("in_channels", 3)))
    if settings.trainer.autobatch and earlier is None:
        settings = autobatch.settled(values, settings, train_source, transform)
    options = settings.trainer
    pin_memory = strategy.device.type == "cuda"
    data = TrainLoader(
        with_decoded_cache(train_source),
        transform,
        batch_size=options.batch_size,
        accumulate=options.accumulate,
        seed=settings.seed,
        num_workers=_num_workers(options, strategy.device),
        on_error=train_source.on_error,
        pin_memory=pin_memory,
        timeout_s=options.data_timeout_s,
    )
    identities = resuming.identities({"train": train_source, "val": val_source})
    if earlier is not None:
        resuming.check_data(earlier, values, identities, data.steps_per_epoch)
    learning = build_learning(values, options, strategy, data.steps_per_epoch, normalization)
    evaluator = build_evaluator(
        values,
        val_source,
        options,
        device=strategy.device,
        loss=learning.loss if options.evaluate.loss else None,
    )
    with memory.shortage_explained(options, strategy.device):
        preflight.check(
            learning.model,
            learning.loss,
            evaluator.predictor,
            labels=train_source.labels,
            in_channels=int(values["dataset"].get("in_channels", 3)),
            strategy=strategy,
            sample=lambda: augmented(transform, train_source, 0, 0),
            evaluates_loss=options.evaluate.loss,
        )
    _check_monitor(options, val_source.labels, settings)
    tracker: Tracker = instantiate.build(values["tracker"], "tracker", supplied=SUPPLIED["tracker"])(
        run_folder=folder.path
    )
    trial = current_trial()
    # A sweep has a display of its own.
    progress = "off" if trial is not None and options.progress == "auto" else options.progress
    shown = ("miou", "loss", *(name for name, metric in settings.metrics.items() if metric.progress))
    recording = Recording(
        folder,
        CheckpointKeeper(folder.checkpoints, keep_top=options.checkpoint.keep_top, mode=options.checkpoint.mode),
        tracker,
        make_display(progress, shown),
        identity={
            "config": copy.deepcopy(values),
            "labels": asdict(train_source.labels),
            "precision": strategy.precision,
            "images": None if image_kind is None else image_kind._asdict(),
            "normalization": None if normalization is None else asdict(normalization),
            "data": identities,
        },
        on_best=lambda evaluation: best_evaluation.keep(evaluation, folder.path),
        **({} if trial is None else {"on_score": trial.report}),
    )
    trainer = Trainer(learning, data, evaluator, recording, strategy=strategy, settings=options)
    continued = None if earlier is None else resuming.go_on(trainer, earlier, changed)
    on_accepted()
    recorded = values if normalization is None else {**values, "normalization": asdict(normalization)}
    tracker.start(lifecycle.run_info(recorded, settings, choices, trainer, (train_source, val_source), continued))
    lifecycle.announce(trainer, choices, (train_source, val_source))
    return trainer, train_source.labels


def build_sources(values: dict[str, Any]) -> tuple[SampleSource, SampleSource]:
    """The training and the validation split, checked. Notes in `values` which lists of samples they are."""
    make_source = instantiate.build(values["dataset"], "dataset", supplied=SUPPLIED["dataset"])
    splitting: Splitting = instantiate.build(values["split"], "split", supplied=SUPPLIED["split"])
    train_source, val_source = splitting(make_source, "train"), splitting(make_source, "val")
    for source in (train_source, val_source):
        check_files(source)
    if splitting.digest is not None:
        values["split"]["digest"] = splitting.digest
    return train_source, val_source


def build_strategy(values: Mapping[str, Any], options: TrainerSettings) -> SingleDevice:
    return instantiate.build(
        {**values["trainer"]["strategy"], "device": options.device, "precision": options.precision},
        "trainer.strategy",
    )


def build_learning(
    values: dict[str, Any],
    options: TrainerSettings,
    strategy: SingleDevice,
    steps_per_epoch: int,
    normalization: mean_and_std.Normalization | None,
) -> Learning:
    model = preflight.as_module(mean_and_std.build_model(values, normalization), "model")
    model = strategy.prepare(model, channels_last=options.channels_last)
    loss = preflight.as_module(instantiate.build(values["loss"], "loss"), "loss").to(strategy.device)
    optimizer = instantiate.build(values["optimizer"], "optimizer", supplied=SUPPLIED["optimizer"])(model)
    schedule = instantiate.build(values["scheduler"], "scheduler", supplied=SUPPLIED["scheduler"])(
        optimizer, total_steps=total_steps(options, steps_per_epoch), steps_per_epoch=steps_per_epoch
    )
    ema = None if options.ema.decay is None else Ema(model, options.ema.decay)
    forward = CompiledForward(model, options.batch_size) if options.compile else model
    return Learning(model, loss, optimizer, schedule, ema, forward)


def build_evaluator(
    values: dict[str, Any],
    source: SampleSource,
    options: TrainerSettings,
    *,
    device: torch.device,
    loss: Loss | None,
    make_predictor: Any = None,
    split: str = "val",
) -> Evaluator:
    """The evaluator of one split; training and `scripts/evaluate.py` both use this one."""
    labels = source.labels
    listed = {name: checked(MetricSettings, metric) for name, metric in values["metrics"].items()}

    metrics = {
        name: ListedMetric(
            instantiate.build(metric.metric, f"metrics.{name}.metric"), name=name, labels=labels, input=metric.input
        )
        for name, metric in listed.items()
    }
    preflight.check_metrics(metrics.values())
    judged = judging(labels)
    return Evaluator(
        EvaluationLoader(
            source,
            split=split,
            batch_size=options.evaluate.batch_size,
            num_workers=_num_workers(options, device),
            on_error=source.on_error,
            pin_memory=device.type == "cuda",
            timeout_s=options.data_timeout_s,
        ),
        make_predictor or instantiate.build(values["predictor"], "predictor", supplied=SUPPLIED["predictor"]),
        judged.decide,
        lambda: judged.counts().to(device),
        judged.named_scores(labels),
        {name: metric for name, metric in metrics.items() if split in listed[name].splits},
        loss,
        options.evaluate.panel_samples,
    )


def check_files(source: SampleSource) -> None:
    """Raise DataError listing the files at fault, or only warn of them where they are to be skipped."""
    try:
        source.check()
    except DataError as error:
        if source.on_error == "raise":
            raise
        log.warning("%s\ndataset.on_error=skip: samples with files that cannot be used will be skipped", error)


def _num_workers(options: TrainerSettings, device: torch.device) -> int:
    return default_workers(device.type) if options.num_workers is None else options.num_workers


def _check_monitor(options: TrainerSettings, labels: LabelSpace, settings: RootSettings) -> None:
    """Raise UserError, before the first step, if nothing that evaluations give has the monitored name."""
    monitor = options.checkpoint.monitor
    names = judging(labels).score_names(labels)
    names += [name for name, metric in settings.metrics.items() if "val" in metric.splits]
    names += ["loss"] if options.evaluate.loss else []
    # Parts of the loss and single numbers of a listed metric are named below their whole.
    if monitor not in names and monitor.rpartition("/")[0] not in names:
        raise UserError(f"trainer.checkpoint.monitor={monitor}: no evaluation gives this. Allowed: {', '.join(names)}")


def _prepare_torch(options: TrainerSettings, seed: int, device: torch.device) -> None:
    deterministic = device.type == "cpu" if options.deterministic is None else options.deterministic
    heap.keep()
    torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    torch.backends.cudnn.benchmark = not deterministic
    if options.compile:
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
    else:  # the same without telling the compiler, which would have to be imported for that
        torch._C._set_deterministic_algorithms(deterministic, warn_only=True)  # pyright: ignore[reportPrivateUsage]
    # Filling fresh tensors with NaN finds reads of memory never written, and costs a third of the speed.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    # Bilinear resizing has no deterministic CUDA backward; told once at the start instead of at every step.
    warnings.filterwarnings("once", message=".*does not have a deterministic implementation.*")


def _fit(trainer: Trainer, labels: LabelSpace, started: float) -> float | None:
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
        lifecycle.close(trainer, labels, status, error, started)
    return trainer.state.best_score
