"""What the data and the machine decide of an experiment; its recipe stays as it was composed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from segkit.experiment.mean_and_std import ImageKind, Normalization


@dataclass(frozen=True)
class Kept:
    """What a run that goes on keeps of what was decided when it began.

    Attributes:
        batch_size: None: that of the config.
        normalization: `mean` and `std` with who said so, as far as they are known.
    """

    batch_size: int | None = None
    normalization: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Resolved:
    """What is decided once, when training begins; checkpoints keep it, and whoever reads one decides nothing again.

    Attributes:
        class_weights: the weights that a method in the config stands for, by the key of the method.
        images: what the images of the training split are; None where none could be read.
        normalization: the mean and std that the model's images are normalised with; None for a model without them.
        batch_size: images of a micro-batch.
        split_digest: identity of the lists of samples; None for the data set's own splits.
    """

    class_weights: Mapping[str, list[float]] = field(default_factory=dict[str, list[float]])
    images: ImageKind | None = None
    normalization: Normalization | None = None
    batch_size: int | None = None
    split_digest: str | None = None

    def to_dict(self) -> dict[str, Any]:
        images = None if self.images is None else self.images._asdict()
        return asdict(self) | {"images": images}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Resolved:
        """What `to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
        images, normalization, digest = values["images"], values["normalization"], values["split_digest"]
        return cls(
            {str(key): [float(number) for number in numbers] for key, numbers in values["class_weights"].items()},
            None if images is None else ImageKind(str(images["dtype"]), float(images["low"]), float(images["high"])),
            None
            if normalization is None
            else Normalization(
                tuple(float(number) for number in normalization["mean"]),
                tuple(float(number) for number in normalization["std"]),
                str(normalization["mean_from"]),
                str(normalization["std_from"]),
            ),
            None if values["batch_size"] is None else int(values["batch_size"]),
            None if digest is None else str(digest),
        )
