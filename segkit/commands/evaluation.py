"""`scripts/evaluate.py`: the scores of a trained run on one of its splits, as its own training computed them."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig
from rich.table import Table
from rich.text import Text

from segkit.config import instantiate
from segkit.config.schema import EvaluateScriptSettings, TrainerSettings, checked
from segkit.contracts import Loss, SampleSource
from segkit.data.splits import Official, Splitting
from segkit.engine import heap, memory
from segkit.engine.evaluator import Evaluation
from segkit.engine.progress import CONSOLE
from segkit.engine.strategy.single_device import SingleDevice
from segkit.errors import UserError
from segkit.experiment.inference import TrainedRun, read_run
from segkit.experiment.training import SUPPLIED, build_evaluator, check_files
from segkit.reporting import best_evaluation
from segkit.run.run_folder import output_folder, write_json

log = logging.getLogger(__name__)


def run(config: DictConfig, folder: Path) -> float:
    """Evaluate as `config` says and write scores, table and pictures to its output, or `folder`; the mIoU."""
    values = instantiate.plain(config)
    settings = checked(EvaluateScriptSettings, values)
    output = folder if settings.output is None else output_folder(Path(settings.output), "output")
    trained = read_run(settings.run, trust=settings.trust)
    output = folder if settings.output is None else Path(settings.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={output}: cannot be written to: {error.strerror}") from None
    heap.keep()
    evaluation = evaluate(trained, settings)
    best_evaluation.draw(evaluation.confusion, evaluation.panels, trained.labels, output)
    scores = {"run": str(settings.run), "checkpoint": str(trained.path), "step": trained.step}
    write_json(output / "scores.json", scores | {"split": settings.split, **evaluation.scores})
    _show(evaluation, trained)
    log.info("scores, per-class table and pictures: %s", output)
    return evaluation.scores["miou"]


def evaluate(trained: TrainedRun, settings: EvaluateScriptSettings) -> Evaluation:
    """One evaluation, with whatever the training used where `settings` replace nothing."""
    replaced = {name: value for name, value in settings.dataset.items() if value is not None}
    replaced = _own_cache(trained, "dataset", settings) | replaced
    make_source = trained.build("dataset", overrides=replaced, supplied=SUPPLIED["dataset"])
    source: SampleSource = _splitting(trained, settings)(make_source, settings.split)
    check_files(source)
    options = checked(TrainerSettings, trained.config["trainer"])
    evaluate_options = options.evaluate
    if settings.batch_size is not None:
        evaluate_options = evaluate_options.model_copy(update={"batch_size": settings.batch_size})
    options = options.model_copy(update={"evaluate": evaluate_options, "num_workers": settings.num_workers})
    strategy = SingleDevice(settings.device, settings.precision or trained.content["precision"])
    model = trained.model_on(strategy)
    instantiate.check_trusted(trained.config["metrics"], "metrics", trained.trust)
    loss: Loss | None = trained.build("loss").to(strategy.device) if options.evaluate.loss else None
    evaluator = build_evaluator(
        trained.config,
        source,
        options,
        device=strategy.device,
        loss=loss,
        make_predictor=(
            trained.build("predictor", supplied=SUPPLIED["predictor"])
            if settings.predictor is None
            else instantiate.build(settings.predictor, "predictor", supplied=SUPPLIED["predictor"])
        ),
        split=settings.split,
    )
    try:
        with (
            memory.shortage_told("during evaluation", _remedies(settings, options), strategy.device),
            CONSOLE.status(f"evaluating {len(source)} samples") as status,
        ):
            return evaluator(
                model,
                strategy,
                on_batch=lambda done: status.update(f"evaluated {done} of {len(source)} samples"),
            )
    finally:
        evaluator.data.close()


def _remedies(settings: EvaluateScriptSettings, options: TrainerSettings) -> list[str]:
    """Settings that make an evaluation take less memory."""
    smaller = [f"batch_size={options.evaluate.batch_size // 2}"] if options.evaluate.batch_size > 1 else []
    if settings.predictor is None:
        return [*smaller, "predictor=sliding, for images much larger than the training crops"]
    return [*smaller, "predictor.batch_size=1, or a smaller predictor.window"]


def _splitting(trained: TrainedRun, settings: EvaluateScriptSettings) -> Splitting:
    """The splits of the training run: of a cross-validation, those of its own fold."""
    if "split" not in trained.config:  # written before there were any but the data set's own
        return Official()
    moved = {} if settings.split_folder is None else {"folder": settings.split_folder}
    moved |= _own_cache(trained, "split", settings)
    return trained.build("split", overrides=moved, supplied=SUPPLIED["split"])


def _own_cache(trained: TrainedRun, key: str, settings: EvaluateScriptSettings) -> dict[str, str]:
    """The cache of this machine in place of a stored one: where files are written is not for a checkpoint to say."""
    stored = trained.config[key].get("cache_dir")
    return {} if stored is None else {"cache_dir": str(Path(settings.paths["output_dir"]) / "cache")}


def _show(evaluation: Evaluation, trained: TrainedRun) -> None:
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
