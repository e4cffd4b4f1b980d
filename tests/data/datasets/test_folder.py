from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segkit.contracts import DataError, SampleSource, UserError
from segkit.data.datasets.folder import Folder


def write(path: Path, array: np.ndarray[Any, Any], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def image(height: int = 4, width: int = 6) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def mask(*ids: int, height: int = 4, width: int = 6, dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    return np.resize(np.array(ids or (0, 1), dtype), (height, width))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sound data set of three training samples and one for validation."""
    root = tmp_path / "data"
    for split, names in (("train", "abc"), ("val", "d")):
        for name in names:
            write(root / split / "images" / f"{name}.png", image())
            write(root / split / "masks" / f"{name}.png", mask())
    return root


def folder(root: Path, **keys: Any) -> Folder:
    return Folder(**{"split": "train", "num_classes": 2, "root": str(root), **keys})


def faults(root: Path, **keys: Any) -> str:
    with pytest.raises(DataError) as error:
        folder(root, **keys).check()
    return str(error.value)


def test_is_a_sample_source_in_order_of_names(root: Path) -> None:
    source = folder(root)
    source.check()
    assert isinstance(source, SampleSource)
    assert [source.read(index).id for index in range(len(source))] == [f"train/images/{name}.png" for name in "abc"]
    sample = source.read(0)
    assert np.array_equal(sample.image, image())
    assert np.array_equal(sample.mask, mask())


def test_splits_may_have_other_names(root: Path) -> None:
    (root / "train").rename(root / "training")
    assert len(folder(root, train_split="training")) == 3


@pytest.mark.parametrize("stem", ["with space", "地図", "ünï", "a.b", "sub/folder/x", "#[1]"])
def test_any_name_works(root: Path, stem: str) -> None:
    write(root / "val" / "images" / f"{stem}.JPG", image())
    write(root / "val" / "masks" / f"{stem}.PNG", mask())
    source = folder(root, split="val")
    source.check()
    assert f"val/images/{stem}.JPG" in [source.read(index).id for index in range(2)]


def test_one_name_spelled_in_two_ways_matches(root: Path) -> None:
    write(root / "val" / "images" / "e\u0301.png", image())
    write(root / "val" / "masks" / "\u00e9.png", mask())
    folder(root, split="val").check()
    assert len(folder(root, split="val")) == 2


def test_other_files_are_no_samples(root: Path) -> None:
    (root / "train/images/Thumbs.db").write_text("x")
    (root / "train/images/._a.png").write_text("x")
    folder(root).check()
    assert len(folder(root)) == 3


def test_links_are_followed_but_not_in_circles(root: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/images/z.png", image())
    write(tmp_path / "elsewhere/masks/z.png", mask())
    for part in ("images", "masks"):
        (root / "val" / part / "more").symlink_to(tmp_path / "elsewhere" / part)
        (tmp_path / "elsewhere" / part / "circle").symlink_to(root / "val" / part)
    source = folder(root, split="val")
    source.check()
    assert [source.read(index).id for index in range(len(source))] == [
        "val/images/d.png",
        "val/images/more/z.png",
    ]


def test_mappings_apply_and_16_bit_ids_fit(root: Path) -> None:
    write(root / "val/masks/d.png", mask(1000, 7, dtype=np.uint16))
    source = folder(root, split="val", class_mapping={7: 0, 1000: 1})
    source.check()
    sample = source.read(0)
    assert sample.mask.dtype == np.uint8
    assert np.array_equal(sample.mask, mask(1, 0))


def test_a_sound_data_set_needs_no_writable_root(root: Path) -> None:
    for path in [root, *root.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    source = folder(root, cache_dir=str(root / "cache"))
    source.check()
    assert len(source.identity()["digest"]) == 64


def test_identity_follows_the_list_of_files(root: Path) -> None:
    before = folder(root).identity()
    assert before["samples"] == "3"
    assert folder(root).identity() == before
    (root / "train/images/a.png").rename(root / "train/images/A.png")
    (root / "train/masks/a.png").rename(root / "train/masks/A.png")
    assert folder(root).identity()["digest"] != before["digest"]


@pytest.mark.parametrize(
    ("gone", "looked_for", "beside"),
    [(".", "data", "nothing in it"), ("train", "train", "val/"), ("train/masks", "train/masks", "images/")],
)
def test_a_missing_folder_is_told_with_its_neighbours(root: Path, gone: str, looked_for: str, beside: str) -> None:
    (root / gone).rename(root.parent.parent / f"{root.parent.name}-moved")
    with pytest.raises(UserError, match=rf"dataset\.root=.*there is no folder .*{looked_for}.*{beside}"):
        folder(root)


def test_a_missing_split_names_the_key_that_renames_it(root: Path) -> None:
    with pytest.raises(UserError, match=r"has train/, val/; dataset\.test_split names it"):
        folder(root, split="test")


def test_no_images_at_all(root: Path) -> None:
    for path in (root / "train/images").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"no images in .*train/images; looked for \.bmp"):
        folder(root)


def test_images_come_with_the_channels_asked_for(root: Path) -> None:
    source = folder(root, in_channels=1, mean=[0.5], std=[0.5])
    source.check()
    assert source.read(0).image.shape == (4, 6, 1)
    with pytest.raises(DataError, match=r"3 images of another number of channels than dataset\.in_channels=5:\n"):
        folder(root, in_channels=5, mean=[0.5] * 5, std=[0.5] * 5).check()


def test_missing_partners_are_listed(root: Path) -> None:
    (root / "train/masks/a.png").unlink()
    (root / "train/images/c.png").unlink()
    message = faults(root)
    assert "1 images without a mask of the same name:\n  train/images/a.png" in message
    assert "1 masks without an image of the same name:\n  train/masks/c.png" in message


def test_two_images_of_one_name_are_listed(root: Path) -> None:
    write(root / "train/images/a.jpg", image())
    assert "1 names given to two files:\n  train/images/a.jpg, train/images/a.png" in faults(root)


def test_sizes_that_differ_are_listed(root: Path) -> None:
    write(root / "train/masks/b.png", mask(height=5, width=6))
    assert "  train/masks/b.png: 6x5, its image 6x4" in faults(root)


def test_colour_masks_are_listed(root: Path) -> None:
    write(root / "train/masks/b.png", image())
    assert (
        "1 masks stored as RGB instead of one class id a pixel; for class colours set\n"
        "dataset.mask_format=colors:\n  train/masks/b.png"
    ) in faults(root)


def test_jpeg_masks_are_listed(root: Path) -> None:
    (root / "train/masks/b.png").unlink()
    write(root / "train/masks/b.jpg", mask())
    assert "1 JPEG masks: their compression changes ids; use PNG or TIFF:\n  train/masks/b.jpg" in faults(root)


def test_damaged_files_are_listed(root: Path) -> None:
    for name in ("images/a.png", "masks/b.png"):
        content = (root / "train" / name).read_bytes()
        (root / "train" / name).write_bytes(content[: len(content) // 2])
    message = faults(root)
    assert "1 not an image, or damaged or cut off:\n  train/images/a.png" in message
    assert "1 not a PNG, TIFF, BMP or NPY mask, or damaged or cut off:\n  train/masks/b.png" in message


def test_ids_that_are_no_class_are_listed(root: Path) -> None:
    write(root / "train/masks/b.png", mask(0, 2, 9))
    assert "1 masks with ids that are no class; allowed: 0..1, 255:\n  train/masks/b.png: 2, 9" in faults(root)


def test_ids_without_a_mapping_are_listed(root: Path) -> None:
    assert "allowed: 5, 255:\n  train/masks/a.png: 0, 1" in faults(root, class_mapping={5: 0})


def test_0_255_masks_bring_the_remedy(root: Path) -> None:
    for name in "abc":
        write(root / f"train/masks/{name}.png", mask(0, 255))
    # As ids they would be class 0 and ignored pixels, which trains nothing; or out of range.
    for ignore_index in (255, 254):
        assert "dataset.class_mapping={0: 0, 255: 1}" in " ".join(faults(root, ignore_index=ignore_index).split())
    folder(root, class_mapping={0: 0, 255: 1}).check()


def test_long_lists_are_cut(root: Path) -> None:
    for index in range(24):
        write(root / f"train/images/x{index:02d}.png", image())
    message = faults(root)
    assert "24 images without a mask" in message
    assert message.count("train/images/x") == 20
    assert message.endswith("  ... and 4 more")


def test_the_report_fits_80_columns(root: Path) -> None:
    for name in "abc":
        write(root / f"train/masks/{name}.png", mask(0, 255))
    assert all(len(line) <= 80 for line in faults(root).splitlines()[1:])


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "damaged or cut off"), (None, "cannot be read: No such file or directory")],
)
def test_files_that_go_bad_later_are_named(root: Path, content: bytes | None, problem: str) -> None:
    source = folder(root)
    source.check()
    path = root / "train/masks/b.png"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"train/masks/b\.png: .*{problem}"):
        source.read(1)


def test_ids_and_sizes_that_go_bad_later_are_named(root: Path) -> None:
    source = folder(root)
    write(root / "train/masks/a.png", mask(0, 7))
    write(root / "train/masks/b.png", mask(height=2, width=2))
    with pytest.raises(DataError, match=r"train/masks/a\.png: has ids 7; allowed: 0\.\.1, 255"):
        source.read(0)
    with pytest.raises(DataError, match=r"train/masks/b\.png: 2x2, but its image is 6x4"):
        source.read(1)


@pytest.mark.slow
@pytest.mark.skipif("SEGKIT_CAMVID" not in os.environ, reason="SEGKIT_CAMVID names no folder with CamVid")
def test_camvid_is_sound_and_counts_as_published() -> None:
    """Pixel counts of the 367 training and 101 validation masks, by id."""
    counts = np.zeros(12, np.int64)
    for split, samples in (("train", 367), ("val", 101)):
        source = folder(Path(os.environ["SEGKIT_CAMVID"]), split=split, num_classes=11, ignore_index=11)
        source.check()
        assert len(source) == samples
        for index in range(samples):
            counts += np.bincount(source.read(index).mask.ravel(), minlength=12)
    assert counts.tolist() == [
        *(12284387, 19281259, 721848, 25130056, 4366836, 9017887),
        *(899583, 1251792, 4024593, 518916, 571977, 2801266),
    ]


def test_colour_coded_masks_are_read_through_the_palette(root: Path) -> None:
    colors = [[10, 20, 30], [200, 0, 0]]
    painted = np.array([*colors, [0, 0, 0]], np.uint8)[np.resize([0, 1, 2], (4, 6))]
    for name in "abc":
        write(root / f"train/masks/{name}.png", painted)
    keys = {"mask_format": "colors", "colors": colors, "ignore_colors": [[0, 0, 0]]}
    source = folder(root, **keys)
    source.check()
    assert source.read(0).mask[0].tolist() == [0, 1, 255, 0, 1, 255]
    unknown = painted.copy()
    unknown[0, :3] = (1, 2, 3)
    write(root / "train/masks/b.png", unknown)
    assert "1 masks with colours that are no class's:\n  train/masks/b.png: [1, 2, 3] in 3 pixels" in faults(
        root, **keys
    )
    with pytest.raises(
        DataError, match=r"train/masks/b\.png: masks with colours that are no class's: \[1, 2, 3\] in 3"
    ):
        folder(root, **keys).read(1)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"colors": [[1, 1, 1], [1, 1, 1]]}, r"dataset\.colors: \[1, 1, 1\] stands for two classes"),
        ({"ignore_colors": [[128, 0, 0]]}, r"\[128, 0, 0\] stands for two classes"),
        ({"ignore_colors": [[0, 0]]}, r"dataset\.ignore_colors has \[0, 0\]; allowed: three"),
        ({"class_mapping": {0: 1}}, r"dataset\.class_mapping is for masks of ids"),
        ({"multilabel": True}, r"dataset\.multilabel is for masks of ids"),
        ({"mask_format": "ids", "ignore_colors": [[1, 1, 1]]}, r"ignore_colors is for dataset\.mask_format=colors"),
    ],
)
def test_contradictions_about_colours_are_told(root: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        folder(root, **{"mask_format": "colors", **keys})


def test_layers_are_read_and_checked_like_ids(root: Path) -> None:
    layers = np.zeros((4, 6, 2), np.uint8)
    layers[0, 0], layers[0, 1] = (1, 1), (255, 0)
    for name in "abc":
        (root / f"train/masks/{name}.png").unlink()
        np.save(root / f"train/masks/{name}.npy", layers)
    source = folder(root, multilabel=True)
    source.check()
    assert np.array_equal(source.read(0).mask, layers)
    np.save(root / "train/masks/b.npy", layers + 1)
    np.save(root / "train/masks/c.npy", layers[..., :1])
    message = faults(root, multilabel=True)
    assert "1 masks with ids that are no class; allowed: 0..1, 255:\n  train/masks/b.npy: 2" in message
    assert "  train/masks/c.npy: 1 channels" in message
    np.save(root / "train/masks/c.npy", layers)
    np.save(root / "train/masks/b.npy", layers // 255 * 255)
    folder(root, multilabel=True, class_mapping={0: 0, 1: 1, 255: 1}).check()


def test_a_mask_drawn_before_exif_turned_its_image_is_told_so(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image()).save(root / "train/images/b.jpg", exif=exif)
    (root / "train/images/b.png").unlink()
    message = faults(root)
    assert "train/masks/b.png: 6x4, its image 4x6 once turned as its EXIF orientation says; turn the mask" in message
    write(root / "train/masks/b.png", mask(height=6, width=4))
    folder(root).check()


def test_a_second_start_reads_no_file(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(root, cache_dir=str(tmp_path / "cache")).check()
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"reads {path}"))
    source = folder(root, cache_dir=str(tmp_path / "cache"))
    source.check()
    assert len(source) == 3
