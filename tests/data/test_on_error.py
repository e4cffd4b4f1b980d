"""dataset.on_error through the whole command."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tests.conftest import TINY, records, run, summary


def draw(root: Path) -> None:
    random = np.random.default_rng(0)
    for split, number in (("train", 8), ("val", 3)):
        for part, shape in (("images", (40, 50, 3)), ("masks", (40, 50))):
            (root / split / part).mkdir(parents=True)
            for index in range(number):
                cv2.imwrite(str(root / split / part / f"{index}.png"), random.integers(0, 3, shape, np.uint8))


def test_broken_files_are_skipped_counted_and_named(tmp_path: Path) -> None:
    root, folder = tmp_path / "data", tmp_path / "run"
    draw(root)
    (root / "train/images/3.png").write_bytes(b"not a picture")
    (root / "val/masks/1.png").write_bytes(b"")
    done = run(
        *(override for override in TINY if not override.startswith("dataset.")),
        *"dataset=folder dataset.num_classes=3 dataset.crop_size=32 dataset.on_error=skip".split(),
        *"dataset.decoded_cache=disk trainer.max_epochs=2 trainer.log_sample_ids=true tracker=none".split(),
        f"dataset.root={root}",
        f"paths.output_dir={tmp_path}",
        f"hydra.run.dir={folder}",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    # One of 8 samples, in each of two epochs.
    steps = records(folder, "train")
    assert [record["samples_skipped"] for record in steps][1::2] == [1, 2]
    assert summary(folder)["samples_skipped"] == 2
    ids = [id for record in steps for id in record["sample_ids"]]
    assert len(ids) == 16
    assert "train/images/3.png" not in ids
    assert [record["samples_skipped"] for record in records(folder, "eval")] == [1, 1]
    log = (folder / "train.log").read_text()
    assert log.count("skipped a sample: ") == 4
    assert log.count(f"skipped a sample: {root / 'train/images/3.png'}: ") == 2
