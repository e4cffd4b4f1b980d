"""What values in masks mean: classes, colours, what is ignored, and which names fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from segkit.contracts import DataError, UserError
from segkit.data.discovery.class_names import NamedClass
from segkit.data.discovery.label_choice import Labels, Said, choose_labels
from segkit.data.discovery.mask_survey import survey

RED, BLUE, BLACK = (255, 0, 0), (0, 0, 255), (0, 0, 0)


def chosen(tmp_path: Path, *masks: Any, named: list[NamedClass] | None = None, **said: Any) -> Labels:
    paths: list[Path] = []
    for number, mask in enumerate(masks):
        path = tmp_path / f"{number}.png"
        (mask if isinstance(mask, Image.Image) else Image.fromarray(np.array(mask))).save(path)
        paths.append(path)
    found = survey(paths, lambda done: None, mask_format=said.get("mask_format"))
    return choose_labels(found, named or [], Said(**said))


def ids(*values: int) -> np.ndarray:
    """A mask of stripes, 8 pixels wide, each of one value."""
    row = np.repeat(np.array(values, np.uint8 if max(values) < 256 else np.uint16), 8)
    return np.repeat(row[None], 8, axis=0)


def colored(*colors: tuple[int, int, int]) -> np.ndarray:
    return np.repeat(np.repeat(np.array(colors, np.uint8), 8, axis=0)[None], 8, axis=0)


def palettes(values: np.ndarray, *colors: tuple[int, int, int]) -> Image.Image:
    mask = Image.fromarray(values).convert("P")
    mask.putpalette([channel for color in colors for channel in color])
    return mask


def names(*listed: str) -> list[NamedClass]:
    return [NamedClass(name) for name in listed]


@pytest.mark.parametrize(
    ("values", "expected", "mapping"),
    [
        ((0, 1, 2), ["class_0", "class_1", "class_2"], None),
        ((0, 2, 3), ["class_0", "class_1", "class_2", "class_3"], None),
        ((0, 1, 255), ["class_0", "class_1"], None),
        ((0, 255), ["background", "foreground"], {0: 0, 255: 1}),
        ((1, 2, 3), ["class_1", "class_2", "class_3"], {1: 0, 2: 1, 3: 2}),
        ((0, 100, 200), ["class_0", "class_100", "class_200"], {0: 0, 100: 1, 200: 2}),
        ((0, 128, 255), ["class_0", "class_128", "class_255"], {0: 0, 128: 1, 255: 2}),
        ((0, 85, 170, 255), ["class_0", "class_85", "class_170", "class_255"], {0: 0, 85: 1, 170: 2, 255: 3}),
        ((0, 8, 15, 255), ["class_0", "class_8", "class_15"], {0: 0, 8: 1, 15: 2, 255: 255}),
        ((1, 2, 255), ["class_1", "class_2"], {1: 0, 2: 1, 255: 255}),
        ((0, 1, 65535), ["class_0", "class_1"], {0: 0, 1: 1, 65535: 255}),
        ((0, 1000, 2000), ["class_0", "class_1000", "class_2000"], {0: 0, 1000: 1, 2000: 2}),
    ],
)
def test_ids(tmp_path: Path, values: tuple[int, ...], expected: list[str], mapping: dict[int, int] | None) -> None:
    # No mask but the first holds all of them.
    masks = [ids(*values), *[ids(value, values[0]).astype(ids(*values).dtype) for value in values]]
    labels = chosen(tmp_path, *masks)
    assert (labels.names, labels.mapping, labels.mask_format) == (expected, mapping, "ids")
    assert labels.ignore_index == 255
    is_ignored = mapping is not None and 255 in mapping.values() and len(values) > len(expected)
    assert any("is taken for what is not labelled" in note for note in labels.notes) == (
        is_ignored or values[1:] == (1, 255)
    )


def test_what_is_ignored_can_be_said(tmp_path: Path) -> None:
    kept = chosen(tmp_path, ids(0, 1, 255), ignore=[])
    assert kept.names == ["class_0", "class_1", "class_255"]
    assert kept.mapping == {0: 0, 1: 1, 255: 2}
    with pytest.raises(UserError, match=r"ignore=7: no id or class of these masks; they hold 0..2"):
        chosen(tmp_path, ids(0, 1, 2), ignore=[7])
    some = chosen(tmp_path, ids(0, 1, 2), named=names("a", "b", "c"), ignore=["b"])
    assert (some.names, some.mapping) == (["a", "c"], {0: 0, 2: 1, 1: 255})
    colors = chosen(tmp_path, colored(BLACK, RED, BLUE), ignore=[list(RED)])
    assert (colors.names, colors.ignore_colors) == (["rgb_0_0_0", "rgb_0_0_255"], [RED])


def test_masks_of_two_codes_are_asked_about(tmp_path: Path) -> None:
    masks = ids(0, 1), ids(0, 255)
    with pytest.raises(DataError, match=r"some masks hold 1, as .*0.png, others 255, as .*1.png, and none both"):
        chosen(tmp_path, *masks)
    labels = chosen(tmp_path, *masks, mapping={0: 0, 1: 1, 255: 1})
    assert (labels.names, labels.mapping) == (["background", "foreground"], {0: 0, 1: 1, 255: 1})
    assert chosen(tmp_path, *masks, ignore=[255]).names == ["class_0", "class_1"]
    with pytest.raises(UserError, match=r"class_mapping: masks hold 1 too, such as .*0.png"):
        chosen(tmp_path, *masks, mapping={0: 0, 255: 1})


CRACK_FIRST = [NamedClass("crack", 1), NamedClass("background", 0)]
WHITE_FIRST = [NamedClass("crack", color=(255, 255, 255)), NamedClass("background", color=BLACK)]


@pytest.mark.parametrize("listed", [CRACK_FIRST, CRACK_FIRST[::-1], WHITE_FIRST, WHITE_FIRST[::-1]])
def test_listed_ids_and_greys_go_before_the_order_of_lines(tmp_path: Path, listed: list[NamedClass]) -> None:
    expected = ["background", "crack"]
    high = 1 if listed[0].color is None else 255
    for said in ({}, {"mapping": {0: 0, high: 1}}):
        assert chosen(tmp_path, ids(0, high), named=listed, **said).names == expected
    assert chosen(tmp_path, ids(0, high), named=listed, mapping={0: 1, high: 0}).names == expected[::-1]
    labels = chosen(tmp_path, disc(), named=listed, threshold=128)
    assert (labels.names, labels.told) == (expected, "masks of grey values: crack from 128 on, background below")


def test_names_go_where_their_ids_are_mapped_to(tmp_path: Path) -> None:
    listed = [NamedClass("road", 1), NamedClass("building", 2), NamedClass("bus", 3)]
    mask = ids(0, 1, 2, 3)
    assert chosen(tmp_path, mask, named=listed, mapping={0: 0, 1: 1, 2: 2, 3: 255}).names == [
        "class_0", "road", "building"
    ]  # fmt: skip
    assert chosen(tmp_path, mask, named=listed, mapping={0: 255, 1: 1, 2: 0, 3: 1}).names == ["building", "road+bus"]
    by_line = chosen(tmp_path, mask, named=names("a", "b"), mapping={0: 0, 1: 1, 2: 1, 3: 255})
    assert (by_line.names, by_line.notes) == (["a", "b"], ["names by their lines: 0 a, 1 b"])
    too_many = chosen(tmp_path, mask, named=names("a", "b", "c"), mapping={0: 0, 1: 1, 2: 1, 3: 255})
    assert (too_many.names, too_many.notes) == (
        ["background", "foreground"], ["3 names are listed for 2 classes: none is assigned"]
    )  # fmt: skip


def test_two_mapped_classes_are_background_and_foreground_only_if_0_stays_0(tmp_path: Path) -> None:
    """In trimaps 1 is the animal."""
    labels = chosen(tmp_path, ids(1, 2, 3), mapping={1: 0, 2: 1, 3: 255})
    assert labels.names == ["class_0", "class_1"]


def test_two_colours_that_black_and_white_masks_do_not_hold_name_nothing(tmp_path: Path) -> None:
    listed = [NamedClass("crack", color=RED), NamedClass("background", color=BLACK)]
    labels = chosen(tmp_path, ids(0, 255), named=listed)
    assert labels.names == ["background", "foreground"]
    assert "none is assigned" in labels.notes[0]
    assert chosen(tmp_path, ids(0, 255), named=listed[::-1]).names == ["background", "crack"]
    assert chosen(tmp_path, disc(), named=listed, threshold=128).names == ["background", "foreground"]


@pytest.mark.parametrize(
    ("values", "listed", "expected"),
    [
        ((0, 1, 2), ("a", "b", "c"), ["a", "b", "c"]),
        ((1, 2, 3), ("a", "b", "c"), ["a", "b", "c"]),
        ((0, 255), ("a", "b"), ["a", "b"]),
        ((0, 1), ("a", "b", "c"), ["a", "b", "c"]),  # no mask happens to hold c
        ((0, 2), ("a", "b", "c"), ["a", "b", "c"]),
        ((0, 1, 255), ("a", "b"), ["a", "b"]),
        ((0, 1, 2, 3), ("a", "b", "c"), None),  # is the background not listed, or the last one?
        ((0, 7, 26), ("a", "b", "c"), None),
        ((0, 255), ("a",), None),
        ((1, 2, 3), ("a", "b"), None),
    ],
)
def test_names_of_lines_go_to_ids_in_a_row(
    tmp_path: Path, values: tuple[int, ...], listed: tuple[str, ...], expected: list[str] | None
) -> None:
    labels = chosen(tmp_path, ids(*values), named=names(*listed))
    if expected is None:
        assert not set(labels.names) & set(listed)
        assert "none is assigned" in labels.notes[0]
    else:
        assert labels.names == expected
        assert labels.notes[0].startswith(f"names by their lines: {values[0]} a")


def test_names_with_ids_go_by_these(tmp_path: Path) -> None:
    listed = [NamedClass("road", 1), NamedClass("building", 2), NamedClass("bus", 3)]
    labels = chosen(tmp_path, ids(0, 1, 2), named=listed)
    assert labels.names == ["class_0", "road", "building", "bus"]
    assert labels.notes == [
        "ids without a listed name: 0, such as in 0.png", "listed classes without a pixel: 3 bus"
    ]  # fmt: skip
    # Not in order, with gaps, and with void.
    listed = [NamedClass("car", 26), NamedClass("void", 0), NamedClass("road", 7)]
    labels = chosen(tmp_path, ids(0, 7), ids(26, 0), named=listed)
    assert (labels.names, labels.mapping) == (["road", "car"], {7: 0, 26: 1, 0: 255})
    labels = chosen(tmp_path, ids(0, 1), named=[NamedClass("a", 5), NamedClass("b", 6)])
    assert labels.names == ["class_0", "class_1"]
    assert labels.notes == ["listed are the ids 5..6, and masks hold 0..1: no name fits"]


def test_void_on_a_line_keeps_the_lines_below_in_their_place(tmp_path: Path) -> None:
    labels = chosen(tmp_path, ids(0, 1, 2), named=names("void", "a", "b"))
    assert (labels.names, labels.mapping) == (["a", "b"], {1: 0, 2: 1, 0: 255})
    labels = chosen(tmp_path, ids(0, 1, 2), named=names("a", "b", "Unknown"))
    assert labels.names == ["a", "b", "Unknown"]
    assert labels.notes[-1] == "Unknown counts as a class; 'ignore=[Unknown]' leaves it out"


def test_colours_have_their_listed_names_and_no_others(tmp_path: Path) -> None:
    mask = colored(BLACK, RED, BLUE)
    plain = chosen(tmp_path, mask)
    assert (plain.mask_format, plain.colors) == ("colors", [BLACK, BLUE, RED])
    assert plain.names == ["rgb_0_0_0", "rgb_0_0_255", "rgb_255_0_0"]
    only_names = chosen(tmp_path, mask, named=names("sky", "road", "car"))
    assert only_names.names == plain.names
    assert "3 names are listed, without colours, which cannot be matched" in only_names.notes[0]
    listed = [
        NamedClass("sky", color=BLUE), NamedClass("road", color=RED), NamedClass("Void", color=BLACK)
    ]  # fmt: skip
    labels = chosen(tmp_path, mask, named=listed)
    assert (labels.names, labels.ignore_colors) == (["sky", "road"], [BLACK])


def test_a_colour_that_is_one_off_is_told_with_both(tmp_path: Path) -> None:
    listed = [NamedClass("sky", color=BLUE), NamedClass("road", color=(254, 0, 0)), NamedClass("car", color=BLACK)]
    labels = chosen(tmp_path, colored(BLACK, RED, BLUE), named=listed)
    assert labels.names == ["sky", "car", "rgb_255_0_0"]
    assert labels.colors == [BLUE, BLACK, RED]
    assert labels.notes == [
        "2 of 3 colours in masks are listed and have their names",
        "[255, 0, 0], as in 0.png, is not listed; near it is road [254, 0, 0], which no mask holds",
    ]


def test_ids_and_two_colours_stored_as_rgb(tmp_path: Path) -> None:
    greys = colored((0, 0, 0), (1, 1, 1), (2, 2, 2))
    labels = chosen(tmp_path, greys, named=[NamedClass("c", 2), NamedClass("a", 0), NamedClass("b", 1)])
    assert dict(zip(labels.names, labels.colors, strict=True)) == {"c": (2, 2, 2), "a": (0, 0, 0), "b": (1, 1, 1)}
    assert chosen(tmp_path, colored(BLACK, (255, 255, 255))).names == ["background", "foreground"]


def test_a_palette_gives_colours_and_names(tmp_path: Path) -> None:
    mask = palettes(ids(0, 1), (10, 20, 30), (40, 50, 60))
    assert chosen(tmp_path, mask).colors == [(10, 20, 30), (40, 50, 60)]
    listed = [NamedClass("b", color=(40, 50, 60)), NamedClass("a", color=(10, 20, 30))]
    labels = chosen(tmp_path, mask, named=listed)
    assert labels.names == ["a", "b"]
    assert labels.notes == ["names by the colours of the masks' palette: 0 a, 1 b"]
    gaps = np.array([0, 0, 0, 0, 0, 3, 3, 3, 9, 9], np.uint8).repeat(4)[None].repeat(8, axis=0)
    colors = [BLACK] * 10
    colors[3], colors[9] = RED, BLUE
    labels = chosen(tmp_path, palettes(gaps, *colors))
    assert (labels.names, labels.mapping) == (["class_0", "class_3", "class_9"], {0: 0, 3: 1, 9: 2})
    assert labels.colors == [BLACK, RED, BLUE]


def test_palettes_that_differ_are_asked_about(tmp_path: Path) -> None:
    masks = palettes(ids(0, 1), BLACK, RED), palettes(ids(0, 1, 2), BLACK, BLUE, RED)
    with pytest.raises(DataError, match=r"differ: 1 is \[255, 0, 0\] in .*0.png, and \[0, 0, 255\] in .*1.png"):
        chosen(tmp_path, *masks)
    assert chosen(tmp_path, *masks, mask_format="ids").names == ["class_0", "class_1", "class_2"]
    assert chosen(tmp_path, *masks, mask_format="colors").colors == [BLACK, BLUE, RED]
    # Colours of indices that no pixel has may differ.
    unused = palettes(ids(0, 1), BLACK, RED, BLUE), palettes(ids(0, 1), BLACK, RED, RED)
    assert len(chosen(tmp_path, *unused).names) == 2


def disc(size: int = 64, radius: int = 20, smooth: bool = True) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    cv2.circle(mask, (size // 2, size // 2), radius, 255, -1, cv2.LINE_AA if smooth else cv2.LINE_8)
    return mask


def jpeg(mask: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", mask, [cv2.IMWRITE_JPEG_QUALITY, 80])[1], cv2.IMREAD_UNCHANGED))


@pytest.mark.parametrize(
    "masks",
    [
        [disc(radius=radius) for radius in range(10, 28, 2)],
        [cv2.resize(disc(160, radius, smooth=False), (64, 64), interpolation=cv2.INTER_AREA) for radius in (40, 50)],
        [jpeg(disc(radius=radius, smooth=False)) for radius in (15, 20, 25)],
    ],
    ids=["antialiased", "resized", "jpeg"],
)
def test_soft_edges_are_no_classes(tmp_path: Path, masks: list[np.ndarray]) -> None:
    with pytest.raises(
        DataError, match=r"\d.png and others: \d+ of \d+ values in masks stand on edges alone.*\nthreshold="
    ):
        chosen(tmp_path, *masks)
    labels = chosen(tmp_path, *masks, threshold=128)
    assert labels.names == ["background", "foreground"]
    assert labels.mapping is not None
    assert [labels.mapping[value] for value in (0, 127, 128, 255)] == [0, 0, 1, 1]


def test_soft_edges_of_colours_are_no_classes(tmp_path: Path) -> None:
    mask = np.zeros((64, 64, 3), np.uint8)
    cv2.circle(mask, (20, 20), 15, RED, -1, cv2.LINE_AA)
    cv2.circle(mask, (44, 44), 15, BLUE, -1, cv2.LINE_AA)
    listed = [NamedClass("none", color=BLACK), NamedClass("red", color=RED), NamedClass("blue", color=BLUE)]
    with pytest.raises(
        DataError, match=r"colours in masks stand on edges .* Solid are \[0, 0, 0\], \[0, 0, 255\], \[255"
    ):
        chosen(tmp_path, mask, named=listed)


def test_thin_classes_are_classes(tmp_path: Path) -> None:
    mask = np.full((64, 64), 2, np.uint8)
    mask[:32] = 7
    mask[:, 20] = 4  # a pole of one pixel before ground and sky
    mask[10:14, 40:44] = 5
    assert len(chosen(tmp_path, mask, named=[]).names) == 4


def test_colours_that_number_objects_are_no_classes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    masks = [colored(*map(tuple, random.integers(1, 255, (5, 3)).tolist())) for _ in range(5)]
    with pytest.raises(
        DataError, match=r"25 of 25 colours stand in one mask only, .* panoptic PNGs do \(id = R \+ 256 G"
    ):
        chosen(tmp_path, *masks)
    assert len(chosen(tmp_path, *masks, mask_format="colors").names) == 25


def test_pictures_are_no_masks(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    with pytest.raises(DataError, match=r"0.png: .* more than 256 values"):
        chosen(tmp_path, noise)
    with pytest.raises(DataError, match="the masks hold 0 and no second class"):
        chosen(tmp_path, ids(0, 0))


def test_damaged_and_jpeg_masks_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"none")
    Image.fromarray(ids(0, 1)).save(tmp_path / "good.png")
    with pytest.raises(DataError, match=r"1 masks cannot be used:\n  .*bad.png"):
        survey([tmp_path / "good.png", tmp_path / "bad.png"], lambda done: None)
    Image.fromarray(ids(0, 1)).save(tmp_path / "lossy.jpg")
    with pytest.raises(DataError, match=r"lossy.jpg: JPEG masks: their compression changes ids"):
        survey([tmp_path / "lossy.jpg"], lambda done: None)
