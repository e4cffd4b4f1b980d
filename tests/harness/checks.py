"""What options of each group have to do: a function for each group, which builds the option and runs it.

A group is found by its folder. An option that does not work makes its check raise; a group without a check does too.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from torch import Tensor, nn

from segkit.config.instantiate import locate
from segkit.contracts import Prediction, QueryPrediction, RunInfo, Sample
from segkit.data.transforms.apply import augmented
from segkit.experiment.assembly import Experiment
from segkit.sweep import settings as sweep_settings
from segkit.sweep import study
from tests.composed import batch_of
from tests.data import tiny_folders
from tests.harness.options import Option

CLASSES = 7  # of the data set that every option is composed with


def check(option: Option) -> None:
    """Build and run an option. Raises whatever it raises, or AssertionError for what it does not do."""
    run = CHECKS.get(option.group)
    assert run is not None, (
        f"{option}: nothing runs options of conf/{option.group}; add a function for the group to CHECKS in "
        "tests/harness/checks.py"
    )
    option.recipe  # noqa: B018  every key binds
    run(option)


def composes(option: Option) -> None:
    """Files that choose options and set keys, and build nothing themselves."""


def loss(option: Option) -> None:
    """Learns from logits at their own stride; where all is ignored, gives zero."""
    criterion = option.experiment().loss()
    torch.manual_seed(0)
    logits, mask = torch.randn(2, CLASSES, 8, 8, requires_grad=True), torch.randint(CLASSES, (2, 32, 32))
    mask = mask.to(torch.uint8)
    # As the masks of seven queries they serve losses of queries too.
    queries = [QueryPrediction(torch.randn(2, CLASSES, CLASSES + 1), logits)]
    auxiliary = {"auxiliary": torch.randn(2, CLASSES, 4, 4)}
    terms = criterion(Prediction(logits, auxiliary, queries), batch_of(mask))
    terms.total.backward()
    assert terms.total.isfinite()
    assert logits.grad is not None, "no gradient reaches the logits"
    assert logits.grad.abs().sum() > 0
    assert terms.parts, "the log has nothing to show"
    assert not any(part.requires_grad for part in terms.parts.values())
    ignored = criterion(Prediction(logits.detach(), queries=queries), batch_of(torch.full_like(mask, 255)))
    assert float(ignored.total.detach()) == 0.0


def model(option: Option) -> None:
    _learns(option.experiment())


def head(option: Option) -> None:
    _learns(option.experiment("model=deeplabv3plus", f"model/head={option.name}"))


def auxiliary(option: Option) -> None:
    prediction = _learns(option.experiment())
    assert prediction.auxiliary, "the model has no auxiliary head"


def backbone(option: Option) -> None:
    _learns(option.experiment("model=fcn", "model.head.channels=16"))


def _learns(experiment: Experiment) -> Prediction:
    """One forward and one backward pass of two images; what the model predicts."""
    torch.manual_seed(0)
    built = experiment.model().train()
    prediction = built(torch.randint(256, (2, 3, 48, 64), dtype=torch.uint8))
    assert prediction.logits.shape[:2] == (2, CLASSES)
    (prediction.logits.square().mean() + sum(logits.mean() for logits in prediction.auxiliary.values())).backward()
    gradients = [parameter.grad for parameter in built.parameters() if parameter.grad is not None]
    assert gradients, "no gradient reaches a parameter"
    assert all(gradient.isfinite().all() for gradient in gradients)
    return prediction


def dataset(option: Option) -> None:
    """Every sample of the training split of a tiny folder is read, checked and named."""
    write_files(option)
    source = option.recipe.build("dataset", split="train")
    assert len(source) > 0
    source.check()
    assert source.identity()
    for index in range(min(len(source), 4)):
        sample = source.read(index)
        assert sample.id == source.name(index)
        assert sample.image.ndim == 3
        assert sample.mask.shape[:2] == sample.image.shape[:2]
        assert sample.mask.dtype == source.labels.mask_dtype
        assert set(np.unique(sample.mask).tolist()) <= {*range(source.labels.num_classes), source.labels.ignore_index}


def write_files(option: Option) -> None:
    """The tiny folder of a data set that reads files; AssertionError where nobody says what it looks like."""
    node = option.recipe.node("dataset")
    if "root" not in node or option.root.exists():
        return
    module = importlib.import_module(locate(node["_target_"], "dataset").__module__)
    make = tiny_folders.maker(option.name) or getattr(module, "write_example", None)
    assert make is not None, (
        f"{option} reads files, and there are none to try it with; add write_example(root: Path) to {module.__name__}, "
        f"or {option.name}(root: Path) to tests/data/tiny_folders.py: it writes a few samples as they lie on a disk"
    )
    option.root.mkdir(parents=True)
    make(option.root)


def split(option: Option) -> None:
    """Training and validation samples are read, and none is both."""
    if option.recipe.node("split").get("folder"):
        write_lists(option.root)
    experiment = option.experiment()
    names: list[set[str]] = []
    for part in ("train", "val"):
        source = experiment.source(part)
        assert source.read(0).id == source.name(0)
        names.append({source.name(index) for index in range(len(source))})
    assert not names[0] & names[1]


def write_lists(folder: Path, first: int = 0) -> None:
    """Lists and folds of the names of the samples that every option is composed with, the `first` of them left out."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"train/{index:04d}\n" for index in range(6)] + [f"val/{index:04d}\n" for index in range(3)]
    (folder / "train.txt").write_text("".join(names[first:5]))
    (folder / "val.txt").write_text("".join(names[5:]))
    for fold in range(5):
        (folder / f"fold_{fold}.txt").write_text("".join(names[fold::5]))


def transform(option: Option) -> None:
    """A function of sample and seed that keeps sizes, types and the label space."""
    transformed, source = option.experiment().transform, TwoSamples()
    made = [augmented(transformed, source, 1, seed=5) for _ in range(2)]
    assert made[0].id == "1"
    assert made[0].image.dtype == np.uint8
    assert made[0].image.shape == (48, 48, 3)
    assert made[0].mask.dtype == np.uint8
    assert set(np.unique(made[0].mask)) <= {*range(CLASSES), 255}
    assert np.array_equal(made[1].image, made[0].image)


class TwoSamples:
    """Blocks of each class under noise, 48 pixels a side."""

    labels: Any = None
    on_error = "raise"

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.images = random.integers(0, 255, (2, 48, 48, 3), np.uint8)
        self.masks = random.integers(0, CLASSES, (2, 6, 6), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
        labels = type("Labels", (), {"num_classes": CLASSES, "ignore_index": 255, "mask_dtype": np.uint8})
        self.labels = labels

    def __len__(self) -> int:
        return 2

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> Sample:
        return Sample(self.images[index].copy(), self.masks[index].copy(), str(index))


def optimizer(option: Option) -> None:
    """Lowers a loss."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    built = option.recipe.build("optimizer", model=network)
    inputs, targets = torch.randn(64, 4), torch.randn(64, 1)
    losses: list[float] = []
    for _ in range(30):
        built.zero_grad()
        squares = (network(inputs) - targets).square().mean()
        squares.backward()
        built.step()
        losses.append(squares.item())
    assert losses[-1] < losses[0]


def scheduler(option: Option) -> None:
    """Gives rates between 0 and the optimizer's own, and goes on from its state."""

    def built() -> tuple[torch.optim.Optimizer, Any]:
        descent = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
        return descent, option.recipe.build("scheduler", optimizer=descent, total_steps=20, steps_per_epoch=5)

    descent, schedule = built()
    rates: list[float] = []
    saved: tuple[Any, Any] | None = None
    for step in range(20):
        if step == 7:
            saved = (descent.state_dict(), schedule.state_dict())
        rates.append(descent.param_groups[0]["lr"])
        descent.step()
        schedule.step()
    schedule.evaluated(0.5)
    assert all(0 <= rate <= 0.1 + 1e-12 for rate in rates)
    assert max(rates) > 0
    other, resumed = built()
    assert saved is not None
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    for step in range(7, 20):
        assert other.param_groups[0]["lr"] == rates[step]
        other.step()
        resumed.step()


def predictor(option: Option) -> None:
    """Finds again what a model says of each pixel alone, at full size."""

    def per_pixel(images: Tensor) -> Prediction:
        return Prediction(images.float() / 255)

    images = torch.randint(0, 256, (1, 3, 70, 90), dtype=torch.uint8)
    predicted = option.recipe.build("predictor", model=per_pixel)(images)
    torch.testing.assert_close(predicted.logits, images / 255.0)


def tracker(option: Option) -> None:
    """Starts, is told that the run has gone on, and finishes."""
    run = option.folder / "run"
    run.mkdir(parents=True)
    built = option.recipe.build("tracker", run_folder=run)
    built.start(RunInfo("a run", {"seed": 0}, {"model": "fcn"}))
    row = {"kind": "train", "step": 1, "epoch": 0, "loss": 0.5, "lr": 0.1, "time": 1_700_000_000.0}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    built.log(row)
    built.tag({"sweep": "a"})
    built.finish("completed")
    assert built.run_id is None or isinstance(built.run_id, str)


def trainer(option: Option) -> None:
    """The strategy takes a step, and its state goes into another."""
    experiment = option.experiment()
    strategy = experiment.strategy
    network = strategy.prepare(nn.Conv2d(3, 2, 3), channels_last=experiment.options.channels_last)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    descent = torch.optim.SGD(network.parameters(), lr=0.1)
    with strategy.autocast():
        total = network(torch.randn(2, 3, 8, 8, device=strategy.device)).float().square().mean()
    strategy.backward(total)
    assert bool(strategy.all_finite(total, descent))
    strategy.step(descent, clip_norm=1.0)
    assert any(not torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))
    strategy.load_state_dict(strategy.state_dict())
    network(torch.randn(1, 3, 8, 8, device=strategy.device))


def sweeper(option: Option) -> None:
    """Its settings are complete, and its sampler and pruner judge three trials of three values."""
    composed = option.compose(hydra_too=True).hydra
    composed.runtime.cwd = str(option.folder)
    settings = sweep_settings.read(composed)
    study.quieten()
    searched = optuna.create_study(sampler=study.make_sampler(settings), pruner=study.make_pruner(settings))

    def objective(trial: optuna.Trial) -> float:
        score = trial.suggest_float("lr", 0.0, 1.0) + len(trial.suggest_categorical("loss", ["ce", "dice"]))
        for step in range(3):
            trial.report(score + step, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return score

    searched.optimize(objective, n_trials=3)
    assert len(searched.trials) == 3


def chooses_a_sweep(option: Option) -> None:
    sweep_settings.read(option.compose(hydra_too=True).hydra)


CHECKS: dict[str, Callable[[Option], None]] = {
    "loss": loss,
    "model": model,
    "model/head": head,
    "model/auxiliary": auxiliary,
    "backbone": backbone,
    "dataset": dataset,
    "split": split,
    "transform": transform,
    "optimizer": optimizer,
    "scheduler": scheduler,
    "predictor": predictor,
    "tracker": tracker,
    "trainer": trainer,
    "sweep": chooses_a_sweep,
    "hydra/sweeper": sweeper,
    "hydra/sweeper/sampler": sweeper,
    "hydra/sweeper/pruner": sweeper,
    "experiment": composes,
    "debug": composes,
    "paths": composes,
    "hydra": composes,
    "hydra/help": composes,
    "hydra/hydra_logging": composes,
    "hydra/job_logging": composes,
}
