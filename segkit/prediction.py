"""`scripts/predict.py`: masks and colour overlays of images, at their own size."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image
from rich.progress import track

from segkit.config import instantiate
from segkit.config.schema import PredictScriptSettings, checked
from segkit.contracts import DataError, LabelSpace, UserError
from segkit.data.content import UnusableError
from segkit.data.reading import SUFFIXES, read_image
from segkit.engine.progress import CONSOLE
from segkit.engine.run_folder import output_folder
from segkit.trained import load_trained_model

log = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
    """Predict every image of the input and write `ids/` and `overlays/` below the output folder.

    A multi-label model's masks go to `layers/` instead, as TIFF with one channel a class of 0 and 1, which data
    sets with `multilabel: true` read.
    """
    settings = checked(PredictScriptSettings, instantiate.plain(config))
    source = Path(settings.input).expanduser()
    # The cheap mistakes first, before a model is loaded.
    images = find_images(source)
    names = output_names(images)
    output = output_folder(Path(settings.output), "output")
    model = load_trained_model(
        settings.run,
        device=settings.device,
        precision=settings.precision,
        predictor=settings.predictor,
        trust=settings.trust,
    )
    for path, name in track(
        list(zip(images.values(), names, strict=True)),
        "predicting",
        console=CONSOLE,
        disable=not CONSOLE.is_terminal,
    ):
        image = _read(path, model.in_channels)
        mask = model.predict(image)
        if model.labels.multilabel:
            _write(output / "layers" / name.with_suffix(".tif"), _save_layers, mask)
        else:
            _write(output / "ids" / name, _save_png, mask if mask.dtype == np.uint8 else mask.astype(np.uint16))
        _write(output / "overlays" / name, _save_png, overlay(image, mask, model.labels, settings.overlay_opacity))
    masks = output / ("layers" if model.labels.multilabel else "ids")
    log.info("%d images: %s and %s", len(images), masks, output / "overlays")


def find_images(source: Path) -> dict[Path, Path]:
    """The image files of `source`, a file or a folder with its sub-folders, by their path within it.

    Raises UserError when there is none.
    """
    if source.is_file():
        return {Path(source.name): source}
    if not source.is_dir():
        raise UserError(f"input={source}: no such file or folder")
    paths = (path for path in sorted(source.rglob("*")) if path.suffix.lower() in SUFFIXES and not path.is_dir())
    found = {path.relative_to(source): path for path in paths}
    if not found:
        raise UserError(f"input={source}: no images in this folder; allowed: {', '.join(sorted(SUFFIXES))}")
    return found


def output_names(images: dict[Path, Path]) -> Iterator[Path]:
    """For each image the PNG to write: its own path with the suffix .png, or with .png added where two would meet."""
    uses = Counter(path.with_suffix("") for path in images)
    for path in images:
        alone = uses[path.with_suffix("")] == 1
        yield path.with_suffix(".png") if alone else path.with_name(path.name + ".png")


def overlay(image: NDArray[Any], mask: NDArray[Any], labels: LabelSpace, opacity: float) -> NDArray[np.uint8]:
    """The classes' colours over `image` (H, W, C) uint8 or float 0..1, as (H, W, 3) uint8; opacity in 0..1.

    `mask` are ids (H, W), or layers (H, W, K): several classes show the mean of their colours, none the image.
    """
    shown = image.astype(np.float32) * (1.0 if image.dtype == np.uint8 else 255.0)
    shown = shown[..., :3] if shown.shape[-1] >= 3 else np.repeat(shown[..., :1], 3, axis=-1)
    palette = np.array(labels.colors, dtype=np.float32)
    if mask.ndim == 2:
        colors, opacities = palette[mask], np.float32(opacity)
    else:
        number = mask.sum(axis=-1, dtype=np.float32)[..., None]
        colors, opacities = mask.astype(np.float32) @ palette / number.clip(min=1), opacity * (number > 0)
    return (shown * (1 - opacities) + colors * opacities).round().clip(0, 255).astype(np.uint8)


def _read(path: Path, in_channels: int) -> NDArray[Any]:
    try:
        return read_image(path, in_channels)
    except UnusableError as error:
        raise DataError(f"{path}: {error}") from None


def _write(path: Path, save: Callable[[Path, NDArray[Any]], None], pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.part")
    save(temporary, pixels)
    temporary.replace(path)


def _save_png(path: Path, pixels: NDArray[Any]) -> None:
    Image.fromarray(pixels).save(path, format="png")


def _save_layers(path: Path, layers_HWK: NDArray[Any]) -> None:
    channels_last = "contig" if layers_HWK.shape[2] > 1 else None  # which one channel leaves no choice about
    tifffile.imwrite(path, layers_HWK, photometric="minisblack", planarconfig=channels_last, compression="zlib")
