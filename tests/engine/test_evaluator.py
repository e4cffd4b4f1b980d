"""One pass over a split: what is counted, in which order samples may come, and what is waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import psutil
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassF1Score
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_f1_score

from segkit.contracts import Batch, DataError, LabelSpace, Loss, LossTerms, Prediction, Sample
from segkit.data.loader import EvaluationLoader
from segkit.engine import memory
from segkit.engine.evaluator import Evaluation, Evaluator
from segkit.engine.strategy.single_device import SingleDevice
from segkit.losses.combined import CombinedLoss
from segkit.metrics.torchmetric import ListedMetric
from segkit.predictors.sliding import Sliding
from segkit.predictors.whole_image import Whole
from segkit.tasks.kinds import task_of

CLASSES = 5
LABELS = LabelSpace(tuple("abcde"), tuple((i, i, i) for i in range(CLASSES)))
LAYERS = LabelSpace(LABELS.names, LABELS.colors, multilabel=True)
DEVICE = SingleDevice("cpu", "fp32")


class Noise:
    """Samples of noise; number i is of `sizes[i]`. `stray` is an id that some pixel of the last mask has."""

    on_error: Literal["raise", "skip"] = "raise"

    def __init__(self, sizes: Sequence[tuple[int, int]], labels: LabelSpace = LABELS, stray: int = 0) -> None:
        self.sizes = sizes
        self.labels = labels
        self.stray = stray

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, index: int) -> str:
        return f"noise/{index}"

    def read(self, index: int) -> Sample:
        random = np.random.default_rng(index)
        shape = self.sizes[index]
        if self.labels.multilabel:
            mask = random.choice(np.array([0, 1, 255], np.uint8), (*shape, CLASSES))
        else:
            mask = random.choice(np.array([*range(CLASSES), 255], np.uint8), shape)
        if index == len(self) - 1:
            mask[0, 0] = self.stray
        return Sample(random.integers(0, 256, (*shape, 3), np.uint8), mask, self.name(index))

    def check(self) -> None: ...

    def identity(self) -> dict[str, str]:
        return {}


class Strided(nn.Module):
    """Logits at stride 4, by a convolution of random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, CLASSES, 5, stride=4, padding=2)
        nn.init.normal_(self.convolution.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, images: Tensor) -> Prediction:
        return Prediction(self.convolution(images.float() / 255))


def make(
    source: Noise,
    *,
    batch_size: int = 3,
    predictor: Callable[..., Any] = Whole,
    device: str = "cpu",
    **keys: Any,
) -> Evaluator:
    data = EvaluationLoader(source, split="val", batch_size=batch_size, num_workers=0)
    return Evaluator(data, predictor, task_of(source.labels), **keys)


RAGGED = [(40, 40), (17, 33), (40, 40), (33, 17), (17, 33), (40, 40), (40, 40), (9, 9)]


@pytest.mark.parametrize("predictor", [Whole, lambda model: Sliding(model, window=16)])
def test_scores_of_mixed_sizes_are_those_of_each_image_alone(predictor: Callable[..., Any]) -> None:
    model, source = Strided().eval(), Noise(RAGGED)
    metrics = {
        kind: ListedMetric(MulticlassF1Score(CLASSES), name=kind, task=task_of(LABELS), input=kind)
        for kind in ("labels", "probabilities")
    }
    found = make(
        source, predictor=predictor, metrics=metrics, loss=CombinedLoss(num_classes=CLASSES, ignore_index=255)
    )(model, DEVICE)
    truths: list[Tensor] = []
    labels: list[Tensor] = []
    for sample in map(source.read, range(len(source))):
        images = torch.from_numpy(sample.image).permute(2, 0, 1)[None]
        with torch.no_grad():
            logits = predictor(model)(images).logits
        full = F.interpolate(logits, size=sample.mask.shape, mode="bilinear")
        labels.append(full.argmax(dim=1).flatten())
        truths.append(torch.from_numpy(sample.mask).long().flatten())
    truth, predicted = torch.cat(truths), torch.cat(labels)
    expected = multiclass_confusion_matrix(predicted, truth, CLASSES, ignore_index=255)
    assert np.array_equal(found.confusion, expected.numpy())
    f1 = multiclass_f1_score(predicted, truth, CLASSES, ignore_index=255).item()
    assert found.scores["labels"] == found.scores["probabilities"] == pytest.approx(f1)
    assert found.scores["loss"] > 0


def test_batches_change_no_score_and_their_order_not_the_loss() -> None:
    model = Strided()

    class PerImage:
        """A loss that is the same however images share batches."""

        def __call__(self, prediction: Prediction, mask: Tensor) -> LossTerms:
            total = prediction.logits.double().mean()
            return LossTerms(total, {"half": total / 2})

    results: list[Evaluation] = []
    for sizes, batch_size in ((RAGGED, 1), (RAGGED, 2), (RAGGED, 8)):
        results.append(make(Noise(sizes), batch_size=batch_size, loss=PerImage(), panel_samples=4)(model, DEVICE))
    first = results[0]
    for other in results[1:]:
        assert np.array_equal(other.confusion, first.confusion)
        assert other.scores == pytest.approx(first.scores, abs=1e-9, nan_ok=True)
        assert [panel.id for panel in other.panels] == [panel.id for panel in first.panels]
        for one, two in zip(other.panels, first.panels, strict=True):
            assert np.array_equal(one.image, two.image)
            assert np.array_equal(one.truth, two.truth)
            assert np.array_equal(one.predicted, two.predicted)
    assert first.scores["loss"] == pytest.approx(2 * first.scores["loss/half"])
    reversed_ = make(Noise(RAGGED), batch_size=1, loss=PerImage())
    reversed_.data = Backwards(reversed_.data)  # pyright: ignore[reportAttributeAccessIssue]
    assert reversed_(model, DEVICE).scores["loss"] == first.scores["loss"], "to the last bit"


class Backwards:
    """The batches of another, last first."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Batch]:
        return reversed(list(self.data))

    def __len__(self) -> int:
        return len(self.data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)


def test_panels_are_spread_over_the_split_and_come_in_its_order() -> None:
    found = make(Noise(RAGGED), panel_samples=3)(Strided(), DEVICE)
    assert [panel.id for panel in found.panels] == ["noise/0", "noise/4", "noise/7"]
    assert [panel.predicted.shape for panel in found.panels] == [(40, 40), (17, 33), (9, 9)]
    assert make(Noise(RAGGED), panel_samples=0)(Strided(), DEVICE).panels == []
    assert len(make(Noise(RAGGED[:2]), panel_samples=6)(Strided(), DEVICE).panels) == 2


@pytest.mark.parametrize("loss", [None, CombinedLoss(num_classes=CLASSES, ignore_index=255)])
def test_an_id_that_is_no_class_is_named_whatever_the_loss_makes_of_it(loss: Loss | None) -> None:
    with pytest.raises(DataError, match=r"masks hold ids 0\.\.7; allowed: 0\.\.4 and dataset\.ignore_index=255"):
        make(Noise(RAGGED, stray=7), loss=loss)(Strided(), DEVICE)


def test_other_faults_of_a_loss_stay_what_they_are() -> None:
    def broken(prediction: Prediction, mask: Tensor) -> LossTerms:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match=r"^broken$"):
        make(Noise(RAGGED), loss=broken)(Strided(), DEVICE)


def test_cudnn_does_not_search_at_every_new_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    seen: list[bool] = []

    def look(done: int) -> None:
        seen.append(torch.backends.cudnn.benchmark)
        if done == len(RAGGED):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(Noise(RAGGED))(Strided(), DEVICE, on_batch=look)
    assert not any(seen)
    assert torch.backends.cudnn.benchmark


class Meta(SingleDevice):
    """A device from which nothing can be read: waiting for it is an error."""

    def __init__(self) -> None:
        self.device = torch.device("meta")

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext()


class Passed(Exception):
    """All batches have been handed to the device."""


def over(evaluator: Evaluator, model: nn.Module) -> None:
    """Run all batches of an evaluation, up to where its results are read, on a device that cannot be waited for."""
    total = len(evaluator.data)

    def on_batch(done: int) -> None:
        if done == total:
            raise Passed

    evaluator(model.to("meta"), Meta(), on_batch=on_batch)


@pytest.mark.parametrize("labels", [LABELS, LAYERS])
@pytest.mark.parametrize("predictor", [Whole, lambda model: Sliding(model, window=16)])
def test_nothing_waits_for_the_device_until_all_batches_are_done(
    labels: LabelSpace, predictor: Callable[..., Any]
) -> None:
    evaluator = make(Noise(RAGGED, labels), predictor=predictor, panel_samples=4, device="meta")
    with pytest.raises(Passed):
        over(evaluator, Strided())


@pytest.mark.parametrize(
    "waits", [lambda x: x.max().item(), lambda x: x.cpu(), lambda x: bool((x > 0).any()), lambda x: x[x > 0]]
)
def test_waiting_would_be_seen(waits: Callable[[Tensor], Any]) -> None:
    class Waits(Strided):
        def forward(self, images: Tensor) -> Prediction:
            prediction = super().forward(images)
            waits(prediction.logits)
            return prediction

    evaluator = make(Noise(RAGGED), device="meta")
    with pytest.raises((RuntimeError, NotImplementedError)):
        over(evaluator, Waits())


def test_memory_does_not_grow_with_the_number_of_sizes() -> None:
    """Tensors of 300 sizes leave gaps of some 200 MB between them."""
    blocks = [nn.Sequential(nn.Conv2d(16 if i else 3, 16, 3, padding=1), nn.ReLU()) for i in range(8)]
    network = nn.Sequential(*blocks, nn.Conv2d(16, CLASSES, 1)).to(memory_format=torch.channels_last)

    def resident(sizes: list[tuple[int, int]]) -> float:
        def predictor(model: nn.Module) -> Callable[[Tensor], Prediction]:
            return lambda images: Prediction(model((images / 255).contiguous(memory_format=torch.channels_last)))

        with memory.given_back(lambda done: None) as on_batch:  # as commands evaluate
            make(Noise(sizes), batch_size=1, predictor=predictor)(network, DEVICE, on_batch=on_batch)
        return psutil.Process().memory_info().rss / 2**20

    sizes = [(40 + i, 50 + i // 3) for i in range(300)]
    few = resident(sizes[-2:])
    assert resident(sizes) < few + 100
