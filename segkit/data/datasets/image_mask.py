"""What all data sets of image and mask files share: reading, checking, and telling what is wrong with them.

A data set of your own is one class that says which files belong together, and one YAML with its label space.
"""

# No `from __future__ import annotations`: subclasses in other modules inherit the annotations as they are.
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from segkit.contracts import DataError, Sample, UserError
from segkit.data.datasets.source import Source, rgb
from segkit.data.files.bounded import UnusableError, read_text
from segkit.data.files.decode import (
    READING_VERSION,
    SUFFIXES,
    orientation,
    read_color_mask,
    read_image,
    read_layers,
    read_mask,
)
from segkit.data.files.inspection import Facts, Faults, Inspection, facts_of_mask, inspected
from segkit.data.files.label_map import ColorMap, LabelMap, listed
from segkit.data.files.pairing import Keyed, Pairs, listed_keys
from segkit.data.files.second_decoder import disagreement
from segkit.data.statistics.verification import TURNED_RULE, turned_apart

log = logging.getLogger(__name__)
ReadT = TypeVar("ReadT")
TURNED_LOOKS = 8
"""Samples whose EXIF is looked at before training; check_data looks at all."""


@dataclass(kw_only=True, eq=False, repr=False)
class Files(Source):
    """One split of a data set of image and mask files. A subclass gives `find`.

    Images: PNG, JPEG, TIFF, BMP, WebP or NumPy arrays of 8 bits or more. Masks: PNG, TIFF, BMP or arrays with
    one id a pixel, where palette masks count by index; with `mask_format: colors` PNG, TIFF or BMP in the
    classes' colours; with `multilabel` TIFF, arrays or PNG with one channel a class, of 0 and 1. Every file,
    image or mask, is turned upright as its own EXIF orientation says, as viewers show it.

    Args, besides those of `Source`:
        root: the folder of the data set.
        train_split: what the data set calls the train split; the same for the others. None: it has none.
        class_mapping: raw id in mask files to class id or ignore index; None: they are class ids.
        mask_format: whether masks hold ids, or the RGB colours of the classes.
        ignore_colors: colours in masks, beside those of the classes, that mean the ignore index.
        cache_dir: where to remember which files were sound, so that a second start need not read them all.

    Raises UserError when a folder or list is missing or holds no samples.
    """

    INSIDE: ClassVar[Sequence[str]] = ()
    """Where, below a root that was unpacked into, the data set itself may be."""

    root: str
    train_split: str | None = "train"
    val_split: str | None = "val"
    test_split: str | None = "test"
    class_mapping: Mapping[int, int] | None = None
    mask_format: Literal["ids", "colors"] = "ids"
    ignore_colors: Sequence[Sequence[int]] = ()
    cache_dir: str | None = None
    base: Path = field(init=False)
    pairs: Pairs = field(init=False)
    label_map: LabelMap = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.label_map = LabelMap(self.labels, self.class_mapping, self.mask_dtype)
        self.color_map = self._color_map()
        outer = Path(self.root).expanduser().absolute()
        self.base = next((outer / part for part in self.INSIDE if (outer / part).is_dir()), outer)
        self.require(self.base)
        names = self.split_names
        name = names[self.split]
        if name is None:
            others = ", ".join(split for split in names if names[split] is not None)
            raise UserError(
                f"dataset.{self.split}_split=null: {type(self).__name__} has no masks of its {self.split} split that "
                f"are public; allowed: {others}"
            )
        self.pairs = self.find(name)
        self._inspections: tuple[Inspection, Inspection] | None = None

    @property
    def split_names(self) -> dict[str, str | None]:
        """What the data set calls its splits."""
        return {"train": self.train_split, "val": self.val_split, "test": self.test_split}

    def find(self, split: str) -> Pairs:
        """The images and masks of the split that the data set calls `split`, below `base`."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.pairs.images)

    def name(self, index: int) -> str:
        return self.pairs.images.name(index)

    def paths(self, index: int) -> tuple[Path, Path]:
        return self.pairs.images[index], self.pairs.masks[index]

    def read(self, index: int) -> Sample:
        image_path, mask_path = self.paths(index)
        image = self._read(lambda path: read_image(path, self.in_channels), image_path)
        mask = self._read(lambda path: self.label_map(self.raw_mask(path)), mask_path)
        if image.shape[:2] != mask.shape[:2]:
            turned = self._turned(image_path, image.shape, mask.shape)
            raise DataError(f"{mask_path}: {_size(mask.shape)}, but its image is {_size(image.shape)}{turned}")
        return Sample(image, mask, self.name(index))

    def orientations(self, index: int) -> tuple[int, int]:
        image, mask = self.paths(index)
        return orientation(image), orientation(mask)

    def second_opinion(self, index: int, sample: Sample) -> str | None:
        return disagreement(self.paths(index)[0], sample.image)

    def raw_mask(self, path: Path) -> NDArray[Any]:
        """What a mask file holds, before `label_map`: (H, W), or multi-label (H, W, K). Raises UnusableError."""
        if self.multilabel:
            return read_layers(path, self.num_classes)
        if self.color_map is not None:
            return self.color_map(read_color_mask(path))
        return read_mask(path)

    def check(self) -> None:
        """Raise DataError listing the files at fault by kind. Reads every file not read before."""
        faults = self.faults()
        if faults:
            raise DataError(faults.report(f"dataset.root={self.root}: files of the {self.split} split are at fault"))
        for index in range(min(len(self), TURNED_LOOKS)):
            if (turns := self.orientations(index)) != (1, 1):
                height, width = self.read(index).mask.shape[:2]
                if how := turned_apart((height, width), turns):
                    log.warning("%s: %s. %s", self.paths(index)[0], how, TURNED_RULE)
                    break

    def faults(self) -> Faults:
        faults = self.pairs.faults | Faults()
        images, masks = self.inspected_images(), self.inspected_masks()
        self._inspections = images, masks
        for files, inspection in ((self.pairs.images, images), (self.pairs.masks, masks)):
            for index, problem in sorted(inspection.problems.items()):
                faults.add(problem.kind, files.name(index) + (f": {problem.detail}" if problem.detail else ""))
        self._compare_sizes(images, masks, faults)
        self._compare_ids(masks, faults)
        return faults

    def inspected_images(self) -> Inspection:
        def inspect(path: Path) -> Facts:
            height, width = read_image(path, self.in_channels).shape[:2]
            return Facts((height, width))

        return inspected(self.pairs.images, inspect, self._cache_file("images", self.in_channels))

    def inspected_masks(self) -> Inspection:
        def inspect(path: Path) -> Facts:
            return facts_of_mask(self.raw_mask(path))

        reading = (self.multilabel and self.num_classes, self.mask_format, self.colors, self.ignore_colors)
        return inspected(self.pairs.masks, inspect, self._cache_file("masks", *reading))

    def identity(self) -> Mapping[str, str]:
        # To ask for the sizes of 200,000 files again would take half a second.
        image_status = self.pairs.images.status() if self._inspections is None else self._inspections[0].status
        masks = self.inspected_masks() if self._inspections is None else self._inspections[1]
        digest = hashlib.sha256()
        for files, status in ((self.pairs.images, image_status), (self.pairs.masks, masks.status)):
            digest.update(files.text.tobytes() + files.starts.tobytes() + status[:, 0].tobytes())
        digest.update(masks.checksums.tobytes())
        return {"root": str(self.base), "split": self.split, "samples": str(len(self)), "digest": digest.hexdigest()}

    def require(self, *folders: Path) -> Path:
        """The first of `folders` that exists. Raises UserError: where one was looked for, and what is there."""
        found = next((folder for folder in folders if folder.is_dir()), None)
        if found is not None:
            return found
        missing = folders[0]
        while missing != self.base and not missing.parent.is_dir():
            missing = missing.parent
        message = f"dataset.root={self.root}: there is no folder {missing}"
        message += "".join(f", nor {folder}" for folder in folders[1:])
        raise UserError(message + self.beside(missing))

    def require_file(self, path: Path) -> Path:
        """`path`, which is a file. Raises UserError: where it was looked for, and what is there."""
        self.require(path.parent)
        if not path.is_file():
            raise UserError(f"dataset.root={self.root}: there is no file {path}{self.beside(path)}")
        return path

    def beside(self, path: Path) -> str:
        """What a message adds about the neighbours of a file or folder that is missing."""
        try:
            names = sorted(entry.name + "/" * entry.is_dir() for entry in path.parent.iterdir())
        except OSError:
            return ""
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        text = f"; {path.parent} has {', '.join(names[:10]) or 'nothing in it'}{more}"
        named = path.stem == Path(self.split_names[self.split] or "").stem
        return text + f"; dataset.{self.split}_split names it" * named

    def keyed(
        self, *folders: str, ending: str = "", suffixes: frozenset[str] = SUFFIXES, without: str | None = None
    ) -> Keyed:
        """The files in the first of `folders`, relative to the base, that exists. Raises UserError for none."""
        folder = self.require(*(self.base / folder for folder in folders))
        if folder.is_relative_to(self.base):
            folder = folder.relative_to(self.base)
        return Keyed.below(self.base, folder.as_posix(), suffixes, ending, without)

    def images(self, *folders: str, ending: str = "") -> Keyed:
        """`keyed`, but for a UserError where no image is found."""
        found = self.keyed(*folders, ending=ending)
        if not found.names:
            folder = self.require(*(self.base / folder for folder in folders))
            named = f" with names that end with {ending}" if ending else ""
            raise UserError(
                f"dataset.root={self.root}: no images in {folder}{named}; "
                f"looked for {', '.join(sorted(SUFFIXES))}, upper case too"
            )
        return found

    def listed(self, name: str, images: Keyed, *folders: str) -> list[str]:
        """The keys of the names, one a line, in the list `name` below the base; see `listed_keys`.

        Raises UserError where there is no such list or nothing in it, DataError for a name that leads out.

        Args:
            images: among which the names are looked up.
            folders: that a line may have before the name, relative to the base.
        """
        path = self.require_file(self.base / name)
        lines = self._read(read_text, path).split("\n")
        try:
            keys = listed_keys(lines, images.names, self.base, folders)
        except ValueError as error:
            raise DataError(
                f"{path}: {str(error)!r} leads out of the data set; allowed: names below its folders"
            ) from None
        if not keys:
            raise UserError(f"dataset.root={self.root}: there is no name in {path}")
        return keys

    def _color_map(self) -> ColorMap | None:
        if self.mask_format == "ids":
            if self.ignore_colors:
                raise UserError("dataset.ignore_colors is for dataset.mask_format=colors")
            return None
        for key, is_set in (("class_mapping", self.class_mapping is not None), ("multilabel", self.multilabel)):
            if is_set:
                raise UserError(f"dataset.{key} is for masks of ids; allowed with dataset.mask_format=colors: null")
        return ColorMap(self.labels, [rgb(color, "dataset.ignore_colors") for color in self.ignore_colors])

    def _cache_file(self, part: str, *reading: object) -> Path | None:
        if self.cache_dir is None:
            return None
        key = hashlib.sha256(
            repr((READING_VERSION, str(self.base), self.split, type(self).__name__, reading)).encode()
        ).hexdigest()
        return Path(self.cache_dir) / f"{part}-{key[:16]}.npz"

    def _compare_sizes(self, images: Inspection, masks: Inspection, faults: Faults) -> None:
        usable = (images.sizes[:, 0] > 0) & (masks.sizes[:, 0] > 0)
        for index in np.flatnonzero(usable & (images.sizes != masks.sizes).any(axis=1)).tolist():
            image, mask = tuple(images.sizes[index].tolist()), tuple(masks.sizes[index].tolist())
            turned = self._turned(self.pairs.images[index], image, mask)
            sizes = f"{_size(mask)}, its image {_size(image)}{turned}"
            faults.add("masks of another size than their image", f"{self.pairs.masks.name(index)}: {sizes}")

    def _compare_ids(self, masks: Inspection, faults: Faults) -> None:
        unknown = ~self.label_map.is_known(masks.ids)
        for index in np.unique(np.searchsorted(masks.starts, np.flatnonzero(unknown), side="right") - 1).tolist():
            own = slice(masks.starts[index], masks.starts[index + 1])
            ids = masks.ids[own]
            hint = "; for 0/255 masks set dataset.class_mapping={0: 0, 255: 1}" * (set(ids.tolist()) <= {0, 255})
            faults.add(
                f"masks with ids that are no class; allowed: {self.label_map.allowed}{hint}",
                f"{self.pairs.masks.name(index)}: {listed(ids[unknown[own]].tolist())}",
            )
        if np.unique(masks.ids).tolist() == [0, 255] and self.ignore_index == 255 and self.class_mapping is None:
            faults.add(
                "masks that hold only 0 and the ignored 255, so nothing but class 0 could be learned; "
                "if 255 is a class, set dataset.class_mapping={0: 0, 255: 1}",
                f"{Path(self.pairs.masks.name(0)).parent.as_posix()}: every mask",
            )

    def _turned(self, image_path: Path, image: Sequence[int], mask: Sequence[int]) -> str:
        """The reason why sizes differ, where a mask was drawn on an image that was not turned upright."""
        if tuple(mask[:2]) != tuple(image[1::-1]) or orientation(image_path) == 1:
            return ""
        return " once turned as its EXIF orientation says; turn the mask too, or store the image without EXIF"

    def _read(self, reader: Callable[[Path], ReadT], path: Path) -> ReadT:
        try:
            return reader(path)
        except UnusableError as problem:
            raise DataError(f"{path}: {problem}") from None


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]}"
