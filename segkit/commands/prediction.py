"""`scripts/predict.py`: masks and colour overlays of images, at their own size."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image
from rich.progress import track

from segkit.config import instantiate
from segkit.config.schema import PredictScriptSettings, checked
from segkit.contracts import DataError, LabelSpace, UserError
from segkit.data.files.decode import SUFFIXES
from segkit.data.files.file_list import files_below
from segkit.engine import memory
from segkit.engine.progress import CONSOLE
from segkit.errors import RunFailure
from segkit.experiment.inference import TrainedModel, load_trained_model
from segkit.run.run_folder import output_folder

log = logging.getLogger(__name__)

WRITTEN = ("ids", "layers", "overlays")
"""Folders below the output."""
MARK = ".segkit_predictions"
"""Empty file in a folder of predictions: no later run takes them for photographs."""
THUMBNAILS = frozenset({"__MACOSX", "@eaDir"})
"""Folders in which systems keep small copies beside the images."""
GEOGRAPHIC_TAGS = (33550, 33922, 34264, 34735)  # scale, tie points, transformation, and keys of GeoTIFF
SHOWN_FAILURES = 100


def run(config: DictConfig) -> None:
    """Predict every image of the input and write `ids/` and `overlays/` below the output folder.

    A multi-label model's masks go to `layers/` instead, as TIFF with one channel a class of 0 and 1, which data
    sets with `multilabel: true` read. An image that cannot be predicted holds up none of the others.

    Raises UserError if there is nothing to predict or nowhere to write; DataError if none of the images can be
    read; RunFailure, at the end, that lists those which could not be predicted.
    """
    settings = checked(PredictScriptSettings, instantiate.plain(config))
    # The cheap mistakes first, before a model is loaded.
    output = output_folder(Path(settings.output), "output")
    images = find_images(settings.input, output)
    model = load_trained_model(
        settings.run,
        device=settings.device,
        precision=settings.precision,
        predictor=settings.predictor,
        trust=settings.trust,
    )
    folders = ("layers" if model.labels.multilabel else "ids", "overlays")
    _prepare(output, folders)
    has_told = False
    failures: dict[Path, str | None] = {}
    for name, path in track(
        list(zip(output_names(images), images.values(), strict=True)),
        "predicting",
        console=CONSOLE,
        disable=not CONSOLE.is_terminal,
    ):
        if not has_told and is_georeferenced(path):
            has_told = True
            log.warning("%s is georeferenced; predictions are written without their place on earth", path)
        try:
            _predict(model, path, output, name, settings.overlay_opacity)
        except (UserError, MemoryError, RuntimeError) as error:
            if not isinstance(error, UserError) and not memory.is_shortage(error):
                raise
            # Not the exception, which keeps alive what was in memory.
            failures[path] = str(error).removeprefix(f"{path}: ") if isinstance(error, UserError) else None
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    if len(images) > len(failures):
        log.info("%d images: %s and %s", len(images) - len(failures), *(output / folder for folder in folders))
    if failures:
        raise _summed_up(failures, len(images), settings)


def find_images(inputs: str | Path | Sequence[str], output: Path | None = None) -> dict[Path, Path]:
    """The image files of `inputs`, files and folders with their sub-folders, by the path that names their outputs.

    That path is the one within the folder, or of several inputs within the folder that all of them lie in. Links
    are followed. Hidden files, thumbnails and predictions, such as those in `output`, are left out.

    Raises UserError when there is none, or for an input that is not there.
    """
    sources = [Path(path).expanduser() for path in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    for source in sources:
        if not source.exists():
            raise UserError(f"input={source}: no such file or folder")
    # Without "..", with which outputs would leave their folder.
    places = [os.path.dirname(os.path.abspath(source)) for source in sources]  # noqa: PTH100, PTH120
    base = None if len(sources) == 1 else os.path.commonpath(places)
    found: dict[Path, Path] = {}
    for source in sources:
        within = source if source.is_dir() else source.parent
        for path in _files(source, output):
            name = Path(os.path.relpath(path, base)) if base else path.relative_to(within)
            found[name] = path
    if not found:
        told = ", ".join(map(str, sources))
        raise UserError(f"input={told}: no images in this folder; allowed: {', '.join(sorted(SUFFIXES))}")
    return dict(sorted(found.items()))


def _files(source: Path, output: Path | None) -> list[Path]:
    if not source.is_dir():
        return [source]
    own = set() if output is None else {os.path.realpath(output / folder) for folder in WRITTEN}
    if os.path.realpath(source) in own:
        raise UserError(f"output={output}: its predictions would be written to input={source}; give another folder")
    left_out: dict[str, bool] = {"": False}

    def is_left_out(folder: str) -> bool:
        if folder not in left_out:
            parent, _, name = folder.rpartition("/")
            place = source / folder
            is_own = (place / MARK).exists() or os.path.realpath(place) in own
            if is_own:
                log.info("left out, as these are predictions: %s", place)
            left_out[folder] = is_left_out(parent) or name in THUMBNAILS or is_own
        return left_out[folder]

    return [source / path for path in files_below(source, SUFFIXES) if not is_left_out(path.rpartition("/")[0])]


def output_names(images: Collection[Path]) -> list[Path]:
    """For each image the PNG to write: its path with the suffix .png, or with .png added where two would meet."""
    short = {path: path.with_suffix(".png") for path in images}
    full = {path: path.with_name(f"{path.name}.png") for path in images}
    chosen = dict(short)
    while True:
        # In one case, as some file systems do not tell a.png from A.png.
        uses: dict[str, list[Path]] = {}
        for path, name in chosen.items():
            uses.setdefault(str(name).casefold(), []).append(path)
        meeting = [p for paths in uses.values() if len(paths) > 1 for p in paths if chosen[p] != full[p]]
        if not meeting:
            return list(chosen.values())
        chosen |= {path: full[path] for path in meeting}


def is_georeferenced(path: Path) -> bool:
    """Whether a TIFF has the tags of a GeoTIFF, or an image a world file beside it."""
    suffix = path.suffix.lower()
    worlds = (path.with_suffix(f".{suffix[1:2]}{suffix[-1:]}w"), path.with_suffix(f"{path.suffix}w"))
    if any(world.is_file() for world in worlds):
        return True
    if suffix not in (".tif", ".tiff"):
        return False
    try:
        with tifffile.TiffFile(path) as file:
            return any(tag in file.pages.first.tags for tag in GEOGRAPHIC_TAGS)
    except Exception:  # tifffile raises whatever a damaged file makes Python raise; reading it says so
        return False


def _prepare(output: Path, folders: Sequence[str]) -> None:
    try:
        for folder in folders:
            (output / folder).mkdir(parents=True, exist_ok=True)
            (output / folder / MARK).touch()
    except OSError as error:
        raise UserError(f"output={output}: cannot be written to: {error.strerror} ({error.filename})") from None


def _predict(model: TrainedModel, path: Path, output: Path, name: Path, opacity: float) -> None:
    image = model.images.read(path)
    mask = model.predict(image)
    if model.labels.multilabel:
        _write(output / "layers" / name.with_suffix(".tif"), _save_layers, mask)
    else:
        _write(output / "ids" / name, _save_png, mask if mask.dtype == np.uint8 else mask.astype(np.uint16))
    _write(output / "overlays" / name, _save_png, overlay(image, mask, model.labels, opacity))


def _summed_up(failures: Mapping[Path, str | None], number: int, settings: PredictScriptSettings) -> Exception:
    """One error for all images that could not be predicted, and why: None for want of memory; with what helps."""
    is_short = None in failures.values()
    lines = [f"{len(failures)} of {number} images could not be predicted:"]
    lines += [f"  {path}: {why or 'out of memory'}" for path, why in list(failures.items())[:SHOWN_FAILURES]]
    if len(failures) > SHOWN_FAILURES:
        lines.append(f"  and {len(failures) - SHOWN_FAILURES} more")
    if is_short:
        remedies = ["predictor=sliding predictor.window=512, which takes large images apart"]
        if settings.predictor is not None and "window" in settings.predictor:
            remedies = ["a smaller predictor.window, predictor.batch_size=1"]
        remedies.append("images cut into tiles")
        lines.append(f"What helps when memory is short: {'; '.join(remedies)}")
    message = "\n".join(lines)
    return DataError(message) if len(failures) == number and not is_short else RunFailure(message)


def overlay(image: NDArray[Any], mask: NDArray[Any], labels: LabelSpace, opacity: float) -> NDArray[np.uint8]:
    """The classes' colours over `image` (H, W, C) uint8 or float, as (H, W, 3) uint8; opacity in 0..1.

    Floats outside 0..1 are shown stretched to their own range. `mask` are ids (H, W), or layers (H, W, K): several
    classes show the mean of their colours, none the image.
    """
    shown = image.astype(np.float32)
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        if low >= 0 and high <= 1:
            low, high = 0, 1
        shown = (shown - low) * (255 / max(high - low, 1e-12))
    shown = shown[..., :3] if shown.shape[-1] >= 3 else np.repeat(shown[..., :1], 3, axis=-1)
    palette = np.array(labels.colors, dtype=np.float32)
    if mask.ndim == 2:
        colors, opacities = palette[mask], np.float32(opacity)
    else:
        number = mask.sum(axis=-1, dtype=np.float32)[..., None]
        colors, opacities = mask.astype(np.float32) @ palette / number.clip(min=1), opacity * (number > 0)
    return (shown * (1 - opacities) + colors * opacities).round().clip(0, 255).astype(np.uint8)


def _write(path: Path, save: Callable[[Path, NDArray[Any]], None], pixels: NDArray[Any]) -> None:
    temporary = path.with_name(".segkit.part")  # the name itself may be as long as names can be
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(temporary, pixels)
        temporary.replace(path)
    except OSError as error:
        raise RunFailure(f"{path}: cannot be written: {error.strerror or error}") from None


def _save_png(path: Path, pixels: NDArray[Any]) -> None:
    Image.fromarray(pixels).save(path, format="png")


def _save_layers(path: Path, layers_HWK: NDArray[Any]) -> None:
    channels_last = "contig" if layers_HWK.shape[2] > 1 else None  # which one channel leaves no choice about
    tifffile.imwrite(path, layers_HWK, photometric="minisblack", planarconfig=channels_last, compression="zlib")
