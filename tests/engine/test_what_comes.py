"""The contracts carry what is to come: two processes, and another task, go through the loop as it is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.optim import Optimizer

from segkit.contracts import Batch, Counts, LabelSpace, LossTerms, Prediction, Strategy, Targets, Task, TrainingData
from segkit.engine.strategy.single_device import SingleDevice
from segkit.experiment.assembly import Experiment
from segkit.experiment.training import make_trainer
from segkit.run.run_folder import RunFolder
from tests.composed import recipe
from tests.conftest import losses, records
from tests.engine.in_process import finish

SETTINGS = (
    "dataset.image_size=32 dataset.crop_size=32 dataset.num_train=24 dataset.num_val=4 tracker=none loss=ce "
    "transform=none optimizer=sgd optimizer.lr=0.1 trainer.batch_size=8 trainer.max_epochs=2 trainer.device=cpu "
    "trainer.precision=fp32 trainer.progress=off trainer.num_workers=0 trainer.evaluate.panel_samples=0"
).split()


class SeveralProcesses(SingleDevice):
    """Processes that talk over gloo, each with its share of every batch; in float64."""

    def __init__(self) -> None:
        super().__init__("cpu", "fp32")
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.is_main = self.rank == 0

    def prepare(self, model: nn.Module, *, channels_last: bool) -> nn.Module:
        return super().prepare(model.double(), channels_last=channels_last)

    def step(self, optimizer: Optimizer, clip_norm: float | None) -> Tensor | None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                dist.all_reduce(parameter.grad)
        return super().step(optimizer, clip_norm)

    def reduce(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        return bool(self.reduce(torch.tensor(int(flag))) > 0)


@dataclasses.dataclass
class Shares:
    """Of every batch the samples of one process. Of every third image most is ignored, so that shares differ."""

    whole: TrainingData
    rank: int
    world_size: int
    samples_skipped: int = 0

    @property
    def steps_per_epoch(self) -> int:
        return self.whole.steps_per_epoch

    def batches(self, start_step: int) -> Iterator[list[Batch]]:
        for (batch,) in self.whole.batches(start_step):
            batch.mask[::3, :24] = 255
            yield [batch[self.rank :: self.world_size]]

    def close(self) -> None:
        self.whole.close()


class Tiny(nn.Module):
    """Two convolutions; what batch norm would do in several processes is another matter."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, classes, 3, padding=1)
        )

    def forward(self, images: Tensor) -> Prediction:
        return Prediction(self.layers(images.to(next(self.parameters()).dtype) / 255))


class Shared(Experiment):
    @property
    def strategy(self) -> Strategy:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.__dict__.setdefault("_strategy", SeveralProcesses())

    def model(self) -> nn.Module:
        return self.strategy.prepare(Tiny(self.labels.num_classes), channels_last=False)

    def train_loader(self) -> Any:
        return Shares(super().train_loader(), self.strategy.rank, self.strategy.world_size)


def train_a_share(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    trainer = make_trainer(Shared(recipe(*SETTINGS)), RunFolder(Path(folder) / f"rank{rank}"))
    assert trainer.fit(until=4) == "stopped"
    assert trainer.state.step == 4
    assert trainer.fit() == "completed"
    finish(trainer)
    dist.destroy_process_group()


def test_two_processes_give_the_curve_of_one(tmp_path: Path):
    curves: dict[int, list[float]] = {}
    for world_size in (1, 2):
        folder = tmp_path / str(world_size)
        folder.mkdir()
        spawn(train_a_share, (world_size, str(folder)), nprocs=world_size)
        curves[world_size] = list(losses(folder / "rank0").values())
        if world_size == 2:
            assert list(losses(folder / "rank1").values()) == curves[2], "each process logs what all have learnt"
            assert records(folder / "rank0", "train")[-1]["images_seen"] == 48
    assert len(curves[1]) == 6
    assert curves[1][-1] < curves[1][0]
    assert curves[2] == pytest.approx(curves[1], rel=1e-6)


class Presence:
    """A task of whole images: which classes are somewhere in them."""

    def __init__(self, labels: LabelSpace) -> None:
        self.labels = labels

    def decide(self, prediction: Prediction, size: Sequence[int]) -> Tensor:
        return (prediction.logits.amax((2, 3)) > 0).to(torch.uint8)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def counts(self) -> Counts:
        return Agreement()

    def count(self, counts: Counts, decided: Tensor, batch: Batch) -> None:
        counts.update(decided, present(batch.targets, self.labels.num_classes))

    def num_targets(self, batch: Batch) -> Tensor:
        return torch.tensor(len(batch))

    def scores(self, counts: Tensor) -> Any:
        return Share(float(counts[0] / counts[1]))

    def score_names(self) -> list[str]:
        return ["right"]

    def example(self, batch: int, size: Sequence[int]) -> Tensor:
        return torch.arange(batch * size[0] * size[1]).view(batch, *size) % self.labels.num_classes

    def written(self, decided: Tensor) -> Tensor:
        return decided


@dataclasses.dataclass
class Share:
    right: float

    def named(self, class_names: Sequence[str]) -> dict[str, float]:
        return {"right": self.right}


class Agreement:
    """How many of the decisions are right, and how many there are."""

    def __init__(self) -> None:
        self.numbers = torch.zeros(2, dtype=torch.int64)

    def update(self, predicted: Tensor, mask: Tensor) -> None:
        self.numbers += torch.tensor([int((predicted == mask).sum()), mask.numel()])

    def compute(self) -> Tensor:
        return self.numbers

    def to(self, device: torch.device) -> Agreement:
        return self


def present(targets: Targets, classes: int) -> Tensor:
    return torch.stack([(targets.mask == number).any(2).any(1) for number in range(classes)], dim=1).to(torch.uint8)


class PresenceLoss(nn.Module):
    def forward(self, prediction: Prediction, batch: Batch) -> LossTerms:
        truth = present(batch.targets, prediction.logits.shape[1]).float()
        total = F.binary_cross_entropy_with_logits(prediction.logits.float().amax((2, 3)), truth)
        return LossTerms(total, {"presence": total.detach()})


class OfWholeImages(Experiment):
    @property
    def task(self) -> Task:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Presence(self.labels)

    def model(self) -> nn.Module:
        return self.strategy.prepare(Tiny(self.labels.num_classes), channels_last=False)

    def loss(self) -> nn.Module:
        return PresenceLoss()


def test_another_task_goes_through_loop_evaluation_and_log(tmp_path: Path):
    composed = recipe(*SETTINGS, "trainer.max_epochs=6", "trainer.checkpoint.monitor=right", "trainer.accumulate=2")
    trainer = make_trainer(OfWholeImages(composed), RunFolder(tmp_path))
    assert trainer.fit() == "completed"
    finish(trainer)
    scores = [record["right"] for record in records(tmp_path, "eval")]
    assert scores[-1] >= 0.7
    assert trainer.state.best_score == max(scores)
    curve = list(losses(tmp_path).values())
    assert curve[-1] < curve[0]
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["loss/presence"] == curve[0]
