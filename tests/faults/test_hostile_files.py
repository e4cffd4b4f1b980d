"""Files that somebody else made: nothing in them runs, leads elsewhere, fills the memory or reaches the terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import segkit
from segkit.cli import evaluate, predict, train
from segkit.config.findings import ConfigError
from segkit.config.trust import check_trusted
from segkit.contracts import DataError, LabelSpace, UserError
from segkit.data.datasets.csv_table import CsvTable
from segkit.data.datasets.folder import Folder
from segkit.data.datasets.split_lists import SplitLists
from segkit.data.discovery.class_names import find_class_names
from segkit.data.files.bounded import UnusableError
from segkit.data.files.decode import read_color_mask, read_image, read_layers, read_mask
from segkit.data.files.inspection import Facts, inspected
from segkit.models.backbones.mix_transformer import MixTransformer
from segkit.models.backbones.timm_models import build
from segkit.reporting.panels import PanelRow, panel
from segkit.run import checkpoint
from tests.conftest import REPOSITORY, TINY, Ended
from tests.data.written import write_pair
from tests.faults import hostile

HOSTILE = Path(__file__).with_name("hostile.py")
FORMS = sorted(hostile.pickles(hostile.Trap(Path("/nowhere"))))


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """The file that a trap makes."""
    return tmp_path / "sprung"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images and their masks."""
    for name in ("a", "b"):
        write_pair(tmp_path / "data", f"images/{name}.png", f"masks/{name}.png", 0)
    return tmp_path / "data"


def offered(form: str, sprung: Path, suffix: str) -> Path:
    path = sprung.with_name(f"offered{suffix}")
    path.write_bytes(hostile.pickles(hostile.Trap(sprung))[form])
    return path


class TestPickles:
    def test_the_trap_works(self, sprung: Path) -> None:
        import pickle

        pickle.loads(offered("protocol 2", sprung, ".pt").read_bytes())
        assert sprung.exists()

    @pytest.mark.parametrize("form", FORMS)
    def test_as_checkpoint(self, form: str, sprung: Path) -> None:
        path = offered(form, sprung, ".pt")
        for read in (checkpoint.read, segkit.load):
            with pytest.raises(UserError, match=r"offered\.pt: "):
                read(path)
        assert not sprung.exists()

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
    def test_as_weights_of_a_backbone(self, form: str, suffix: str, sprung: Path) -> None:
        path = offered(form, sprung, suffix)
        with pytest.raises(UserError, match=r"backbone\.weights=.*offered"):
            build("test_resnet", lambda **keys: pytest.fail("built"), pretrained=False, weights=str(path))
        with pytest.raises(UserError, match=r"backbone\.weights=.*offered"):
            MixTransformer("mit_b0", weights=str(path))
        assert not sprung.exists()

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("suffix", [".npy", ".png", ".tif"])
    def test_as_image_or_mask(self, form: str, suffix: str, sprung: Path) -> None:
        path = offered(form, sprung, suffix)
        for read in (read_image, read_mask, read_color_mask, lambda path: read_layers(path, 3)):
            with pytest.raises(UnusableError):
                read(path)
        assert not sprung.exists()

    @pytest.mark.parametrize("form", FORMS)
    def test_as_list_table_or_class_names(self, form: str, sprung: Path, root: Path) -> None:
        content = hostile.pickles(hostile.Trap(sprung))[form]
        (root / "splits").mkdir()
        for name in ("splits/train.txt", "data.csv", "classes.txt", "classes.json"):
            (root / name).write_bytes(content)
        keys: dict[str, Any] = {"root": str(root), "split": "train", "num_classes": 2}
        with pytest.raises(UserError):
            SplitLists(**keys).check()
        with pytest.raises(UserError):
            CsvTable(**keys)
        with contextlib.suppress(UserError):  # protocol 0 is text, of which no class is made
            find_class_names(root)
        assert not sprung.exists()

    @pytest.mark.parametrize("form", FORMS)
    def test_as_a_cache(self, form: str, sprung: Path, tmp_path: Path) -> None:
        """What a cache holds that is none counts for nothing."""
        from segkit.data.files.file_list import FileList

        (tmp_path / "a.png").touch()
        cache = offered(form, sprung, ".npz")
        found = inspected(FileList(tmp_path, ["a.png"]), lambda path: Facts((3, 4)), cache)
        assert found.facts(0) == Facts((3, 4))
        assert not sprung.exists()


class TestCommands:
    """The commands themselves: exit code 2, one message, nothing run."""

    @pytest.mark.parametrize("form", ["protocol 2", "torch zip", "torch legacy"])
    @pytest.mark.parametrize("main", [evaluate.main, predict.main])
    def test_a_pickle_as_run(
        self, main: Callable[[], None], form: str, sprung: Path, root: Path, call: Callable[..., Ended]
    ) -> None:
        path = offered(form, sprung, ".pt")
        more = [f"input={root / 'images'}", f"output={sprung}.out"] if main is predict.main else []
        ended = call(main, f"run={path}", *more)
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"error: {path}: not a whole segkit checkpoint")
        assert len(ended.stderr.splitlines()) == 1
        assert not sprung.exists()

    def test_a_pickle_as_checkpoint_to_resume(self, sprung: Path, tmp_path: Path, call: Callable[..., Ended]) -> None:
        path = offered("torch zip", sprung, ".pt")
        ended = call(train.main, *TINY, "tracker=none", f"hydra.run.dir={tmp_path / 'run'}", f"resume={path}")
        assert ended.returncode == 2
        assert ended.stderr.splitlines()[-1].startswith(f"error: {path}: not a whole segkit checkpoint")
        assert "Traceback" not in ended.stderr
        assert not sprung.exists()

    @pytest.mark.parametrize("node", ["dataset", "model", "loss", "predictor", "split"])
    def test_a_stored_config_that_names_code(
        self, node: str, finished: Path, sprung: Path, call: Callable[..., Ended]
    ) -> None:
        path = with_config(finished, sprung, {node: {"_target_": "os.system", "command": f"touch {sprung}"}})
        ended = call(evaluate.main, f"run={path}")
        assert ended.returncode == 2
        assert f"{node}._target_=os.system in the stored config is not allowed" in ended.stderr
        assert not sprung.exists()

    def test_a_stored_config_names_no_files_of_weights(self, finished: Path, sprung: Path) -> None:
        options = {"checkpoint_path": str(sprung), "pretrained_cfg_overlay": {"file": str(sprung)}}
        stored = checkpoint.read(finished / "checkpoints" / "last.pt")
        model = stored["config"]["model"]
        model["backbone"] |= {"options": options, "weights": str(sprung), "pretrained": True}
        assert segkit.load(with_config(finished, sprung, {"model": model})).labels.num_classes == 7

    @pytest.mark.parametrize("text", ["[" * 100_000, "null", "3", '{"dataset": 3}', None, 3, [], {}, {"dataset": 3}])
    def test_a_stored_config_that_is_none(self, text: Any, finished: Path, sprung: Path) -> None:
        content = checkpoint.read(finished / "checkpoints" / "last.pt")
        path = sprung.with_suffix(".pt")
        checkpoint.write_flushed({**content, "config": text}, path)
        with pytest.raises(UserError):
            segkit.load(path)


def with_config(finished: Path, sprung: Path, changes: dict[str, Any]) -> Path:
    """A whole checkpoint of the finished run with those nodes of its config changed."""
    content = checkpoint.read(finished / "checkpoints" / "last.pt")
    path = sprung.with_suffix(".pt")
    checkpoint.write_flushed({**content, "config": content["config"] | changes}, path)
    return path


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "posix.system",
        "builtins.eval",
        "builtins.__import__",
        "functools.partial",
        "operator.methodcaller",
        "hydra.utils.instantiate",
        "segkit.config.instantiate.build",
        "segkit.data.datasets.folder.Files.read.__globals__",
        "segkit.data.datasets.csv_table.io.open",
        "segkit.data.workers.pool.os.system",
        "segkit.data.workers.pool.Workers",
        "segkit.data.workers.process.Preparation",
        "segkit.data.workers.process.ctypes.CDLL",
        "segkit.data.datasets.decoded_cache.DiskStore",
        "segkit.data.files.decode.Path",
        "segkit.losses.base.torch.load",
        "segkit..data.folder.Folder",
        ".os.system",
        "os..system",
        "segkit.data.datasets.folder.Folder\u200b",
        "segkit.data.fold\u0435r.Folder",
        "segkit.data\0.folder.Folder",
        "",
        " os.system",
        "albumentations.Lambda",
        "albumentations.FDA",
        "albumentations.HistogramMatching",
        "albumentations.TextImage",
        "albumentations.core.serialization.load",
        "albumentations.core.composition.ReplayCompose.replay",
        "torchmetrics.text.bert.BERTScore",
        "torchmetrics.image.fid.FrechetInceptionDistance",
        "torchmetrics.utilities.checks.os.system",
        "torch.load",
        "torch.hub.load",
        "numpy.load",
    ],
)
def test_a_stored_config_may_name_no_code(target: str) -> None:
    for node in ({"_target_": target}, [{"a": [{"_target_": target, "_args_": ["x"], "_partial_": True}]}]):
        with pytest.raises(ConfigError, match=r"not allowed|no such class"):
            check_trusted(node, "loss")


@pytest.mark.parametrize(
    "target",
    [
        "albumentations.Compose",
        "albumentations.RandomCrop",
        "albumentations.GaussNoise",
        "albumentations.ElasticTransform",
        "albumentations.CoarseDropout",
        "torchmetrics.classification.MulticlassF1Score",
        "torchmetrics.segmentation.MeanIoU",
        "torchmetrics.MetricCollection",
        "segkit.data.datasets.folder.Folder",
        "segkit.losses.combined.CombinedLoss",
        "segkit.predictors.sliding.Sliding",
    ],
)
def test_a_stored_config_may_name_what_runs_are_made_of(target: str) -> None:
    check_trusted({"_target_": target}, "loss")


class TestPaths:
    @pytest.mark.parametrize(
        "name", ["../secret.png", "/etc/passwd", "images/../../secret.png", "images/a.png/../../../secret.png"]
    )
    def test_names_in_tables_and_lists_stay_below_the_root(self, name: str, root: Path) -> None:
        write_pair(root.parent, "secret.png", "secret_mask.png", 0)
        (root / "data.csv").write_text(f"image,mask,split\n{name},masks/a.png,train\n")
        (root / "splits").mkdir()
        (root / "splits" / "train.txt").write_text(f"a\n{name}\n")
        keys: dict[str, Any] = {"root": str(root), "split": "train", "num_classes": 2}
        for source in (CsvTable, SplitLists):
            with pytest.raises(DataError, match="leads out of"):
                source(**keys)

    def test_the_parent_of_what_a_link_leads_to_is_not_below_the_root(self, root: Path) -> None:
        write_pair(root.parent / "elsewhere", "c.png", "inner/c.png", 0)
        (root / "images" / "link").symlink_to(root.parent / "elsewhere" / "inner")
        (root / "data.csv").write_text("image,mask,split\nimages/link/../c.png,masks/a.png,train\n")
        source = CsvTable(root=str(root), split="train", num_classes=2)
        assert list(source.faults().by_kind()) == ["files in data.csv that do not exist"]

    def test_links_that_a_person_put_there_are_followed(self, root: Path) -> None:
        """Data sets that consist of links are common; no list or table can make one."""
        (root.parent / "real.png").write_bytes((root / "images" / "a.png").read_bytes())
        (root / "images" / "a.png").unlink()
        (root / "images" / "a.png").symlink_to(root.parent / "real.png")
        (root / "data.csv").write_text("image,mask,split\nimages/a.png,masks/a.png,train\n")
        assert CsvTable(root=str(root), split="train", num_classes=2).read(0).image.shape == (16, 16, 3)

    @pytest.mark.parametrize("name", ["a\0b.png", "a" * 5000, "\udcff.png", "images/\x1b[2J.png", "~/a.png", "~root/a"])
    def test_names_that_no_file_has_are_reported(self, name: str, root: Path) -> None:
        row = f"image,mask,split\n{name},masks/a.png,train\n"
        (root / "data.csv").write_text(row, encoding="utf-8", errors="surrogatepass")
        with pytest.raises(DataError) as error:
            CsvTable(root=str(root), split="train", num_classes=2).check()
        assert "\x1b" not in str(error.value)

    def test_predictions_stay_in_their_folder(self, root: Path) -> None:
        from segkit.commands.prediction import find_images, output_names

        for name in ("..png", "...png", ".. .png", "-rf.png"):
            shutil.copy(root / "images" / "a.png", root / "images" / name)
        (root / "images" / "folder.png").mkdir()
        names = list(output_names(find_images(root / "images")))
        assert len(names) == len(set(names))
        output = root / "output"
        assert all((output / name).resolve().parent == output for name in names)


@pytest.mark.parametrize("kind", ["pipe", "device", "endless device", "folder", "link to nothing", "link to itself"])
def test_what_is_no_regular_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    for index in range(2):
        write_pair(tmp_path, f"train/images/{index}.png", f"train/masks/{index}.png", index)
    path = tmp_path / "train" / "images" / "0.png"
    path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/null")
        case "endless device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.symlink_to(tmp_path)
        case "link to nothing":
            path.symlink_to(tmp_path / "nothing")
        case _:
            path.symlink_to(path)
    with pytest.raises(UnusableError, match=r"no regular files|cannot be read"):
        read_image(path)
    with pytest.raises(DataError, match=r"no regular files|cannot be read|without an image|without a mask"):
        Folder(root=str(tmp_path), split="train", num_classes=2).check()


def test_bombs_are_refused_within_bounded_memory(tmp_path: Path) -> None:
    files = hostile.bombs(tmp_path)
    done = subprocess.run(
        [sys.executable, str(HOSTILE), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # The others stand for a GiB of zeros at least, the sparse ones for a terabyte.
    assert found["took"] < 300
    assert set(found["refusals"]) == set(files) - {"deep.json", "deeper.json"}  # of which no class is made
    assert "more than the 134217728 pixels" in found["refusals"]["png.png"]
    assert "hold more than they say" in found["refusals"]["inflating.tif"]


def test_a_compressed_checkpoint_is_refused(finished: Path, tmp_path: Path) -> None:
    content = (finished / "checkpoints" / "last.pt").read_bytes()
    (tmp_path / "small.pt").write_bytes(hostile.compressed_zip(content))
    with pytest.raises(UserError, match="it is compressed, which segkit's checkpoints never are"):
        checkpoint.read(tmp_path / "small.pt")


def test_a_tensor_of_more_than_there_is_is_refused(tmp_path: Path) -> None:
    """A view of one number as many: little to save, much to look at."""
    import torch

    huge = torch.zeros(1).expand(10**13)
    torch.save({"format": 1, "digest": "", "content": {"model": huge}}, tmp_path / "huge.pt")
    assert (tmp_path / "huge.pt").stat().st_size < 10_000
    with pytest.raises(UserError, match=r"huge\.pt: the content cannot be read"):
        checkpoint.read(tmp_path / "huge.pt")


def sound_files() -> dict[str, bytes]:
    picture = np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)
    files: dict[str, bytes] = {}
    for kind in ("png", "jpeg", "tiff", "bmp", "webp"):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format=kind)
        files[kind] = file.getvalue()
    file = io.BytesIO()
    Image.fromarray(picture[..., 0]).save(file, format="tiff", compression="tiff_lzw")
    files["grey tiff"] = file.getvalue()
    file = io.BytesIO()
    layers = np.dstack([picture, picture[..., :2]])
    tifffile.imwrite(file, layers, photometric="minisblack", planarconfig="contig", compression="zlib")
    files["five channels"] = file.getvalue()
    file = io.BytesIO()
    np.save(file, picture)
    files["array"] = file.getvalue()
    return files


@pytest.mark.parametrize("kind", sorted(sound_files()))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_in_a_file_it_is_read_or_refused(kind: str, data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(sound_files()[kind])
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=6)
    ):
        content[place] = value
    path = tmp_path / "file"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    for read in (read_image, read_mask, read_color_mask, lambda p: read_layers(p, 5), lambda p: read_image(p, 5)):
        with contextlib.suppress(UnusableError):
            assert read(path).size < 10**9


class TestWhatPeopleSee:
    ESCAPE = "\x1b]0;owned\x07\x1b[2J[red]<script>$\\frac"

    def test_messages_hold_no_control_characters(self) -> None:
        for text in (str(DataError(f"{self.ESCAPE}\u202e\x9b\udcff")), str(UserError(self.ESCAPE))):
            assert all(character.isprintable() for character in text)
            assert "\\x1b]0;owned\\x07" in text
        assert str(DataError("größe/写真 a\n\tb.png: é")) == "größe/写真 a\n\tb.png: é"

    def test_names_of_a_checkpoint_hold_no_control_characters(self, finished: Path, tmp_path: Path) -> None:
        content = checkpoint.read(finished / "checkpoints" / "last.pt")
        labels = {**content["labels"], "names": [f"{self.ESCAPE}{n}" for n in range(7)]}
        checkpoint.write_flushed({**content, "labels": labels}, tmp_path / "named.pt")
        assert all(name.isprintable() for name in segkit.load(tmp_path / "named.pt").labels.names)

    def test_pictures_take_any_name(self, tmp_path: Path) -> None:
        """matplotlib sets what stands between two dollars as a formula."""
        labels = LabelSpace(("$\\frac$", "a$b$c"), ((0, 0, 0), (255, 0, 0)))
        mask = np.arange(16, dtype=np.uint8).reshape(4, 4) % 2
        panel([PanelRow(np.zeros((4, 4, 3), np.uint8), mask, mask, "$\\frac$ \udcff\x1b")], labels, tmp_path / "p.png")
        assert (tmp_path / "p.png").stat().st_size > 0
