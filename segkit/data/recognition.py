"""How an unknown folder of images and masks is laid out, told from the names of its folders and files."""

from __future__ import annotations

import csv
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from segkit.contracts import UserError
from segkit.data.content import MAX_TEXT_BYTES, UnusableError, read_content
from segkit.data.file_list import files_below
from segkit.data.pairing import key_of, same_spelling
from segkit.data.reading import SUFFIXES

Kind = Literal["cityscapes", "voc", "folder", "split_lists", "table", "csv"]
SplitName = Literal["train", "val", "test"]
Role = Literal["image", "mask"]

SPLIT_WORDS: dict[str, SplitName] = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
MASK_WORDS = frozenset(
    "mask masks label labels labeled labelled annotation annotations annot annots ann anns gt gts groundtruth truth "
    "target targets seg segs segmentation segmentations segmentationclass labelids segmap segmaps lbl lbls".split()
)
IMAGE_WORDS = frozenset("image images img imgs photo photos picture pictures rgb raw input inputs jpegimages".split())
MASK_ENDINGS = re.compile(
    r"[_\-. ](?:mask|masks|label|labels|labelids|labeltrainids|gt|seg|segmentation|annotation|annot|target|truth|l)$",
    re.IGNORECASE,
)
IMAGE_ENDINGS = re.compile(r"[_\-. ](?:image|img|photo|rgb|sat|input)$", re.IGNORECASE)
TABLE_COLUMNS = {
    "image": ("image", "images", "image_path", "img", "img_path", "filename", "file", "input", "image_id"),
    "mask": ("mask", "masks", "mask_path", "label", "label_path", "annotation", "segmentation", "seg", "gt", "target"),
    "split": ("split", "set", "subset", "phase", "partition"),
}
LIST_FOLDERS = ("splits", "lists", "ImageSets/Segmentation", "ImageSets", "split", ".")

Pair = tuple[str, str]


@dataclass(frozen=True)
class Layout:
    """What a folder was found to be.

    Attributes:
        kind: the data set class that reads it; `table` is a list of pairs that is still to be written.
        told: what was recognised, for a person.
        pairs: image and mask of each sample, relative to the folder, by split; all are `train` without splits.
        keys: keys of the data set's config that the kind needs.
        left: files that look like images or masks and found no partner.
    """

    kind: Kind
    told: str
    pairs: dict[SplitName, list[Pair]]
    keys: dict[str, str | None] = field(default_factory=dict[str, "str | None"])
    left: tuple[str, ...] = ()


def recognise(root: Path) -> Layout:
    """The layout of the folder `root`. Raises UserError, saying what was seen, when it cannot be told."""
    if not root.is_dir():
        raise UserError(f"folder={root}: there is no such folder")
    if (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir():
        return Layout("cityscapes", "Cityscapes: leftImg8bit/ and gtFine/", {})
    files = files_below(root, SUFFIXES)
    if not files:
        raise UserError(f"folder={root}: no images in it; looked for {', '.join(sorted(SUFFIXES))} in all its folders")
    table = _table(root)
    if table is not None:
        return table
    found = [_sorted_in(name) for name in files]
    pairs, left = _paired(_with_roles_by_name(found))
    if not pairs:
        folders = sorted({posixpath.dirname(name) or "." for name in files})
        raise UserError(
            f"folder={root}: no masks were recognised among {len(files)} images in {_listed(folders)}. Allowed: "
            "folders named masks, labels, annotations or gt beside images, or masks named like their image with _mask, "
            "_label or _gt at the end; or a table data.csv with the columns image and mask"
        )
    by_split: defaultdict[SplitName, list[Pair]] = defaultdict(list)
    for (split, _), pair in sorted(pairs.items(), key=lambda item: item[1]):
        by_split[split or "train"].append(pair)
    lists = _lists(root, by_split) if set(by_split) == {"train"} else None
    return lists or _folders(dict(by_split), left)


@dataclass(frozen=True)
class _File:
    """A file with what its folders say: its split, its role, and where it is apart from these."""

    name: str
    split: SplitName | None
    role: Role | None
    rest: tuple[str, ...]
    stem: str


def _sorted_in(name: str) -> _File:
    *folders, last = name.split("/")
    split: SplitName | None = None
    role: Role | None = None
    rest: list[str] = []
    for folder in folders:
        own_split, own_role = _words(folder)
        split, role = split or own_split, own_role or role
        if own_split is None and own_role is None:
            rest.append(folder)
    return _File(name, split, role, tuple(rest), last.rpartition(".")[0])


def _words(folder: str) -> tuple[SplitName | None, Role | None]:
    """The split and the role that a folder's name tells: train_masks, trainannot, images-val."""
    split: SplitName | None = None
    role: Role | None = None
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", folder)
    for word in [folder.lower(), *re.split(r"[_\-. ]+", spaced.lower())]:
        for prefix in ("", *sorted(SPLIT_WORDS, key=len, reverse=True)):
            if not word.startswith(prefix):
                continue
            rest = word[len(prefix) :]
            is_role = rest in MASK_WORDS or rest in IMAGE_WORDS
            if prefix and (is_role or not rest):
                split = SPLIT_WORDS[prefix]
            if is_role:
                role = "mask" if rest in MASK_WORDS or role == "mask" else "image"
    return split, role


def _with_roles_by_name(files: Sequence[_File]) -> list[_File]:
    """Roles also for files whose folder tells none: where masks have folders the others are images, else endings."""
    masks_have_folders = any(file.role == "mask" for file in files)
    result: list[_File] = []
    for file in files:
        role = file.role
        if role is None or (role == "image" and not masks_have_folders):
            role = "mask" if not masks_have_folders and MASK_ENDINGS.search(file.stem) else "image"
        result.append(_File(file.name, file.split, role, file.rest, file.stem))
    return result


def _paired(files: Sequence[_File]) -> tuple[dict[tuple[SplitName | None, str], Pair], list[str]]:
    """Pairs by split and key, and files without a partner: names that are alike, else alike without endings."""
    pairs: dict[tuple[SplitName | None, str], Pair] = {}
    left: dict[Role, list[_File]] = {"image": [], "mask": []}
    for role in left:
        left[role] = [file for file in files if file.role == role]
    for stripped in (False, True):
        keyed = {role: _by_key(left[role], role, stripped) for role in left}
        for key in sorted(keyed["image"].keys() & keyed["mask"].keys(), key=str):
            image, mask = keyed["image"][key], keyed["mask"][key]
            pairs[key[0], image.name] = (image.name, mask.name)
        used = {name for pair in pairs.values() for name in pair}
        left = {role: [file for file in left[role] if file.name not in used] for role in left}
    return pairs, [file.name for role in left for file in left[role]]


def _by_key(files: Sequence[_File], role: Role, stripped: bool) -> dict[tuple[SplitName | None, str], _File]:
    """Files by what they share with their partner; of two with one key, neither."""
    found: dict[tuple[SplitName | None, str], _File] = {}
    uses: Counter[tuple[SplitName | None, str]] = Counter()
    for file in files:
        stem = (MASK_ENDINGS if role == "mask" else IMAGE_ENDINGS).sub("", file.stem) if stripped else file.stem
        key = file.split, same_spelling("/".join((*file.rest, stem)))
        found[key] = file
        uses[key] += 1
    return {key: file for key, file in found.items() if uses[key] == 1}


def _folders(by_split: dict[SplitName, list[Pair]], left: Sequence[str]) -> Layout:
    """Split folders with images/ and masks/ in them, or anything else as a table."""
    names: dict[str, str | None] = {}
    for split, pairs in by_split.items():
        tops = {pair[0].split("/")[0] for pair in pairs}
        top = next(iter(tops))
        exact = all(
            image.startswith(f"{top}/images/")
            and mask.startswith(f"{top}/masks/")
            and key_of(image.split("/", 2)[2]) == key_of(mask.split("/", 2)[2])
            for image, mask in pairs
        )
        if len(tops) > 1 or not exact or left:
            break
        names[f"{split}_split"] = top
    told = ", ".join(f"{split} {len(pairs)}" for split, pairs in by_split.items())
    where = sorted({posixpath.dirname(name) or "." for pairs in by_split.values() for pair in pairs for name in pair})
    if len(names) == len(by_split):
        absent = {f"{split}_split": None for split in ("train", "val", "test") if split not in by_split}
        return Layout("folder", f"images/ and masks/ in split folders ({told})", by_split, names | absent, tuple(left))
    return Layout("table", f"images and masks in {_listed(where)} ({told})", by_split, {}, tuple(left))


def _lists(root: Path, by_split: Mapping[SplitName, list[Pair]]) -> Layout | None:
    """One folder of images and one of masks with lists of names; None where there are no such lists."""
    pairs = by_split["train"]
    image_folder, mask_folder = (posixpath.commonpath([posixpath.dirname(p[i]) or "." for p in pairs]) for i in (0, 1))
    below = {key_of(posixpath.relpath(image, image_folder)): (image, mask) for image, mask in pairs}
    alike = all(
        key_of(posixpath.relpath(image, image_folder)) == key_of(posixpath.relpath(mask, mask_folder))
        for image, mask in pairs
    )
    for folder in LIST_FOLDERS:
        found: dict[SplitName, list[Pair]] = {}
        names: dict[str, str | None] = {"train_split": None, "val_split": None, "test_split": None}
        for file in sorted((root / folder).glob("*.txt")):
            split = SPLIT_WORDS.get(file.stem.lower())
            if split is None or split in found:
                continue
            try:
                text = read_content(file, MAX_TEXT_BYTES).decode("utf-8", errors="replace")
            except UnusableError:
                continue
            lines = [line.split() for line in text.splitlines()]
            listed = [below[key] for line in lines if line and (key := key_of(posixpath.basename(line[0]))) in below]
            if listed and len(listed) >= 0.5 * sum(map(bool, lines)):
                found[split], names[f"{split}_split"] = listed, file.stem
        if "train" not in found:
            continue
        told = ", ".join(f"{split} {len(listed)}" for split, listed in found.items())
        if folder == "ImageSets/Segmentation" and (image_folder, mask_folder) == ("JPEGImages", "SegmentationClass"):
            return Layout("voc", f"Pascal VOC's folders ({told})", found, names)
        keys = names | {"images_dir": image_folder, "masks_dir": mask_folder, "splits_dir": folder}
        told = f"{image_folder}/, {mask_folder}/ and lists in {folder}/ ({told})"
        return Layout("split_lists" if alike else "table", told, found, keys if alike else {})
    return None


def _table(root: Path) -> Layout | None:
    """A table with a column of images and one of masks that exist."""
    for file in sorted(root.glob("*.csv")):
        try:
            with file.open(encoding="utf-8-sig", newline="") as text:
                first = text.readline()
                text.seek(0)
                reader = csv.DictReader(text, delimiter=max(",;\t", key=first.count))
                rows = list(reader)
                names = list(reader.fieldnames or ())
        except (OSError, UnicodeDecodeError, csv.Error):
            continue
        columns = {
            part: next((name for name in names if name.strip().lower() in known), None)
            for part, known in TABLE_COLUMNS.items()
        }
        image, mask = columns["image"], columns["mask"]
        if image is None or mask is None or not rows:
            continue
        pairs: defaultdict[SplitName, list[Pair]] = defaultdict(list)
        values: dict[str, str | None] = {"train_split": None, "val_split": None, "test_split": None}
        for row in rows:
            value = (row[columns["split"]] or "").strip() if columns["split"] else "train"
            split = SPLIT_WORDS.get(value.lower())
            if split is not None:
                values[f"{split}_split"] = value
                pairs[split].append(((row[image] or "").strip(), (row[mask] or "").strip()))
        if not pairs:
            continue
        keys = values | {"table": file.name, "image_column": image, "mask_column": mask}
        keys |= {"split_column": columns["split"]}
        told = ", ".join(f"{split} {len(found)}" for split, found in pairs.items())
        return Layout("csv", f"the table {file.name} ({told})", dict(pairs), keys)
    return None


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"{name}/" for name in names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
