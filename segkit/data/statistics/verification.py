"""Whether a sample is what training will read: the same twice, and what another decoder sees."""

from __future__ import annotations

from segkit.contracts import Sample, SampleSource
from segkit.data.datasets.source import Source
from segkit.data.datasets.subsets import leaf

TURNED_RULE = (
    "Every file is read as viewers show it, turned as its own EXIF says: look whether masks fit their images then. "
    "If they fit the stored pixels instead, take the EXIF orientation out of the images"
)
TURNS = {
    2: "mirrored",
    3: "turned by 180 degrees",
    4: "upside down and mirrored",
    5: "mirrored and turned",
    6: "turned clockwise",
    7: "mirrored and turned",
    8: "turned anticlockwise",
}


def mismatch(source: SampleSource, index: int, sample: Sample) -> str | None:
    """What speaks against sample number `index`, read as `sample`, with the file's name; None for nothing.

    Reads it once more, and images that are not of 8 bits with a second decoder. Raises DataError as `read` does.
    """
    base, place = leaf(source, index)
    files = base.paths(place) if isinstance(base, Source) else None
    named = files[0] if files else sample.id
    again = source.read(index)
    if again.image.tobytes() != sample.image.tobytes() or again.mask.tobytes() != sample.mask.tobytes():
        return f"{named}: two reads gave different pixels"
    other = base.second_opinion(place, sample) if isinstance(base, Source) else None
    return other and f"{named}: a second decoder finds {other}; store the image in another way, as PNG or plain TIFF"


def orientations(source: SampleSource, index: int) -> tuple[int, int]:
    """How viewers turn image and mask of sample number `index`, 1..8 as in EXIF; 1: not at all."""
    base, place = leaf(source, index)
    return base.orientations(place) if isinstance(base, Source) else (1, 1)


def turned_apart(shape: tuple[int, int], orientations: tuple[int, int]) -> str | None:
    """How EXIF turns an image otherwise than its mask, where their sizes do not tell whether that is right.

    Args:
        shape: (height, width) of both, once turned.
        orientations: of image and mask.
    """
    image, mask = orientations
    quarters = sum(turn >= 5 for turn in orientations)
    if image == mask or (quarters == 1 and shape[0] != shape[1]):
        return None
    told = [
        f"EXIF says {what} is {TURNS[turn]} ({turn})" if turn > 1 else f"{what} has no EXIF orientation"
        for what, turn in (("the image", image), ("its mask", mask))
    ]
    return "; ".join(told)
