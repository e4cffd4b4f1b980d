"""What the parts of segkit hand to each other. Imports nothing else of segkit but its exceptions.

Shape suffixes: B batch, C classes or channels, H W full-size pixels, h w pixels at a head's own stride.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from segkit.errors import DataError, UserError

__all__ = [
    "Batch",
    "ClassWeightMethod",
    "Counts",
    "DataError",
    "EvaluationData",
    "LabelSpace",
    "Loss",
    "LossTerms",
    "Metric",
    "NamedScores",
    "Prediction",
    "Predictor",
    "ProgressAware",
    "QueryPrediction",
    "ReadingTransform",
    "Recomputing",
    "RunInfo",
    "Sample",
    "SampleSource",
    "Schedule",
    "Strategy",
    "Targets",
    "Task",
    "Tracker",
    "TrainingData",
    "Transform",
    "UserError",
    "integer_mask",
]


ClassWeightMethod = Literal["inverse", "inverse_sqrt", "inverse_log", "effective", "enet", "median"]
"""Ways to weigh classes by their share of the training pixels; numbers take their place before a loss is built."""


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a data set: what the ids 0..num_classes-1 mean, and which id is left out.

    Attributes:
        names: one name a class, in the order of the ids.
        colors: one RGB colour a class, each channel in 0..255.
        ignore_index: the mask id that takes no part in losses and metrics; never a class id.
        multilabel: whether a pixel may belong to several classes, or to none. Masks then have one channel a
            class, which holds 0, 1 or `ignore_index`; a single class is allowed, and is binary segmentation.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    ignore_index: int = 255
    multilabel: bool = False

    def __post_init__(self) -> None:
        needed = 1 if self.multilabel else 2
        if len(self.names) < needed:
            raise UserError(f"dataset.class_names has {len(self.names)} entries; segmentation needs at least {needed}")
        if len(set(self.names)) != len(self.names):
            repeated = sorted({name for name in self.names if self.names.count(name) > 1})
            raise UserError(f"dataset.class_names repeats {', '.join(repeated)}; every class needs its own name")
        if len(self.colors) != len(self.names):
            raise UserError(f"dataset.colors has {len(self.colors)} entries for {len(self.names)} classes")
        if self.multilabel and not 2 <= self.ignore_index <= 255:
            raise UserError(f"dataset.ignore_index={self.ignore_index}; multi-label masks allow 2..255")
        if not self.multilabel and 0 <= self.ignore_index < len(self.names):
            raise UserError(
                f"dataset.ignore_index={self.ignore_index} is the id of class {self.names[self.ignore_index]!r}; "
                f"allowed: a negative id or one of at least {len(self.names)}"
            )

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def parameters(self) -> dict[str, Any]:
        """What constructors of models, losses, transforms and metrics are given of it, by the names they have there."""
        return {"num_classes": self.num_classes, "ignore_index": self.ignore_index, "multilabel": self.multilabel}

    @property
    def mask_dtype(self) -> type[np.uint8] | type[np.int32]:
        """The type of masks: uint8 if it holds all ids, else int32."""
        fits = self.num_classes <= 256 and 0 <= self.ignore_index <= 255
        return np.uint8 if fits else np.int32


@dataclass(frozen=True)
class Sample:
    """One decoded image with its mask, before or after augmentation.

    Attributes:
        image: (H, W, C) uint8 RGB as decoded, or float32 for inputs that are not 8-bit.
        mask: (H, W) uint8, or int32 where ids exceed 255; class ids and the ignore id only. Multi-label:
            (H, W, K) uint8, one channel a class, of 0, 1 and the ignore id.
        id: what a person calls the sample: a path relative to the data set's root, or a generated name.
    """

    image: NDArray[Any]
    mask: NDArray[Any]
    id: str


@runtime_checkable
class SampleSource(Protocol):
    """One split of a data set: a fixed sequence of samples, each read on its own and the same every time."""

    labels: LabelSpace
    on_error: Literal["raise", "skip"]

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The id that sample number `index` has, without reading it."""
        ...

    def read(self, index: int) -> Sample:
        """Sample number `index`. Raises DataError naming the file when it cannot be used."""
        ...

    def check(self) -> None:
        """Raise DataError listing every offending file (up to a limit). Called once before the first step."""
        ...

    def identity(self) -> Mapping[str, str]:
        """What names this data for the record: root, split, number of samples, and a digest of the file list."""
        ...


class Transform(Protocol):
    """Augmentation as a pure function of the sample and a seed."""

    def __call__(self, sample: Sample, seed: int) -> Sample: ...


@runtime_checkable
class ReadingTransform(Protocol):
    """Augmentation that reads for itself: only as much of a sample as it needs, or other samples too."""

    def read(self, source: SampleSource, index: int, seed: int) -> Sample:
        """Sample number `index` augmented: a function of the source, the index and the seed, and of nothing else."""
        ...


@dataclass(frozen=True)
class Targets:
    """What is to be predicted of the samples of a batch.

    Attributes:
        mask: (B, H, W) uint8, or int32 where ids exceed 255; multi-label (B, K, H, W) uint8.
    """

    mask: Tensor

    def each(self, function: Callable[[Tensor], Tensor]) -> Targets:
        """These with `function` applied to each of their tensors."""
        return Targets(function(self.mask))

    @classmethod
    def joined(cls, parts: Sequence[Targets]) -> Targets:
        return cls(torch.cat([part.mask for part in parts]))


@dataclass(frozen=True)
class Batch:
    """Samples of one size, as small integers: a quarter to a fifth of the bytes of floats and int64 ids.

    Attributes:
        images: (B, C, H, W) uint8 RGB as decoded (float32 for inputs that are not 8-bit).
        targets: what is to be predicted of them.
        ids: B sample ids.
    """

    images: Tensor
    targets: Targets
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def mask(self) -> Tensor:
        return self.targets.mask

    def each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The same samples with `function` applied to each tensor, whose first dimension stays."""
        return Batch(function(self.images), self.targets.each(function), self.ids)

    def __getitem__(self, part: slice) -> Batch:
        """Some of the samples, in memory that is shared with the whole."""
        return Batch(self.images[part], self.targets.each(lambda tensor: tensor[part]), self.ids[part])

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        return self.each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        return self.each(Tensor.pin_memory)

    def clone(self) -> Batch:
        return self.each(Tensor.clone)

    @classmethod
    def joined(cls, parts: Sequence[Batch]) -> Batch:
        """Samples of several batches of one size, in a row."""
        return cls(
            torch.cat([part.images for part in parts]),
            Targets.joined([part.targets for part in parts]),
            tuple(id for part in parts for id in part.ids),
        )


def integer_mask(mask: Tensor, *ids: int) -> Tensor:
    """`mask` in a type that PyTorch computes with on every device and that can hold `ids` too: itself, or as int64.

    A number that the type cannot hold is compared by its lowest bits: in uint8, 255 == -1 and 44 == 300.

    Raises UserError for masks that are not of integers.
    """
    if mask.is_floating_point() or mask.is_complex():
        found = str(mask.dtype).removeprefix("torch.")
        raise UserError(f"masks are {found}; allowed: integers of any type, as in mask.astype(numpy.int64)")
    if mask.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        bounds = torch.iinfo(mask.dtype)
        if all(bounds.min <= id <= bounds.max for id in ids):
            return mask
    return mask.long()


@dataclass(frozen=True)
class QueryPrediction:
    """A set of Q segments, each with a class and a mask, that a model finds in every image of a batch.

    Attributes:
        class_logits: (B, Q, C + 1), the last for "no segment".
        mask_logits: (B, Q, h, w), of a sigmoid.
    """

    class_logits: Tensor
    mask_logits: Tensor


@dataclass
class Prediction:
    """What a model, or a predictor wrapped around one, says of a batch of images.

    Attributes:
        logits: (B, C, h, w) at the head's own stride; predictors that merge views may give full size.
        auxiliary: the same from each auxiliary head, by name; empty in evaluation mode.
        queries: what a model of queries bases its logits on, last; before it, in training, what its earlier
            blocks say. Empty for other models, and from predictors that merge views.
    """

    logits: Tensor
    # torch.compile cannot trace dict[str, Tensor] as a factory.
    auxiliary: dict[str, Tensor] = field(default_factory=dict)  # pyright: ignore[reportUnknownVariableType]
    queries: Sequence[QueryPrediction] = ()


@dataclass
class LossTerms:
    """A loss: `total` (scalar, with gradient) and its named detached `parts`, which are what the log shows."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


class Loss(Protocol):
    """Logits at the head's stride with the full-size targets, to a LossTerms. Ignored pixels count for nothing."""

    def __call__(self, prediction: Prediction, batch: Batch) -> LossTerms: ...


class Predictor(Protocol):
    """Images (B, C, H, W) as in `Batch` to a Prediction. A model is one; wrappers take another and are one."""

    def __call__(self, images: Tensor) -> Prediction: ...


@runtime_checkable
class Recomputing(Protocol):
    """A module that, with gradient checkpointing, runs parts of its forward pass again in the backward pass.

    Batch norms in these parts count a batch again, which is undone: the buffers of the module are put back after the
    backward pass to what the forward pass had left.
    """

    gradient_checkpointing: bool


@runtime_checkable
class ProgressAware(Protocol):
    """A module, of the model or the loss, that changes with the progress of the run.

    It is a function of the progress alone, which a resumed run knows: nothing of it is saved.
    """

    def set_progress(self, done: float) -> None:
        """Before every optimizer step: the share of the run's steps that is done, from 0 up to, but not, 1."""
        ...


class Strategy(Protocol):
    """Precision and placement: the one seam between the loop and the hardware.

    A strategy runs the loop in one process or in several, of which each sees its share of every batch. Whatever is
    decided is decided on values that all of them have: `reduce`, `any`.

    Attributes:
        device: where this process computes.
        precision: fp32, bf16 or fp16.
        rank: the number of this process, from 0.
        world_size: how many processes there are.
        scales_gradients: whether steps whose gradients overflow are left out, of the strategy's own accord.
    """

    device: torch.device
    precision: Literal["fp32", "bf16", "fp16"]
    rank: int
    world_size: int

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run folder."""
        ...

    @property
    def scales_gradients(self) -> bool: ...

    def prepare(self, model: nn.Module, *, channels_last: bool) -> nn.Module:
        """The model on its device, wrapped if need be; to be called before an optimizer is made of it."""
        ...

    def autocast(self) -> AbstractContextManager[Any]: ...

    def accumulating(self, model: nn.Module, *, is_last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a micro-batch: gradients need not be summed over processes before the last."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, this process's part of the step's loss, to the sum over all processes."""
        ...

    def all_finite(self, loss: Tensor, optimizer: Optimizer) -> Tensor:
        """Whether `loss` and the gradients at hand are finite, a bool scalar."""
        ...

    def step(self, optimizer: Optimizer, clip_norm: float | None) -> Tensor | None:
        """One optimizer step on the gradients at hand, which are cleared. The gradient norm if it was clipped."""
        ...

    def reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same in each."""
        ...

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process."""
        ...

    def full_state(self, model: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
        """The state dicts of model and optimizer as one process without a wrapper would have them."""
        ...

    def load_full_state(
        self, model: nn.Module, optimizer: Optimizer, model_state: dict[str, Any], optimizer_state: dict[str, Any]
    ) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Schedule(Protocol):
    """A learning-rate schedule stepped once after every optimizer step."""

    def step(self) -> None: ...

    def evaluated(self, score: float) -> None:
        """The monitored score of an evaluation after the latest step; NaN where it is undefined."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...

    def continue_at(self, step: int, saved: dict[str, Any]) -> None:
        """Stand where this schedule, as it was built, is after `step` steps.

        Of the state `saved` by one with other numbers only what cannot be had again counts, such as scores gone by.
        """
        ...


class Counts(Protocol):
    """Integer counts over an evaluation, from which scores are computed; the same for any order and batch size."""

    def update(self, predicted: Tensor, mask: Tensor) -> None:
        """Count labels as `Task.decide` gives them against a mask of the same shape."""
        ...

    def compute(self) -> Tensor:
        """The counts, int64. Raises DataError for masks that hold other values than they may."""
        ...

    def to(self, device: torch.device) -> Any: ...


class NamedScores(Protocol):
    """Scores of a task, NaN where undefined."""

    @property
    def iou(self) -> Sequence[float]:
        """Of each class, as are the others."""
        ...

    @property
    def dice(self) -> Sequence[float]: ...
    @property
    def accuracy(self) -> Sequence[float]: ...
    @property
    def pixels(self) -> Sequence[int]: ...

    def named(self, class_names: Sequence[str]) -> dict[str, float]:
        """All of them as flat names: `miou`, ..., and `iou/road` for the classes."""
        ...


class Task(Protocol):
    """What depends on the kind of target; nothing else in the code asks which kind it is.

    Attributes:
        labels: the classes.
    """

    labels: LabelSpace

    def decide(self, prediction: Prediction, size: Sequence[int]) -> Tensor:
        """Labels at `size` (H, W), as integers in the shape of a mask; of resized logits, which never are in memory."""
        ...

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of logits (B, C, H, W), in the same shape."""
        ...

    def counts(self) -> Counts:
        """What counts decided labels against targets, empty."""
        ...

    def count(self, counts: Counts, decided: Tensor, batch: Batch) -> None:
        """Count the decided labels of a batch."""
        ...

    def num_targets(self, batch: Batch) -> Tensor:
        """How much of a batch counts for the loss, an int64 scalar: its valid pixels. Nothing waits for the device."""
        ...

    def scores(self, counts: Tensor) -> NamedScores: ...

    def score_names(self) -> list[str]:
        """The names of the scores that every evaluation gives."""
        ...

    def example(self, batch: int, size: Sequence[int]) -> Tensor:
        """A mask int64 of `batch` images of `size` (H, W), to try with what a user has written."""
        ...

    def written(self, decided: Tensor) -> Tensor:
        """The decided labels of one image as predictions are given back and written, (H, W) or (H, W, C)."""
        ...


class Metric(Protocol):
    """Accumulates over an evaluation and gives named scores; built once, reset before each evaluation."""

    def reset(self) -> None: ...

    def update(self, prediction: Prediction, decided: Tensor, batch: Batch) -> None:
        """Take a prediction, the labels (B, [C,] H, W) that the task has decided on, and the batch they are of."""
        ...

    def compute(self) -> dict[str, float]:
        """Scores by name; NaN where undefined."""
        ...


class TrainingData(Protocol):
    """Micro-batches of training data as a function of position, so that a resume starts anywhere.

    Attributes:
        samples_skipped: samples given so far in whose place another stands, because a file could not be used.
    """

    samples_skipped: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the data."""
        ...

    def batches(self, start_step: int) -> Iterator[list[Batch]]:
        """The micro-batches of each optimizer step from `start_step` on, across epochs, without end."""
        ...

    def close(self) -> None:
        """End the workers at once."""
        ...


class EvaluationData(Protocol):
    """One pass over a split at the samples' own sizes, in any order that is the same every time.

    Attributes:
        samples_skipped: samples left out of the last pass because a file could not be used.
    """

    samples_skipped: int

    @property
    def split(self) -> str: ...

    def name(self, index: int) -> str:
        """The id that sample number `index` of the split has, without reading it."""
        ...

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def close(self) -> None:
        """End the workers at once."""
        ...


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told of a run at its start.

    Attributes:
        name: a short name a person recognises.
        params: the composed config, flattened to dotted keys.
        tags: group choices, git state, data identity, versions.
        continues: the tracker's id of the run that is resumed here, or None.
        started: when, in unix seconds; None: now, or when the part before a resume was.
    """

    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    continues: str | None = None
    started: float | None = None


class Tracker(Protocol):
    """A recorder beside the run folder, which stays the whole truth: what a tracker is told stands there already.

    It is called in the training process, so it must not hold it up: one that delivers to elsewhere does so from another
    process that follows the folder. What it raises is told to the user and does not end the run. A class whose packages
    take long to import may have a static method `start_early()`, which is called before PyTorch is imported.
    """

    def start(self, info: RunInfo) -> None: ...

    def log(self, row: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl, as it is written there."""
        ...

    def artifact(self, path: Path, target: str) -> None:
        """A file of the run folder that is to be kept, in the folder `target` of the record ("": at its top)."""
        ...

    def tag(self, tags: Mapping[str, str]) -> None:
        """Add to the tags given at the start, or replace them."""
        ...

    def finish(self, status: str) -> None:
        """Deliver what is left, within a bounded time.

        `status`: completed, stopped (before its end, as it was told to), pruned, failed, interrupted or terminated.
        """
        ...

    @property
    def run_id(self) -> str | None:
        """What the tracker finds the run by, handed to it as `RunInfo.continues` when the run goes on elsewhere."""
        ...
