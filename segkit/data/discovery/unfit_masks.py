"""Values in masks that cannot be classes as they are; each is a DataError that shows one and says what to do."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from segkit.contracts import DataError
from segkit.data.discovery.mask_survey import MaskFormat, Survey, rgb_of, shown_values

FEWEST_EDGE_VALUES = 3
EDGE_SHARE = 1 / 3
"""Of all values: with so many that stand on edges alone, masks have soft edges; fewer may be thin classes."""
FEWEST_COLORS, FEWEST_MASKS = 12, 4
ALONE_SHARE = 0.8
"""Of all colours: with as many that stand in one mask only, colours number objects and not classes."""


def refuse_palettes(found: Survey, mask_format: MaskFormat | None) -> None:
    """Raise DataError for palettes that differ, where nobody said what is to count."""
    if found.palettes_differ is None or mask_format == "ids":
        return
    index, first, where, second, other = found.palettes_differ
    raise DataError(
        f"the palettes of the masks differ: {index} is {list(first)} in {where}, and {list(second)} in {other}.\n"
        "Give mask_format=colors if the colours are the classes, mask_format=ids if the numbers are"
    )


def has_soft_edges(found: Survey, listed: Collection[int] = ()) -> bool:
    """Whether many of the values that are not `listed` stand on edges alone."""
    edges = sum(value not in listed for value in found.edge_values)
    return edges >= FEWEST_EDGE_VALUES and edges >= EDGE_SHARE * len(found.values)


def refuse_soft_edges(found: Survey, listed: Collection[int]) -> None:
    """Raise DataError for masks with soft edges."""
    if not has_soft_edges(found, listed):
        return
    edges = [value for value in found.edge_values if value not in listed]
    solid = [value for value in found.values if value not in edges]
    remedy = "Save them again as PNG, drawn without smoothing and resized to the nearest pixel"
    if found.mask_format == "ids" and max(found.values) <= 255:
        middle = (min(found.values) + max(found.values) + 1) // 2
        remedy = f"threshold={middle} makes two classes of them, from {middle} on and below. {remedy}"
    what = "colours" if found.mask_format == "colors" else "values"
    raise DataError(
        f"{found.example(edges[0])} and others: {len(edges)} of {len(found.values)} {what} in masks stand on edges "
        f"alone, between others, such as {shown_values(found, edges[:3])}: no classes, but the soft edges of "
        f"antialiasing, resizing or JPEG compression. Solid are {shown_values(found, solid) or 'none'}.\n{remedy}"
    )


def refuse_two_codes(found: Survey, listed: Collection[int]) -> None:
    """Raise DataError where some masks hold 0 and 1, and others 0 and 255, of which none is `listed`."""
    is_mixed = not any({1, 255} <= values for values in found.values_of.values())
    if set(found.values) == {0, 1, 255} and is_mixed and 255 not in listed:
        raise DataError(
            f"some masks hold 1, as {found.example(1)}, others 255, as {found.example(255)}, and none both: is 255 "
            "there what 1 is elsewhere, or what is not labelled?\n"
            "Give 'class_mapping={0: 0, 1: 1, 255: 1}', or 'ignore=[255]'"
        )


def refuse_objects(found: Survey, unlisted: Sequence[int], mask_format: MaskFormat | None) -> None:
    """Raise DataError where nearly every mask has colours of its own, as masks of single objects have."""
    alone = [code for code in unlisted if found.values[code] == 1]
    if (
        mask_format == "colors"
        or len(found.values_of) < FEWEST_MASKS
        or len(unlisted) < FEWEST_COLORS
        or len(alone) < ALONE_SHARE * len(unlisted)
    ):
        return
    raise DataError(
        f"{len(alone)} of {len(found.values)} colours stand in one mask only, such as {list(rgb_of(alone[0]))} in "
        f"{found.example(alone[0])}: they number objects, as COCO's panoptic PNGs do (id = R + 256 G + 65536 B), and "
        "are no classes.\nMake masks of classes of them first; mask_format=colors takes them for classes all the same"
    )
