"""Counts of a data set: right by hand, remembered, and taken up again where a kill ended them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segkit.contracts import LabelSpace, Sample
from segkit.data.datasets.folder import Folder
from segkit.data.datasets.shapes import Shapes
from segkit.data.statistics.counts import count, count_sample
from segkit.data.statistics.counts_cache import fingerprint
from tests.conftest import REPOSITORY
from tests.data.written import write_pair

LABELS = LabelSpace(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def test_one_sample_by_hand():
    image = np.zeros((2, 3, 3), np.uint8)
    image[0, 0] = (255, 51, 0)
    mask = np.array([[0, 0, 1], [255, 0, 0]], np.uint8)
    facts = count_sample(Sample(image, mask, "a"), LABELS, "now")
    assert facts.shape == (2, 3)
    assert facts.pixels == (4, 1, 0)
    assert facts.ignored == 1
    assert facts.sums == pytest.approx((1, 0.2, 0))
    assert facts.squares == pytest.approx((1, 0.04, 0))


def test_floats_and_bytes_of_the_same_image_have_the_same_statistics():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    mask = np.zeros((5, 7), np.uint8)
    whole = count_sample(Sample(image, mask, "a"), LABELS, "")
    floats = count_sample(Sample(image / np.float32(255), mask, "a"), LABELS, "")
    assert floats.sums == pytest.approx(whole.sums, rel=1e-6)
    assert floats.squares == pytest.approx(whole.squares, rel=1e-6)


def test_each_class_of_a_multi_label_mask_is_counted_for_itself():
    labels = LabelSpace(("a", "b"), ((0, 0, 0), (1, 1, 1)), multilabel=True)
    mask = np.array([[[1, 1], [0, 1], [255, 0]]], np.uint8)
    facts = count_sample(Sample(np.zeros((1, 3, 3), np.uint8), mask, "a"), labels, "")
    assert facts.pixels == (1, 2)
    assert facts.ignored == 1


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(24):
        write_pair(tmp_path / "data", f"train/images/{number:02d}.png", f"train/masks/{number:02d}.png", number)
    return tmp_path / "data"


def source(data: Path, **keys: Any) -> Folder:
    return Folder(**{"split": "train", "root": str(data), "num_classes": 2, **keys})


class Reads:
    """Counts what is read of a source."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        read = Folder.read

        def noted(self_: Folder, index: int) -> Sample:
            self.names.append(self_.name(index))
            return read(self_, index)

        monkeypatch.setattr(Folder, "read", noted)


def test_mean_and_std_are_those_of_all_pixels(data: Path):
    images = np.stack([np.asarray(Image.open(path)) for path in (data / "train" / "images").iterdir()]) / 255
    mean, std = count(source(data), None).mean_and_std()
    assert mean == pytest.approx(images.mean(axis=(0, 1, 2)).tolist())
    assert std == pytest.approx(images.std(axis=(0, 1, 2)).tolist())


def test_processes_find_what_one_finds(data: Path):
    alone = count(source(data), None, processes=1)
    assert count(source(data), None, processes=2) == alone
    assert alone.pixels.tolist() == [[128, 128]] * 24


def test_only_what_has_changed_is_read_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = tmp_path / "cache"
    first = count(source(data), cache, processes=1)
    reads = Reads(monkeypatch)
    assert count(source(data), cache, processes=1) == first
    assert reads.names == []
    mask = data / "train" / "masks" / "07.png"
    Image.fromarray(np.ones((16, 16), np.uint8)).save(mask)
    os.utime(mask, ns=(1, 1))
    changed = count(source(data), cache, processes=1)
    assert reads.names == ["train/images/07.png"]
    assert changed.facts["train/images/07.png"].pixels == (0, 256)


def test_another_meaning_of_the_ids_is_another_cache(data: Path):
    swapped = source(data, class_mapping={0: 1, 1: 0})
    assert fingerprint(swapped) != fingerprint(source(data))
    assert fingerprint(source(data, crop_size=8, epochs=1)) == fingerprint(source(data))


def test_a_torn_or_foreign_cache_is_done_without(data: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    first = count(source(data), cache, processes=1)
    (file,) = cache.iterdir()
    torn = file.read_bytes()[:-30]
    file.write_bytes(b'{"name": 3}\n[]\nnonsense\n' + torn)
    assert count(source(data), cache, processes=1) == first
    file.write_bytes(torn)
    assert count(source(data), cache, processes=1) == first
    # What stood behind the torn line was written on a line of its own.
    assert count(source(data), cache, processes=1) == first


def test_a_sample_that_cannot_be_read_is_a_problem_and_not_an_end(data: Path):
    (data / "train" / "images" / "03.png").write_bytes(b"no image")
    counted = count(source(data), None, processes=2)
    assert list(counted.problems) == ["train/images/03.png"]
    assert "03.png" in counted.problems["train/images/03.png"]
    assert len(counted.facts) == 23


def test_generated_samples_are_remembered_by_their_digest(tmp_path: Path):
    shapes = partial(Shapes, split="train", num_classes=7, num_train=4, num_val=2, image_size=32)
    assert count(shapes(), tmp_path, processes=1) == count(shapes(), tmp_path, processes=1)
    assert count(shapes(), tmp_path, processes=1) != count(shapes(generator_seed=1), tmp_path, processes=1)


KILLED = """
import sys, time
from pathlib import Path
from segkit.data.datasets.folder import Folder
from segkit.data.statistics.counts import count
read = Folder.read
def slow(self, index):
    time.sleep(0.05)
    return read(self, index)
Folder.read = slow
source = Folder(split="train", root=sys.argv[1], num_classes=2)
count(source, Path(sys.argv[2]), processes=2, on_progress=lambda done: print(done, flush=True))
"""


def test_a_killed_count_goes_on_where_it_was(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = tmp_path / "cache"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(data), str(cache)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    done = 0
    while not 0 < done < 24:
        done = int(process.stdout.readline())
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    process.send_signal(signal.SIGKILL)
    process.wait()
    reads = Reads(monkeypatch)
    whole = count(source(data), cache, processes=1)
    assert len(whole.facts) == 24
    assert len(reads.names) <= 24 - done
    # Nor does the pool stay behind without a parent.
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() and not _is_zombie(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.1)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
