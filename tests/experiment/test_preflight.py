"""What is wrong with a model, loss or predictor of the user is told before the first step, and nothing moves."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segkit.cli import train
from segkit.contracts import Batch, DataError, LabelSpace, LossTerms, Prediction, Sample
from segkit.engine.strategy.single_device import SingleDevice
from segkit.errors import UserError
from segkit.experiment import preflight
from segkit.losses.combined import CombinedLoss
from segkit.predictors.whole_image import Whole
from segkit.tasks.kinds import task_of
from tests.conftest import TINY, Ended

LABELS = LabelSpace(("a", "b", "c"), ((0, 0, 0),) * 3)
CPU = SingleDevice("cpu", "fp32")


class Model(nn.Module):
    """A model whose parts change as it is called: batch norm, dropout; `gives` makes what it returns of its logits."""

    def __init__(self, gives: Callable[..., Any] = Prediction, *, classes: int = 3, edge: int | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, classes, 1), nn.BatchNorm2d(classes), nn.Dropout(0.5))
        self.gives = gives
        self.edge = edge

    def forward(self, images: Tensor) -> Any:
        if self.edge not in (None, images.shape[-1]):
            raise RuntimeError(f"images of {self.edge} pixels only")
        return self.gives(self.net(images.float() / 255))


class TrainsOnly(Model):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images) if self.training else self.net(images.float())


class TakesTwo(Model):
    def forward(self, images: Tensor, mask: Tensor) -> Any:
        return super().forward(images)


class Loss(nn.Module):
    def __init__(self, gives: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.gives = gives

    def forward(self, prediction: Prediction, batch: Batch) -> Any:
        return self.gives(prediction.logits)


def no_sample() -> Sample:
    raise DataError("not to be read")


def check(model: nn.Module, loss: nn.Module | None = None, **more: Any) -> None:
    combined = CombinedLoss(num_classes=3, ignore_index=255)
    keywords = {"task": task_of(LABELS), "in_channels": 3, "strategy": CPU, "sample": no_sample, **more}
    preflight.check(model, loss or combined, keywords.pop("make_predictor", Whole), **keywords)


def test_nothing_is_left_behind() -> None:
    model = Model().train()
    loss = CombinedLoss(num_classes=3, ignore_index=255)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    benchmark = torch.backends.cudnn.benchmark
    check(model, loss)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert torch.backends.cudnn.benchmark == benchmark
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Model(lambda logits: logits), r"Model\) gave a float32 tensor \(2, 3, 64, 64\); expected"),
        (Model(lambda logits: (logits, logits)), r"a tuple of a float32 tensor .* and more"),
        (Model(lambda logits: {"out": logits}), "a dict with keys out"),
        (Model(lambda logits: Prediction(logits, [logits])), "auxiliary that is a list"),
        (
            Model(lambda logits: Prediction(logits, {"low": logits[:, :2]})),
            r"auxiliary\['low'\] that is .*\(2, 2, 64",
        ),
        (Model(lambda logits: Prediction(logits.argmax(1))), r"logits that is a int64 tensor \(2, 64, 64\)"),
        (Model(lambda logits: Prediction(logits[:1])), r"\(1, 3, 64, 64\) for images \(2, 3, 64, 64\)"),
        (Model(classes=5), r"\(2, 5, 64, 64\).*one channel for each of the 3 classes .*dataset\.num_classes"),
        (
            TakesTwo(),
            r"cannot be called as\n.*\nwith a uint8 tensor \(2, 3, 64, 64\):\n.*missing 1 required",
        ),
        (nn.Conv2d(3, 3, 1), r"torch\.nn\.modules\.conv\.Conv2d\) cannot be called as"),
        (TrainsOnly(), r"predictor .*Whole with model .*TrainsOnly\) gave a float32 tensor \(1, 3, 64, 64\)"),
    ],
)
def test_a_model_that_does_not_fit_is_told(model: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        check(model)
    assert "-> segkit.contracts.Prediction" in str(told.value) or "expected" in str(told.value)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            nn.CrossEntropyLoss(),
            r"torch\.nn\.modules\.loss\.CrossEntropyLoss\) cannot be called as\n  loss\(",
        ),
        (
            Loss(lambda logits: logits.mean()),
            r"gave a float32 tensor \(\); expected of\n  loss\(.*\nis LossTerms",
        ),
        (Loss(lambda logits: LossTerms(logits.mean((1, 2, 3)))), r"LossTerms\.total that is a float32 tensor \(2,\)"),
        (Loss(lambda logits: LossTerms(1.0)), r"LossTerms\.total that is a float"),  # pyright: ignore[reportArgumentType]
        (Loss(lambda logits: LossTerms(logits.mean().detach())), "without a gradient"),
        (Loss(lambda logits: LossTerms(logits.mean(), {"a": 1.0})), r"LossTerms\.parts\['a'\] that is a float"),  # pyright: ignore[reportArgumentType]
        (Loss(lambda logits: {}[len(logits)]), r"KeyError: 2 \(.*test_preflight\.py, line \d+\)\nHYDRA_FULL_ERROR=1"),
    ],
)
def test_a_loss_that_does_not_fit_is_told(loss: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(Model(), loss)


def test_a_predictor_that_does_not_fit_is_told() -> None:
    with pytest.raises(UserError, match=r"predictor \(.*\) gave a float32 tensor \(1, 3, 64, 64\)"):
        check(Model(), make_predictor=lambda model: lambda images: model(images).logits)
    with pytest.raises(
        UserError, match=r"predictor \(.*Whole\) cannot be called as\n  predictor\(model\)\nwith a Model"
    ):
        check(Model(), make_predictor=partial(Whole, window=3))  # pyright: ignore[reportCallIssue]


def test_multi_label_masks_are_tried_for_multi_label_losses() -> None:
    labels = LabelSpace(LABELS.names, LABELS.colors, multilabel=True)
    check(Model(), CombinedLoss(num_classes=3, ignore_index=255, multilabel=True), task=task_of(labels))


def test_a_model_of_one_image_size_is_tried_with_what_it_is_trained_on() -> None:
    sample = Sample(np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.uint8), "a")
    check(Model(edge=40), sample=lambda: sample)
    with pytest.raises(UserError, match=r"images of 41 pixels only"):
        check(Model(edge=41), sample=lambda: sample)


def test_the_command_ends_with_2_before_the_first_step(call: Callable[..., Ended], tmp_path: Any) -> None:
    given = [*TINY, "tracker=none", f"hydra.run.dir={tmp_path}/run"]
    ended = call(train.main, *given, "~loss", "+loss._target_=torch.nn.CrossEntropyLoss")
    assert ended.returncode == 2
    assert "LossTerms" in ended.stderr
    assert "Traceback" not in ended.stderr
    ended = call(train.main, *given, "+metrics.h.metric._target_=torchmetrics.TotalVariation")
    assert ended.returncode == 2
    assert not (tmp_path / "run" / "metrics.jsonl").read_text()


def test_what_is_no_module_is_told() -> None:
    with pytest.raises(UserError, match=r"loss\._target_ gives a float; expected is a torch\.nn\.Module, called as"):
        preflight.as_module(1.0, "loss")
