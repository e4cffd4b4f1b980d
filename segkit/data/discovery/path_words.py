"""What the names of folders and files say of a data set: the split, and whether images or masks are in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

SplitName = Literal["train", "val", "test"]
SplitWord = Literal["train", "val", "test", "trainval"]
Role = Literal["image", "mask"]

SPLIT_WORDS: dict[str, SplitName] = {
    **dict.fromkeys(("train", "training", "trn", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "ts"), "test"),
}
MASK_WORDS = frozenset(
    "mask masks label labels labeled labelled annotation annotations annot annots ann anns anno annos annotated gt gts "
    "groundtruth groundtruths truth target targets seg segs segmentation segmentations segmentationclass semantic "
    "semseg labelid labelids labelmap labelmaps segmap segmaps lbl lbls trimap trimaps stuffthingmaps parsing parsings "
    "gtfine gtcoarse".split()
)
IMAGE_WORDS = frozenset(
    "image images img imgs photo photos picture pictures rgb raw input inputs jpegimages frame frames".split()
)
ASIDE_WORDS = frozenset(
    "instance instances instanceid instanceids instancetrainids panoptic color colors colour colours colored coloured "
    "colormap colormaps vis visual visualization visualisation overlay overlays edge edges boundary boundaries contour "
    "contours thumb thumbs thumbnail thumbnails preview previews segmentationobject".split()
)
"""What is derived from masks or images, or tells objects of one class apart: no masks of classes."""

MASK_ENDING = re.compile(
    r"[_\-. ](?:mask|masks|label|labels|labelids|labeltrainids|trainids|train_id|gt|seg|segmentation|annotation|annot|"
    r"ann|anno|lbl|target|truth|trimap|groundtruth|ground_truth|gtfine_labelids|(?-i:L))(?:[_\-]\d{1,2})?$",
    re.IGNORECASE,
)
IMAGE_ENDING = re.compile(r"[_\-. ](?:image|img|photo|rgb|sat|input|leftimg8bit|0000)$", re.IGNORECASE)
MASK_BEGINNING = re.compile(
    r"^(?:mask|label|lbl|gt|seg|segmentation|annotation|target)(?:[_\-. ]+|(?=\d))", re.IGNORECASE
)
IMAGE_BEGINNING = re.compile(r"^(?:image|img|photo|rgb|input|frame|sat)(?:[_\-. ]+|(?=\d))", re.IGNORECASE)


NO_IMAGE_WORDS = frozenset(
    "instance instances instanceids panoptic overlay overlays vis visual visualization visualisation thumb thumbs "
    "thumbnail thumbnails preview previews".split()
)
"""The part of these that folders of images are never called."""


def _any_of(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


ASIDE_ENDING = re.compile(rf"[_\-. ](?:gtfine_)?(?:{_any_of(ASIDE_WORDS)})$", re.IGNORECASE)
LIST_WORDS = frozenset("list lists file files id ids name names set sets split splits image images samples".split())
"""What the name of a list may hold beside its split."""
WORD = re.compile(
    rf"(?:mini)?(?P<before>{_any_of(SPLIT_WORDS)})?(?P<role>{_any_of(MASK_WORDS | IMAGE_WORDS)})?"
    rf"(?P<after>{_any_of(SPLIT_WORDS)})?(?:set|split|list|lists|files|ids|names)?"
)


@dataclass(frozen=True)
class Meaning:
    """What one name says; None where it says nothing, or two things at once."""

    split: SplitWord | None = None
    role: Role | None = None
    is_aside: bool = False


def meaning_of(name: str) -> Meaning:
    """What the name of a folder, of a list or in a table's column of splits says: train2017, valannot, imagesTr."""
    lower = name.lower()
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    words = list(dict.fromkeys([lower, *re.split(r"[\W\d_]+", spaced), *re.split(r"[\W\d_]+", lower)]))
    splits: set[SplitName] = set()
    role: Role | None = None
    for word in words:
        found = WORD.fullmatch(word)
        if found is None:
            continue
        splits |= {SPLIT_WORDS[part] for part in (found["before"], found["after"]) if part}
        if found["role"]:
            role = "mask" if found["role"] in MASK_WORDS or role == "mask" else "image"
    aside = ASIDE_WORDS | {"rgb"} if role == "mask" else NO_IMAGE_WORDS
    is_aside = not aside.isdisjoint(words)
    return Meaning(_one(splits), role, is_aside)


def is_called_after_splits(name: str) -> bool:
    """Whether a name says a split and nothing else: train, trainval and val_list do, aeroplane_train does not."""
    words = re.split(r"[\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    return all(not word or word in LIST_WORDS or meaning_of(word).split is not None for word in words)


def _one(splits: set[SplitName]) -> SplitWord | None:
    if splits == {"train", "val"}:
        return "trainval"
    if splits == {"val", "test"}:
        return "test"  # COCO's test-dev
    return next(iter(splits)) if len(splits) == 1 else None


def without_ending(stem: str, role: Role) -> str:
    """The stem of a file without what its end says of its role: x_gt, x_leftImg8bit."""
    return (MASK_ENDING if role == "mask" else IMAGE_ENDING).sub("", stem)


def without_beginning(stem: str, role: Role) -> str:
    """The same without what its beginning says: mask_12."""
    return (MASK_BEGINNING if role == "mask" else IMAGE_BEGINNING).sub("", without_ending(stem, role))


def names_a_mask(stem: str) -> bool:
    """Whether the stem of a file says that it is a mask."""
    return MASK_ENDING.search(stem) is not None or MASK_BEGINNING.search(stem) is not None
