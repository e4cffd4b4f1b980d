"""What the option of each group does in a config, in a form that can be compared.

Losses, transforms, predictors, splits, optimizers and schedules are called; of what would take too long to call,
networks and trackers, layers and attributes are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segkit.config.recipe import Recipe
from segkit.contracts import Prediction, QueryPrediction
from segkit.data.transforms.apply import augmented
from segkit.experiment.assembly import Experiment
from tests.composed import experiment_of
from tests.harness.checks import CLASSES, TwoSamples
from tests.harness.fingerprint import attributes, digest, network

SEEDS = 16


def loss(made: Experiment) -> Any:
    torch.manual_seed(0)
    logits, mask = torch.randn(2, CLASSES, 8, 8), torch.randint(CLASSES - 2, (2, 32, 32))
    mask[:, :4] = 255
    found: list[Any] = []
    for classes in (torch.randn(2, CLASSES, CLASSES + 1), torch.zeros(2, CLASSES, CLASSES + 1)):
        leaf = logits.clone().requires_grad_()
        auxiliary = {"auxiliary": torch.linspace(-1, 1, 2 * CLASSES * 16).view(2, CLASSES, 4, 4)}
        terms = made.loss().eval()(Prediction(leaf, auxiliary, [QueryPrediction(classes, leaf)]), mask)
        terms.total.backward()
        found += [digest(terms.total), digest(leaf.grad), sorted(terms.parts)]
    return found


def model(made: Experiment) -> Any:
    return network(made.model())


def optimizer(made: Experiment) -> Any:
    torch.manual_seed(0)
    built = made.model()
    rule = made.recipe.build("optimizer", model=built)
    for step in range(2):
        for number, parameter in enumerate(built.parameters()):
            parameter.grad = torch.full_like(parameter, 0.01 * (1 + number % 3) * (-1) ** step)
        rule.step()
    groups = [{key: value for key, value in group.items() if key != "params"} for group in rule.param_groups]
    return [type(rule).__qualname__, attributes(groups), [digest(parameter) for parameter in built.parameters()]]


def scheduler(made: Experiment) -> Any:
    rule = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = made.recipe.build("scheduler", optimizer=rule, total_steps=200, steps_per_epoch=5)
    rates: list[float] = []
    for step in range(200):
        rates.append(rule.param_groups[0]["lr"])
        rule.step()
        schedule.step()
        if step % 5 == 4:
            schedule.evaluated(0.5 + 1e-3 * (step % 2))
    inner = getattr(schedule, "scheduler", None)  # PyTorch's own: its attributes count
    return [rates, attributes({} if inner is None else {**vars(inner), "optimizer": None})]


def transform(made: Experiment) -> Any:
    source = TwoSamples()
    samples = [augmented(made.transform, source, seed % 2, seed) for seed in range(SEEDS)]
    return [(digest(sample.image), digest(sample.mask)) for sample in samples]


def predictor(made: Experiment) -> Any:
    sizes: list[Any] = []

    def blurred(images: Tensor) -> Prediction:
        sizes.append(tuple(images.shape))
        return Prediction(images.float() - images.float().mean(dim=(2, 3), keepdim=True))

    images = torch.randint(256, (1, 3, 800, 1100), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    logits = made.predictor(blurred).__call__(images).logits  # pyright: ignore
    return [digest(logits), sizes]


def tracker(made: Experiment) -> Any:
    return attributes(made.recipe.build("tracker", run_folder=Path("run")))


def dataset(made: Experiment) -> Any:
    source = made.recipe.build("dataset", split="train")
    sample = source.read(0)
    return [attributes(source), len(source), sample.id, digest(sample.image), digest(sample.mask)]


def split(made: Experiment) -> Any:
    found = [made.source(part) for part in ("train", "val")]
    return [[source.name(index) for index in range(len(source))] for source in found], attributes(made.splitting)


def strategy(made: Experiment) -> Any:
    return attributes(made.recipe.build("trainer.strategy"))


VIEWS: dict[str, Callable[[Experiment], Any]] = {
    "loss": loss,
    "backbone": model,
    "model/head": model,
    "model/auxiliary": model,
    "model": model,
    "dataset": dataset,
    "split": split,
    "transform": transform,
    "optimizer": optimizer,
    "scheduler": scheduler,
    "predictor": predictor,
    "tracker": tracker,
    "trainer": strategy,
}


def view(group: str, config: Any) -> Any:
    """What the part of `group` that `config` describes does. Raises UserError for a config that is refused."""
    torch.manual_seed(0)
    return VIEWS[group](experiment_of(Recipe.of(config)))
