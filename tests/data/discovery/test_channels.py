"""Images of other than three channels, from their files to a model's first convolution."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from segkit.contracts import Sample
from segkit.data.datasets.folder import Folder
from segkit.data.loader import TrainLoader
from segkit.models.backbones.timm_backbone import TimmBackbone
from segkit.models.heads.fcn import FCNHead
from segkit.models.segmenter import Segmenter


def unchanged(sample: Sample, seed: int) -> Sample:
    return sample


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_model_learns_from_images_of_any_channels(tmp_path: Path, channels: int, dtype: type[np.integer]) -> None:
    random = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / "train" / part).mkdir(parents=True)
    for index in range(2):
        image = random.integers(0, np.iinfo(dtype).max, (32, 32, channels), dtype=dtype, endpoint=True)
        tifffile.imwrite(tmp_path / f"train/images/{index}.tif", image.squeeze(), photometric="minisblack")
        Image.fromarray(np.eye(32, dtype=np.uint8)).save(tmp_path / f"train/masks/{index}.png")
    keys = {"in_channels": channels, "mean": [0.5] * channels, "std": [0.25] * channels}
    source = Folder(split="train", num_classes=2, root=str(tmp_path), **keys)  # pyright: ignore[reportArgumentType]
    source.check()
    loader = TrainLoader(source, unchanged, batch_size=2, seed=0, num_workers=0)
    (batch,) = next(loader.batches(0))
    assert batch.images.shape == (2, channels, 32, 32)
    assert batch.images.dtype == (torch.uint8 if dtype is np.uint8 else torch.float32)
    model = Segmenter(
        partial(TimmBackbone, "test_resnet"),
        partial(FCNHead, channels=8),
        num_classes=2,
        mean=[0.5] * channels,
        std=[0.25] * channels,
    )
    # Either type comes to lie around 0 with a spread of about 1.
    normal = model.normalize(batch.images)
    assert normal.abs().mean().item() == pytest.approx(1, abs=0.1)
    model(batch.images).logits.square().sum().backward()
    first = next(model.backbone.parameters())
    assert first.shape[1] == channels
    assert first.grad is not None
    assert first.grad.abs().sum() > 0
