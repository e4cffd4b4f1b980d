"""A data set in folders: `{root}/{split}/images` and `{root}/{split}/masks`, matched by name."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from segkit.contracts import DataError, Sample, UserError
from segkit.data.inspection import Facts, Faults, inspect_image, inspect_mask, inspected
from segkit.data.label_map import LabelMap, listed
from segkit.data.reading import SUFFIXES, UnusableError, read_image, read_mask
from segkit.data.source import Source

ReadT = TypeVar("ReadT")


class Pair(NamedTuple):
    image: Path
    mask: Path


@dataclass(kw_only=True, eq=False, repr=False)
class Folder(Source):
    """Image and mask files of the same name, suffix aside, in two folders that may have folders inside.

    Images: PNG, JPEG, TIFF, BMP or WebP of 8 or 16 bits, read as RGB. Masks: PNG, TIFF or BMP of up to 16
    bits with one id a pixel; palette masks count by index.

    Args, besides those of `Source`:
        root: the folder of the data set.
        train_split: name of the folder of the train split; the same for the others.
        class_mapping: raw id in mask files to class id or ignore index; None: they are class ids.
        cache_dir: where to remember which files were sound, so that a second start need not read them all.

    Raises UserError when a folder is missing or has no images.
    """

    root: str
    train_split: str = "train"
    val_split: str = "val"
    test_split: str = "test"
    class_mapping: Mapping[int, int] | None = None
    cache_dir: str | None = None
    pairs: list[Pair] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.in_channels != 3:
            raise UserError(f"dataset.in_channels={self.in_channels}; images are read as RGB, which has 3")
        self.label_map = LabelMap(self.labels, self.class_mapping, self.mask_dtype)
        self.base = Path(self.root).expanduser().absolute()
        name = {"train": self.train_split, "val": self.val_split, "test": self.test_split}[self.split]
        self.folder = self.base / name
        for part in (self.base, self.folder, self.folder / "images", self.folder / "masks"):
            self._require_folder(part)
        self.images = _files_by_stem(self.folder / "images")
        self.masks = _files_by_stem(self.folder / "masks")
        if not self.images:
            raise UserError(
                f"dataset.root={self.root}: no images in {self.folder / 'images'}; "
                f"looked for {', '.join(sorted(SUFFIXES))}, upper case too"
            )
        both = sorted(self.images.keys() & self.masks.keys())
        self.pairs = [Pair(self.images[stem][0], self.masks[stem][0]) for stem in both]

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return self._name(self.pairs[index].image)

    def paths(self, index: int) -> tuple[Path, Path] | None:
        return self.pairs[index]

    def read(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = self._read(read_image, pair.image)
        mask = self._read(lambda path: self.label_map(read_mask(path)), pair.mask)
        if image.shape[:2] != mask.shape:
            raise DataError(f"{pair.mask}: {_size(mask.shape)}, but its image is {_size(image.shape)}")
        return Sample(image, mask, self.name(index))

    def check(self) -> None:
        """Raise DataError listing the files at fault by kind. Reads every file not read before."""
        faults = Faults()
        self._match(faults)
        image_facts, problems = inspected(
            [pair.image for pair in self.pairs], inspect_image, self._cache_file("images")
        )
        mask_facts, mask_problems = inspected(
            [pair.mask for pair in self.pairs], inspect_mask, self._cache_file("masks")
        )
        for path, problem in {**problems, **mask_problems}.items():
            faults.add(problem, self._name(path))
        self._compare(image_facts, mask_facts, faults)
        if faults:
            raise DataError(faults.report(f"dataset.root={self.root}: files of the {self.split} split are at fault"))

    def identity(self) -> Mapping[str, str]:
        digest = hashlib.sha256()
        for path in sorted(path for pair in self.pairs for path in pair):
            digest.update(os.fsencode(path.relative_to(self.base).as_posix()))
            digest.update(f"\0{path.stat().st_size}\0".encode())
        return {
            "root": str(self.base),
            "split": self.split,
            "samples": str(len(self)),
            "digest": digest.hexdigest(),
        }

    def _cache_file(self, part: str) -> Path | None:
        if self.cache_dir is None:
            return None
        key = hashlib.sha256(os.fsencode(self.folder / part)).hexdigest()[:16]
        return Path(self.cache_dir) / f"{part}-{key}.json"

    def _match(self, faults: Faults) -> None:
        """Note images and masks without a partner, and names that leave open which files belong together."""
        for stem, paths in self.images.items():
            if stem not in self.masks:
                faults.add("images without a mask of the same name", self._name(paths[0]))
        for stem, paths in self.masks.items():
            if stem not in self.images:
                faults.add("masks without an image of the same name", self._name(paths[0]))
        for found in (self.images, self.masks):
            for paths in found.values():
                if len(paths) > 1:
                    faults.add("names given to two files", ", ".join(self._name(path) for path in paths))

    def _compare(self, images: dict[Path, Facts], masks: dict[Path, Facts], faults: Faults) -> None:
        """Note pairs of different size, and ids that have no place among the classes."""
        raw_ids: set[int] = set()
        for pair in self.pairs:
            image, mask = images.get(pair.image), masks.get(pair.mask)
            if mask is None:
                continue
            raw_ids.update(mask.ids)
            if image is not None and image.shape != mask.shape:
                sizes = f"{_size(mask.shape)}, its image {_size(image.shape)}"
                faults.add("masks of another size than their image", f"{self._name(pair.mask)}: {sizes}")
            if unknown := self.label_map.unknown(mask.ids):
                hint = "; for 0/255 masks set dataset.class_mapping={0: 0, 255: 1}" * (set(mask.ids) <= {0, 255})
                faults.add(
                    f"masks with ids that are no class; allowed: {self.label_map.allowed}{hint}",
                    f"{self._name(pair.mask)}: {listed(unknown)}",
                )
        if raw_ids == {0, 255} and self.ignore_index == 255 and self.class_mapping is None:
            faults.add(
                "masks that hold only 0 and the ignored 255, so nothing but class 0 could be learned; "
                "if 255 is a class, set dataset.class_mapping={0: 0, 255: 1}",
                f"{self._name(self.folder / 'masks')}: every mask",
            )

    def _read(self, reader: Callable[[Path], ReadT], path: Path) -> ReadT:
        try:
            return reader(path)
        except UnusableError as problem:
            raise DataError(f"{path}: {problem}") from None

    def _require_folder(self, path: Path) -> None:
        if path.is_dir():
            return
        message = f"dataset.root={self.root}: there is no folder {path}"
        if path.parent.is_dir():
            beside = sorted(entry.name + "/" * entry.is_dir() for entry in path.parent.iterdir())
            message += f"; {path.parent} has {', '.join(beside[:10]) or 'nothing in it'}"
            message += f" and {len(beside) - 10} more" if len(beside) > 10 else ""
        if path == self.folder:
            message += f"; dataset.{self.split}_split names this folder"
        raise UserError(message)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.base).as_posix()


def _files_by_stem(folder: Path) -> dict[str, list[Path]]:
    """The image files under `folder` by path without suffix. Links are followed, but never into a circle."""
    files: defaultdict[str, list[Path]] = defaultdict(list)
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(parent)
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        for name in sorted(names):
            path = Path(parent, name)
            # Names that begin with a dot are what file managers leave behind.
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                stem = path.relative_to(folder).with_suffix("").as_posix()
                # macOS writes accented letters as two characters, so one name may be spelled in two ways.
                files[unicodedata.normalize("NFC", stem)].append(path)
    return dict(files)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
