"""Which of the files below a folder are images and masks, and which belong together, by their names alone."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from segkit.contracts import UserError
from segkit.data.discovery.path_words import (
    ASIDE_ENDING,
    Role,
    SplitWord,
    meaning_of,
    names_a_mask,
    without_beginning,
    without_ending,
)
from segkit.data.files.pairing import same_spelling

LOSSY = frozenset({".jpg", ".jpeg", ".webp"})
"""Files that cannot be masks, as their compression changes ids."""


class Pair(NamedTuple):
    """Paths of an image and its mask, relative to the folder, and the split that they were found to be of."""

    image: str
    mask: str
    split: SplitWord | None = None


@dataclass(frozen=True)
class Choice:
    """What a person says of the files, each None where the names are to tell it.

    Attributes:
        image_folder, mask_folder: relative to the data set's folder.
        image_suffix, mask_suffix: at the end of the names of images or masks, before .png: _gt.
    """

    image_folder: str | None = None
    mask_folder: str | None = None
    image_suffix: str | None = None
    mask_suffix: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether the names alone are to tell."""
        return self.image_folder is self.mask_folder is self.image_suffix is self.mask_suffix is None


@dataclass(frozen=True)
class File:
    """A file with what its folders say of it, and where it is apart from these.

    Attributes:
        rest: its folders that say neither split nor role.
        stem: its name without what the file type adds.
    """

    name: str
    split: SplitWord | None
    role: Role | None
    rest: tuple[str, ...]
    stem: str
    is_aside: bool = False


@dataclass
class Matched:
    """Pairs, and what became of the other files.

    Attributes:
        unpaired: files of a role without a partner.
        further: masks and the like of images that have another, whose name is closer to the image's.
        doubled: groups of files of which one name fits several, so that it is open which belong together.
        aside: in folders that say that they hold no images or masks of classes.
        loose: those of the pairs that lie in folders of other names, or differ in capitals.
        are_by_file_type: whether images and masks lie side by side and only differ in their suffix.
        files: the images.
    """

    pairs: list[Pair] = field(default_factory=list[Pair])
    unpaired: dict[Role, list[str]] = field(default_factory=lambda: {"image": [], "mask": []})
    further: list[str] = field(default_factory=list[str])
    doubled: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    aside: list[str] = field(default_factory=list[str])
    loose: list[Pair] = field(default_factory=list[Pair])
    are_by_file_type: bool = False
    files: list[File] = field(default_factory=list[File])


def match(names: Sequence[str], choice: Choice) -> Matched:
    """The images and masks among the files `names`, paired. Raises UserError for a folder that holds none."""
    files = _with_roles(names, choice)
    images = [file for file in files if file.role == "image"]
    masks = [file for file in files if file.role == "mask"]
    found = Matched(files=images)
    # Masks in colours or of objects are what a data set may have alone; thumbnails are never its images.
    found.aside = [image.name for image in images if image.is_aside]
    images = [image for image in images if not image.is_aside]
    if any(not mask.is_aside for mask in masks):
        found.aside += [mask.name for mask in masks if mask.is_aside]
        masks = [mask for mask in masks if not mask.is_aside]
    if not masks and choice.is_open:
        images, masks = _by_file_type(images)
        found.are_by_file_type = bool(masks)
    _pair(images, masks, choice, found)
    found.pairs.sort()
    return found


def _pair(images: list[File], masks: list[File], choice: Choice, found: Matched) -> None:
    """Names that are alike first, then alike without endings, then without their folders or capitals."""

    def stem(file: File, cut: Callable[[str, Role], str] = without_ending) -> str:
        suffix = choice.image_suffix if file.role == "image" else choice.mask_suffix
        assert file.role is not None
        return same_spelling(cut(file.stem, file.role) if suffix is None else file.stem.removesuffix(suffix))

    firm: list[Callable[[File], object]] = [
        lambda file: (file.split, file.rest, same_spelling(file.stem)),
        lambda file: (file.split, file.rest, stem(file)),
        lambda file: (file.split, file.rest, stem(file, without_beginning)),
    ]
    loose: list[Callable[[File], object]] = [
        lambda file: (file.split, same_spelling(file.stem)),
        lambda file: (file.split, stem(file)),
        lambda file: (file.split, stem(file).casefold()),
        lambda file: (file.split, stem(file, without_beginning).casefold()),
        lambda file: stem(file).casefold(),
        lambda file: stem(file, without_beginning).casefold(),
    ]
    for key_of in firm:
        images, masks = _pair_by(key_of, images, masks, found, is_firm=True)
    number = len(found.pairs)
    for key_of in loose:
        images, masks = _pair_by(key_of, images, masks, found, is_firm=False)
    found.loose = found.pairs[number:]
    paired = {pair.image for pair in found.pairs}
    taken = {(file.split, file.rest, stem(file)) for file in found.files if file.name in paired}
    for file in (*images, *masks):
        if (file.split, file.rest, ASIDE_ENDING.sub("", stem(file))) in taken:
            found.further.append(file.name)
        else:
            found.unpaired["image" if file.role == "image" else "mask"].append(file.name)


def _pair_by(
    key_of: Callable[[File], object], images: list[File], masks: list[File], found: Matched, *, is_firm: bool
) -> tuple[list[File], list[File]]:
    """The images and masks that are left once those whose key no others have are paired.

    With a firm key, those whose key others have too are `doubled`, and take no further part.
    """
    groups: defaultdict[object, tuple[list[File], list[File]]] = defaultdict(lambda: ([], []))
    for place, files in enumerate((images, masks)):
        for file in files:
            groups[key_of(file)][place].append(file)
    gone: set[str] = set()
    for own_images, own_masks in groups.values():
        if not own_images or not own_masks:
            continue
        if len(own_images) == len(own_masks) == 1:
            image, mask = own_images[0], own_masks[0]
            if image.split is None or mask.split is None or image.split == mask.split:
                found.pairs.append(Pair(image.name, mask.name, image.split or mask.split))
                gone |= {image.name, mask.name}
        elif is_firm:
            found.doubled.append(tuple(file.name for file in (*own_images, *own_masks)))
            gone.update(found.doubled[-1])
    return [file for file in images if file.name not in gone], [file for file in masks if file.name not in gone]


def _with_roles(names: Sequence[str], choice: Choice) -> list[File]:
    """The files with their roles: as chosen, else by the words in their folders, else by the endings of their names."""
    if choice.image_folder is not None or choice.mask_folder is not None:
        return _in_chosen_folders(names, choice)
    common = posixpath.commonpath([posixpath.dirname(name) for name in names]) if names else ""
    files = [_read(name, common) for name in names]
    masks_have_folders = any(file.role == "mask" for file in files) and any(file.role != "mask" for file in files)
    result: list[File] = []
    for file in files:
        role: Role = file.role if file.role is not None and masks_have_folders else "image"
        if choice.mask_suffix is not None:
            has_suffix = file.stem.endswith(choice.mask_suffix)
            role = "mask" if has_suffix and (role == "mask" or not masks_have_folders) else "image"
            if file.role == "mask" and masks_have_folders and not has_suffix:
                continue
        elif not masks_have_folders and names_a_mask(file.stem):
            role = "mask"
        if role == "image" and not file.stem.endswith(choice.image_suffix or ""):
            continue
        result.append(replace(file, role=role))
    return result


def _in_chosen_folders(names: Sequence[str], choice: Choice) -> list[File]:
    result: list[File] = []
    folders: dict[Role, str | None] = {"mask": choice.mask_folder, "image": choice.image_folder}
    suffixes: dict[Role, str | None] = {"mask": choice.mask_suffix, "image": choice.image_suffix}
    for name in names:
        for role, folder in folders.items():
            start = "" if folder is None or folder == "." else f"{folder.strip('/')}/"
            stem = posixpath.basename(name).rpartition(".")[0]
            if not name.startswith(start) or not stem.endswith(suffixes[role] or ""):
                continue
            if role == "mask" and folder is None and not names_a_mask(stem) and suffixes[role] is None:
                continue
            file = _read(name[len(start) :], "")
            split = file.split or _read(name, "").split
            result.append(replace(file, name=name, role=role, split=split, is_aside=False))
            break
    for role, folder in folders.items():
        if folder is not None and not any(file.role == role for file in result):
            seen = ", ".join(sorted({posixpath.dirname(name) or "." for name in names})[:8])
            suffix = f" with names that end with {suffixes[role]}" if suffixes[role] else ""
            raise UserError(f"{role}_folder={folder}: no images in it{suffix}; images are in {seen}")
    return result


def _read(name: str, common: str) -> File:
    """A file with what its folders say; the folders that all files share, `common`, tell images and masks not apart."""
    *folders, last = name.split("/")
    shared = len(common.split("/")) if common else 0
    split: SplitWord | None = None
    role: Role | None = None
    is_aside = False
    rest: list[str] = []
    for depth, folder in enumerate(folders):
        found = meaning_of(folder)
        if found.split is not None and (split is None or split == "trainval"):
            split = found.split
        if depth >= shared:
            role = found.role or role
            is_aside = found.is_aside or (is_aside and found.role is None)
        if found.split is None and found.role is None and not found.is_aside:
            rest.append(folder)
    return File(name, split, role, tuple(rest), last.rpartition(".")[0], is_aside)


def _by_file_type(files: Sequence[File]) -> tuple[list[File], list[File]]:
    """Images and masks that lie side by side as x.jpg and x.png, where every file has such a partner."""
    groups: defaultdict[tuple[str, str], list[File]] = defaultdict(list)
    for file in files:
        groups[posixpath.dirname(file.name), same_spelling(file.stem)].append(file)
    images: list[File] = []
    masks: list[File] = []
    for group in groups.values():
        lossy = [file for file in group if posixpath.splitext(file.name)[1].lower() in LOSSY]
        if len(group) != 2 or len(lossy) != 1:
            return list(files), []
        images += lossy
        masks += [replace(file, role="mask") for file in group if file is not lossy[0]]
    return images, masks
