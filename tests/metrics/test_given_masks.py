"""What metrics, predictors and pictures are given is only read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torchmetrics.classification import MulticlassAUROC, MulticlassF1Score
from torchmetrics.segmentation import DiceScore

from segkit.config import instantiate
from segkit.contracts import DataError, LabelSpace, Prediction
from segkit.metrics.confusion import ConfusionMatrix, LayerCounts
from segkit.metrics.torchmetric import ListedMetric
from segkit.reporting.panels import PanelRow, panel
from segkit.tasks.kinds import task_of
from tests.composed import compose, count
from tests.harness.options import options

IGNORE = 100
TYPES = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]
LABELS = LabelSpace(("a", "b", "c"), ((0, 0, 0), (9, 9, 9), (0, 0, 9)), IGNORE)


@pytest.fixture(autouse=True, scope="module")
def _resolvers() -> None:
    OmegaConf.register_new_resolver("pid", lambda: 0, replace=True)


def batch(*, layers: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 6, generator=generator)
    mask = torch.randint(2 if layers else 3, (2, 3, 8, 6) if layers else (2, 8, 6), generator=generator)
    mask[..., :3, :] = IGNORE
    return logits, (logits > 0).long() if layers else logits.argmax(dim=1), mask


@pytest.mark.parametrize("counts", [ConfusionMatrix, LayerCounts])
def test_counts_are_the_same_of_every_type_and_write_nowhere(counts: type[ConfusionMatrix | LayerCounts]) -> None:
    _, predicted, mask = batch(layers=counts is LayerCounts)
    for dtype in TYPES:
        found = counts(3, IGNORE)
        given, guess = mask.to(dtype), predicted.to(dtype)
        for _ in range(2):
            found.update(guess, given)
            assert torch.equal(given.long(), mask)
            assert torch.equal(guess.long(), predicted)
        whole = counts(3, IGNORE)
        whole.update(predicted.to(torch.uint8), mask.to(torch.uint8))
        assert torch.equal(found.compute(), 2 * whole.compute())


def test_an_id_out_of_range_is_not_taken_for_an_ignored_one() -> None:
    """In uint8, PyTorch says, 255 == -1."""
    counts = ConfusionMatrix(3, -1)
    counts.update(torch.zeros(1, 2, dtype=torch.uint8), torch.tensor([[0, 255]], dtype=torch.uint8))
    with pytest.raises(DataError, match=r"masks hold ids 0\.\.255"):
        counts.compute()


@pytest.mark.parametrize(
    ("metric", "given"),
    [(MulticlassF1Score(3), "labels"), (MulticlassAUROC(3), "probabilities"), (DiceScore(3), "labels")],
)
def test_listed_metrics_write_nowhere(metric: MulticlassF1Score, given: str) -> None:
    scores: set[float] = set()
    logits, predicted, mask = batch()
    for dtype in [torch.uint8, *TYPES]:
        listed = ListedMetric(metric, name="mine", task=task_of(LABELS), input=given)  # pyright: ignore[reportArgumentType]
        listed.reset()
        tensors = logits.clone(), predicted.clone(), mask.to(dtype)
        for _ in range(2):
            count(listed, *tensors)
        assert torch.equal(tensors[0], logits)
        assert torch.equal(tensors[1], predicted)
        assert torch.equal(tensors[2].long(), mask)
        scores.add(round(listed.compute()["mine"], 6))
    assert len(scores) == 1


@pytest.mark.parametrize("option", options("predictor"))
def test_a_predictor_writes_neither_into_images_nor_into_logits(option: str) -> None:
    kept: list[tuple[Tensor, Tensor]] = []

    def model(images: Tensor) -> Prediction:
        kept.append((images if images.is_floating_point() else images.float(), images.float().clone()))
        return Prediction(kept[-1][0])

    node = compose(f"predictor={option}")["predictor"]
    predictor = instantiate.build(node, "predictor", supplied=["model"])(model=model)
    for dtype in (torch.uint8, torch.float32):
        images = torch.randint(0, 256, (1, 3, 70, 180), dtype=torch.uint8).to(dtype)[..., ::2]
        before = images.clone()
        first, second = predictor(images).logits.clone(), predictor(images).logits
        assert torch.equal(images, before)
        assert torch.equal(first, second)
        assert all(torch.equal(*pair) for pair in kept)


def test_a_panel_writes_nowhere(tmp_path: Path) -> None:
    arrays = [np.zeros((8, 6, 3), np.uint8), np.full((8, 6), IGNORE), np.ones((8, 6), np.int64)]
    for array in arrays:
        array.flags.writeable = False
    panel([PanelRow(*arrays, "a")], LABELS, tmp_path / "panel.png")
    assert (tmp_path / "panel.png").stat().st_size
