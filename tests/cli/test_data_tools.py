"""The tools for data sets as a person meets them: what they write, what they say, how they end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from segkit.cli import browse, check_data, init_dataset, make_splits, train
from segkit.cli.init_dataset import with_folder_key
from segkit.commands import setup_summary
from segkit.commands.data_check import SOFT_EDGES, unfit_masks
from segkit.data.datasets.folder import Folder
from tests.conftest import Ended, run, summary
from tests.data.written import write_pair

Call = Callable[..., Ended]
TINY = (
    "backbone=timm backbone.name=test_resnet model/head=fcn model.head.channels=16 trainer.batch_size=2 "
    "trainer.max_epochs=null trainer.max_steps=1 trainer.num_threads=1 tracker=none"
).split()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six training samples of three classes and three for validation, in folders."""
    for number in range(9):
        split = "train" if number < 6 else "val"
        write_pair(tmp_path / "data", f"{split}/images/p{number % 3}_{number}.png",
                   f"{split}/masks/p{number % 3}_{number}.png", number, ids=(0, 1, 2, 255), size=32)  # fmt: skip
    return tmp_path / "data"


def folder(data: Path) -> list[str]:
    return ["dataset=folder", f"dataset.root={data}", "dataset.num_classes=3", "dataset.crop_size=32"]


def report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_check_data_counts_a_sound_data_set(call: Call, data: Path, tmp_path: Path):
    done = call(check_data.main, *folder(data), "output=report")
    assert done.returncode == 0, done.stderr
    found = report(tmp_path / "report")
    assert found["sound"] is True
    # Four stripes of 8 rows in 32x32: 256 pixels each, the last of them ignored.
    assert found["splits"]["train"]["pixels"] == [6 * 256] * 3
    assert found["splits"]["val"]["images"] == [3, 3, 3]
    assert found["splits"]["train"]["ignored_pixels"] == 6 * 256
    assert found["splits"]["train"]["sizes"] == {"32x32": 6}
    assert found["class_weights"]["inverse"] == [1.0, 1.0, 1.0]
    assert set(found["absent"]) == {"test"}
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page.replace("http-equiv", "")


def test_check_data_names_every_fault_and_ends_with_2(call: Call, data: Path, tmp_path: Path):
    shutil.copy(data / "train" / "images" / "p0_0.png", data / "val" / "images" / "p0_6.png")  # a leak
    shutil.copy(data / "train" / "images" / "p1_1.png", data / "train" / "images" / "p2_2.png")  # twice in a split
    (data / "train" / "images" / "p0_3.png").write_bytes(b"torn")
    (data / "train" / "masks" / "p1_4.png").unlink()
    Image.fromarray(np.full((32, 32), 9, np.uint8)).save(data / "train" / "masks" / "p2_5.png")
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(data / "val" / "masks" / "p1_7.png")
    smooth = np.tile(np.arange(32, dtype=np.uint8), (32, 1))  # what resizing with interpolation makes of edges
    Image.fromarray(smooth).save(data / "train" / "masks" / "p0_3.png")
    Image.fromarray(np.full((8, 8), 0, np.uint8)).save(data / "val" / "masks" / "p2_8.png")
    done = call(check_data.main, *folder(data), "output=report")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "7 findings that have to be mended" in done.stderr
    assert "report.html" in done.stderr
    faults = report(tmp_path / "report")["faults"]
    places = "\n".join(place for found in faults.values() for place in found)
    for name in ("p0_3.png", "p1_4.png", "p2_5.png: 9", "p1_7.png", "p2_8.png"):
        assert name in places, name
    leak = faults["images that stand in more than one split, so that scores flatter"]
    assert leak == ["train/images/p0_0.png = val/images/p0_6.png"]
    remarks = report(tmp_path / "report")["remarks"]
    assert remarks["images that stand more than once in a split"] == ["train/images/p1_1.png = train/images/p2_2.png"]
    (picture,) = remarks["masks that look like pictures, or like masks resized or compressed with loss"]
    assert picture == "train/masks/p0_3.png: 29 values that are no classes"
    assert "p1_4.png" in (tmp_path / "report" / "report.html").read_text()


def test_check_data_leaves_the_data_set_alone(call: Call, data: Path):
    before = sorted(data.rglob("*"))
    for path in [data, *before]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert call(check_data.main, *folder(data)).returncode == 0
        assert sorted(data.rglob("*")) == before
    finally:
        for path in [data, *before]:
            path.chmod(0o755)


def test_make_splits_writes_lists_that_training_takes(call: Call, data: Path, tmp_path: Path):
    done = call(make_splits.main, *folder(data), "output=lists", "folds=3", "group_pattern='p\\d'")
    assert done.returncode == 0, done.stderr
    lists = [(tmp_path / "lists" / f"fold_{fold}.txt").read_text().split() for fold in range(3)]
    assert sorted(len(names) for names in lists) == [3, 3, 3]
    for names in lists:  # one patient each
        assert len({Path(name).name[:2] for name in names}) == 1
    made = json.loads((tmp_path / "lists" / "splits.json").read_text())
    assert made["samples"] == {"fold_0": 3, "fold_1": 3, "fold_2": 3}
    assert made["group_pattern"] == "p\\d"
    assert made["dataset"]["digest"]

    run_folder = tmp_path / "run"
    arguments = ["split=kfold", "split.folds=3", "split.fold=2", "split.folder=lists"]
    done = call(train.main, *folder(data), *TINY, *arguments, f"hydra.run.dir={run_folder}",
                "loss.class_weights=median", "trainer.log_sample_ids=true")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = [row for row in map(json.loads, (run_folder / "metrics.jsonl").open()) if row["kind"] == "train"]
    assert not set(line["sample_ids"]) & set(lists[2])
    from segkit.experiment.trained_experiment import of_checkpoint

    trained = of_checkpoint(run_folder)
    assert trained.resolved.split_digest
    assert trained.resolved.class_weights == {"loss.class_weights": [1.0, 1.0, 1.0]}
    assert trained.recipe.values["loss"]["class_weights"] == "median"


def test_make_splits_replaces_no_lists(call: Call, data: Path, tmp_path: Path):
    arguments = [*folder(data), "output=lists", "folds=null", "val_share=0.3", "test_share=0.2"]
    assert call(make_splits.main, *arguments).returncode == 0
    sizes = {path.stem: len(path.read_text().split()) for path in (tmp_path / "lists").glob("*.txt")}
    assert sizes == {"train": 4, "val": 3, "test": 2}
    done = call(make_splits.main, *arguments)
    assert done.returncode == 2
    assert "output=lists: has lists already" in done.stderr


def test_browse_draws_a_sheet(call: Call, data: Path, tmp_path: Path):
    done = call(browse.main, *folder(data), "transform=default", "output=sheet.png", "samples=2", "variants=3")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "sheet.png") as sheet:
        # Two plain columns and three versions, each of 260 pixels with gaps of 8.
        assert sheet.size[0] == 8 + 5 * 268
        colors = sheet.convert("RGB").getcolors(10**6)
    assert colors is not None
    assert len(colors) > 100


def test_after_init_dataset_every_command_works(call: Call, tmp_path: Path):
    root = tmp_path / "my data, new"
    for number in range(10):
        write_pair(root, f"{number}.jpg", f"{number}_mask.png", number, ids=(0, 255), size=32)
    done = call(init_dataset.main, str(root), "output=mine", "name=new_one", "lr=0.002", "batch_size=3", "epochs=7")
    assert done.returncode == 0, done.stderr
    node = yaml.safe_load((tmp_path / "mine" / "dataset" / "new_one.yaml").read_text())
    assert node["class_names"] == ["background", "foreground"]
    assert node["class_mapping"] == {0: 0, 255: 1}
    assert (node["crop_size"], node["epochs"], node["in_channels"]) == (32, 7, 3)
    assert all(0 < value < 1 for value in node["data_mean"] + node["data_std"])
    assert node["mean"] is node["std"] is None  # which would win over what pretrained weights were trained with
    experiment = yaml.safe_load((tmp_path / "mine" / "experiment" / "new_one.yaml").read_text())
    assert experiment["optimizer"]["lr"] == 0.002
    assert experiment["trainer"]["batch_size"] == 3
    with Image.open(tmp_path / "mine" / "dataset" / "new_one.png") as picture:
        assert picture.size[0] == 8 + 2 * 268  # an image and its mask beside each other
    rows = (tmp_path / "mine" / "dataset" / "new_one.csv").read_text().splitlines()
    assert sum(row.endswith(",val") for row in rows) == 2
    own = ["--config-dir", "mine"]
    done = call(check_data.main, *own, "dataset=new_one")
    assert done.returncode == 0, done.stderr
    done = call(make_splits.main, *own, "dataset=new_one", "output=lists", "folds=null")
    assert done.returncode == 0, done.stderr
    for number, split in enumerate([[], ["split=kfold", "split.folds=2"]]):
        done = call(train.main, *own, "experiment=new_one", *TINY, *split, f"hydra.run.dir=run{number}")
        assert done.returncode == 0, done.stderr
        assert summary(tmp_path / f"run{number}")["status"] == "completed"


def test_init_dataset_says_what_it_found_and_chose(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    monkeypatch.setattr(setup_summary.CONSOLE, "print", lambda text, **style: said.append(str(text).rstrip()))
    for number in range(4):
        write_pair(tmp_path / "data", f"images/{number}.jpg", f"masks/{number}.png", number, ids=(0, 1, 2), size=32)
    write_pair(tmp_path / "data", "images/alone.jpg", "else/x.png", 0)
    (tmp_path / "data" / "train.txt").write_text("0\n1\n2\n")
    (tmp_path / "data" / "val.txt").write_text("3\n")
    (tmp_path / "data" / "classes.json").write_text('{"road": 1, "car": 2}')
    done = call(init_dataset.main, "data", "output=mine")
    assert done.returncode == 0, done.stderr
    assert said[:9] == [
        "found    images and masks in images/, masks/, lists in ./ (train 3, val 1)",
        "         2 files without a mask, such as else/x.png",
        "names    2 classes are listed in classes.json",
        "masks    masks of ids 0..2",
        "         ids without a listed name: 0, such as in 0.png",
        "classes  3: class_0, road, car",
        "samples  train 3, val 1",
        "training crops of 32, 300 epochs",
        "a pair   images/0.jpg + masks/0.png",
    ]
    assert said[-1] == "\nnext:  python train.py --config-dir mine experiment=data"


def test_init_dataset_reads_many_channels_and_asks_about_four(call: Call, tmp_path: Path):
    for folder, channels in (("five", 5), ("four", 4), ("grey", 1)):
        for number in range(4):
            write_pair(tmp_path / folder, "x.png", f"masks/{number}.png", number, size=16)
            (tmp_path / folder / "images").mkdir(exist_ok=True)
            pixels = np.random.default_rng(number).random((16, 16, channels), np.float32)
            np.save(tmp_path / folder / "images" / f"{number}.npy", pixels if channels > 1 else pixels[..., 0])
    done = call(init_dataset.main, "five", "output=mine")
    assert done.returncode == 0, done.stderr
    node = yaml.safe_load((tmp_path / "mine" / "dataset" / "five.yaml").read_text())
    assert (node["in_channels"], len(node["data_mean"]), len(node["data_std"])) == (5, 5, 5)
    done = call(init_dataset.main, "four", "output=mine")
    assert done.returncode == 2
    assert "0.npy has 4" in done.stderr
    assert "give in_channels=4 to read all, or in_channels=3" in done.stderr
    assert call(init_dataset.main, "four", "output=mine", "in_channels=4").returncode == 0
    assert call(init_dataset.main, "grey", "output=mine").returncode == 0
    assert yaml.safe_load((tmp_path / "mine" / "dataset" / "grey.yaml").read_text())["in_channels"] == 3


def test_voc_in_its_official_layout_keeps_its_classes(call: Call, tmp_path: Path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for number in range(4):
        name = f"2007_00000{number}"
        for folder in ("SegmentationClass", "SegmentationObject"):
            write_pair(root, f"JPEGImages/{name}.jpg", f"{folder}/{name}.png", number, ids=(0, 8, 15, 255), size=32)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, numbers in (("train", "01"), ("val", "2"), ("trainval", "012")):
        text = "".join(f"2007_00000{number}\n" for number in numbers)
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(text)
    for folder, name in ((tmp_path / "VOCdevkit", "devkit"), (root, "voc2012")):
        done = call(init_dataset.main, str(folder), "output=mine", f"name={name}")
        assert done.returncode == 0, done.stderr
        text = (tmp_path / "mine" / "dataset" / f"{name}.yaml").read_text()
        assert "num_classes" not in text if name == "voc2012" else "diningtable" in text
        done = call(check_data.main, "--config-dir", "mine", f"dataset={name}", f"output={name}")
        assert done.returncode == 0, done.stderr
        found = report(tmp_path / name)
        # 16 of 32 rows hold ids 0 and 8, 8 rows 15, and 8 the ignored 255.
        assert found["classes"][8] == "cat"
        assert found["classes"][15] == "person"
        assert found["splits"]["train"]["pixels"][8] == found["splits"]["train"]["pixels"][15] == 2 * 256
        assert found["splits"]["val"]["samples"] == 1


def test_init_dataset_reads_palettes_that_differ_by_their_listed_colours(call: Call, tmp_path: Path):
    colors = {0: (9, 9, 9), 1: (200, 0, 0), 2: (0, 0, 200)}
    for number in range(4):
        write_pair(tmp_path / "data", f"images/{number}.jpg", f"masks/{number}.png", number, size=16)
        order = [0, 1, 2] if number % 2 else [2, 0, 1]  # the colour of each index
        mask = Image.fromarray(np.repeat(np.array([[0], [1], [2], [1]], np.uint8), 4, 0).repeat(16, 1)).convert("P")
        mask.putpalette([channel for index in order for channel in colors[index]])
        mask.save(tmp_path / "data" / "masks" / f"{number}.png")
    done = call(init_dataset.main, "data", "output=mine")
    assert done.returncode == 2
    assert "the palettes of the masks differ: 0 is" in done.stderr
    (tmp_path / "data" / "class_dict.csv").write_text("name,r,g,b\na,9,9,9\nb,200,0,0\nc,0,0,200\n")
    done = call(init_dataset.main, "data", "output=mine")
    assert done.returncode == 0, done.stderr
    node = yaml.safe_load((tmp_path / "mine" / "dataset" / "data.yaml").read_text())
    assert (node["mask_format"], node["class_names"]) == ("colors", ["a", "b", "c"])
    shutil.copytree(tmp_path / "data", tmp_path / "split" / "train")
    keys = ["dataset=folder", "dataset.root=split", "dataset.num_classes=3"]
    done = call(check_data.main, *keys)
    assert done.returncode == 2
    assert "masks whose palettes differ" in done.stderr
    assert call(check_data.main, *keys, "dataset.class_mapping={0: 0, 1: 1, 2: 2}").returncode == 0


def test_check_data_finds_masks_with_soft_edges(tmp_path: Path):
    for number in range(3):
        write_pair(tmp_path, f"train/images/{number}.png", f"train/masks/{number}.png", number, size=64)
        ramp = np.repeat(np.array([0] * 29 + [40, 80, 120, 160, 200, 240] + [255] * 29, np.uint8)[None], 64, 0)
        Image.fromarray(ramp).save(tmp_path / "train" / "masks" / f"{number}.png")
    source = Folder(split="train", root=str(tmp_path), num_classes=256, ignore_index=999)
    assert unfit_masks(source) == {
        SOFT_EDGES: f"{tmp_path / 'train' / 'masks' / '0.png'}: 40, 80, 120; 6 of 8 values"
    }  # fmt: skip


def test_make_splits_on_a_flat_folder_says_what_works(call: Call, tmp_path: Path):
    for number in range(4):
        write_pair(tmp_path / "flat", f"images/{number}.jpg", f"masks/{number}.png", number, size=16)
    done = call(make_splits.main, "dataset=folder", "dataset.root=flat", "dataset.num_classes=2", "output=lists")
    assert done.returncode == 2
    assert done.stderr.strip().endswith("python scripts/init_dataset.py flat")
    assert call(init_dataset.main, "flat", "output=mine").returncode == 0
    done = call(make_splits.main, "--config-dir", "mine", "dataset=flat", "output=lists", "folds=2")
    assert done.returncode == 0, done.stderr
    assert sum(len((tmp_path / "lists" / f"fold_{fold}.txt").read_text().split()) for fold in (0, 1)) == 4


def test_a_known_data_set_keeps_its_official_classes(call: Call, tmp_path: Path):
    for number, split in enumerate(["train", "train", "val"]):
        name = f"{split}/aachen/aachen_{number}"
        write_pair(tmp_path / "cs", f"leftImg8bit/{name}_leftImg8bit.png", f"gtFine/{name}_gtFine_labelIds.png",
                   number, ids=(0, 7, 26), size=64)  # fmt: skip
    done = call(init_dataset.main, "cs", "output=mine", "name=streets")
    assert done.returncode == 0, done.stderr
    done = call(train.main, "--config-dir", "mine", "experiment=streets", *TINY, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    from segkit.experiment.trained_experiment import of_checkpoint

    trained = of_checkpoint(tmp_path / "run")
    assert trained.labels.names[:2] == ("road", "sidewalk")
    assert trained.recipe.values["dataset"]["crop_size"] == 64


def test_init_dataset_replaces_nothing_unasked(call: Call, data: Path, tmp_path: Path):
    assert call(init_dataset.main, str(data), "output=mine").returncode == 0
    first = (tmp_path / "mine" / "dataset" / "data.yaml").read_text()
    done = call(init_dataset.main, str(data), "output=mine")
    assert done.returncode == 2
    assert "data.yaml exists already" in done.stderr
    assert call(init_dataset.main, f"folder={data}", "output=mine", "overwrite=true").returncode == 0
    assert (tmp_path / "mine" / "dataset" / "data.yaml").read_text() == first
    done = call(init_dataset.main, str(data), "output=mine", "name=camvid")
    assert "segkit has a dataset option of this name" in done.stderr


@pytest.mark.parametrize(
    ("main", "arguments", "says"),
    [
        (check_data.main, [], "dataset: missing"),
        (check_data.main, ["dataset=folder", "dataset.root=nowhere", "dataset.num_classes=2"], "there is no folder"),
        (check_data.main, ["dataset=shapes", "colour=red"], "nothing reads this key"),
        (make_splits.main, ["dataset=shapes"], "output: missing"),
        (make_splits.main, ["dataset=shapes", "output=x", "folds=1"], "folds"),
        (make_splits.main, ["dataset=shapes", "output=x", "folds=null", "val_share=0.6", "test_share=0.5"], "leave"),
        (browse.main, ["split=never"], "split"),
        (browse.main, ["dataset=folder", "dataset.root=nowhere", "dataset.num_classes=2"], "there is no folder"),
        (init_dataset.main, [], "folder: missing"),
        (init_dataset.main, ["nowhere"], "there is no such folder"),
        (init_dataset.main, [".", "name=a b"], "name"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    call: Call, main: Callable[[], None], arguments: list[str], says: str
):
    done = call(main, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plain_path_is_the_folder():
    assert with_folder_key(["/data/x"]) == ["folder='/data/x'"]
    assert with_folder_key(["name=a", "--config-dir", "c", "./my data, é=1"]) == [
        "name=a", "--config-dir", "c", "folder='./my data, é=1'"
    ]  # fmt: skip
    assert with_folder_key(["it's"]) == ["folder='it\\'s'"]
    assert with_folder_key(["folder=x", "--help"]) == ["folder=x", "--help"]


@pytest.mark.parametrize("script", ["check_data", "init_dataset"])
def test_help_explains_itself_within_80_columns(tmp_path: Path, script: str):
    done = run("--help", cwd=tmp_path, script=f"scripts/{script}.py", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    head = done.stdout.partition("Keys and their defaults")[0]
    assert "usage: python scripts/" in head
    assert max(map(len, head.splitlines())) <= 80
    assert "torch" not in {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
