"""`scripts/evaluate.py`: the scores of a trained run on one of its splits, as its own training computed them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.table import Table
from rich.text import Text

from segkit.config import instantiate
from segkit.config.schema import EvaluateScriptSettings, TrainerSettings, checked
from segkit.engine import memory
from segkit.engine.evaluator import Evaluation
from segkit.engine.progress import CONSOLE
from segkit.experiment.inference import composed_predictor
from segkit.experiment.trained_experiment import TrainedExperiment, of_checkpoint
from segkit.reporting import best_evaluation
from segkit.run.run_folder import output_folder, write_json

log = logging.getLogger(__name__)


def run(config: DictConfig, folder: Path) -> float:
    """Evaluate as `config` says and write scores, table and pictures to its output, or `folder`; the mIoU."""
    values = instantiate.plain(config)
    settings = checked(EvaluateScriptSettings, values)
    output = folder if settings.output is None else output_folder(Path(settings.output), "output")
    output.mkdir(parents=True, exist_ok=True)
    trained = of_checkpoint(settings.run, device=settings.device, precision=settings.precision, trust=settings.trust)
    memory.keep_freed()
    evaluation = evaluate(trained, settings)
    best_evaluation.draw(evaluation.confusion, evaluation.panels, trained.labels, output)
    scores = {"run": str(settings.run), "checkpoint": str(trained.path), "step": trained.step}
    write_json(output / "scores.json", scores | {"split": settings.split, **evaluation.scores})
    _show(evaluation, trained)
    log.info("scores, per-class table and pictures: %s", output)
    return evaluation.scores["miou"]


def evaluate(trained: TrainedExperiment, settings: EvaluateScriptSettings) -> Evaluation:
    """One evaluation, with whatever the training used where `settings` replace nothing."""
    trained = trained.changed(_changes(trained, settings))
    options, strategy = trained.options, trained.strategy
    model = trained.trained_model()
    evaluator = trained.evaluator(
        settings.split,
        loss=trained.loss() if options.evaluate.loss else None,
        make_predictor=None if settings.predictor is None else composed_predictor(settings.predictor),
    )
    num_samples = len(evaluator.data)
    try:
        with (
            memory.shortage_told("during evaluation", _remedies(settings, options), strategy.device),
            CONSOLE.status(f"evaluating {num_samples} samples") as status,
            memory.given_back(lambda done: status.update(f"evaluated {done} of {num_samples} samples")) as counted,
        ):
            return evaluator(model, strategy, on_batch=counted)
    finally:
        evaluator.data.close()


def _changes(trained: TrainedExperiment, settings: EvaluateScriptSettings) -> dict[str, Any]:
    """What differs from the training: where the data lie on this machine, and how the work is done here."""
    stored = trained.recipe.values
    changes: dict[str, Any] = {"trainer.num_workers": settings.num_workers}
    # Where files are written is not for a checkpoint to say.
    cache = str(Path(settings.paths["output_dir"]) / "cache")
    changes |= {f"{key}.cache_dir": cache for key in ("dataset", "split") if stored[key].get("cache_dir") is not None}
    changes |= {f"dataset.{name}": value for name, value in settings.dataset.items() if value is not None}
    if settings.split_folder is not None:
        changes["split.folder"] = settings.split_folder
    if settings.batch_size is not None:
        changes["trainer.evaluate.batch_size"] = settings.batch_size
    return changes


def _remedies(settings: EvaluateScriptSettings, options: TrainerSettings) -> list[str]:
    """Settings that make an evaluation take less memory."""
    smaller = [f"batch_size={options.evaluate.batch_size // 2}"] if options.evaluate.batch_size > 1 else []
    if settings.predictor is None:
        return [*smaller, "predictor=sliding, for images much larger than the training crops"]
    return [*smaller, "predictor.batch_size=1, or a smaller predictor.window"]


def _show(evaluation: Evaluation, trained: TrainedExperiment) -> None:
    """The per-class table and the means, within 80 columns."""
    table = Table("class", box=None, pad_edge=False)
    for title in ("IoU", "Dice", "accuracy", "pixels"):
        table.add_column(title, justify="right")
    columns = best_evaluation.per_class(evaluation.confusion, trained.labels)
    for index, name in enumerate(trained.labels.names):
        numbers = [columns[title][index] for title in ("IoU", "Dice", "accuracy")]
        shown = ["-" if number != number else f"{number:.4f}" for number in numbers]
        table.add_row(Text(name), *shown, str(int(columns["pixels"][index])))
    CONSOLE.print(table)
    means = ("miou", "mean_dice", "pixel_accuracy", "mean_accuracy", "fwiou")
    line = "  ".join(f"{name} {evaluation.scores[name]:.4f}" for name in means)
    CONSOLE.print(f"\n{evaluation.split}: {line}")
