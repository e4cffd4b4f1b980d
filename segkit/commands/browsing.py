"""`scripts/browse.py`: a sheet of samples and of what augmentation makes of them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from segkit.config import instantiate
from segkit.config.schema import BrowseSettings, checked
from segkit.contracts import Sample, SampleSource, UserError
from segkit.data.transforms.apply import augmented
from segkit.data.transforms.mask_probe import check_masks
from segkit.reporting.sample_sheet import SheetRow, sheet
from segkit.run.run_folder import output_folder

log = logging.getLogger(__name__)


def run(config: DictConfig, folder: Path) -> None:
    """Draw the sheet that `config` asks for to its output, or to samples.png in `folder`."""
    values = instantiate.plain(config)
    settings = checked(BrowseSettings, values)
    path = _picture(folder, settings)
    make_source = instantiate.build(values["dataset"], "dataset", supplied=("split",))
    source: SampleSource = make_source(split=settings.split)
    node = instantiate.with_supplied(values["transform"], "transform", source.labels.parameters)
    transform = instantiate.build(node, "transform")
    if len(source) == 0:
        raise UserError(f"split={settings.split}: no samples there to look at")
    check_masks(transform, source.labels, int(values["dataset"].get("in_channels", 3)))
    indices = np.unique(np.linspace(0, len(source) - 1, min(settings.samples, len(source))).round().astype(int))
    rows = [_row(source, transform, int(index), settings) for index in indices]
    sheet(rows, source.labels, path, opacity=settings.opacity)
    log.info(
        "%d samples of %s, each with %d augmented versions: %s", len(rows), settings.split, settings.variants, path
    )


def _picture(folder: Path, settings: BrowseSettings) -> Path:
    if settings.output is None:
        return folder / "samples.png"
    path = Path(settings.output).expanduser()
    if path.is_dir():
        raise UserError(f"output={path}: is a folder; name the file, as in output={path / 'samples.png'}")
    output_folder(path.parent, "output")
    return path


def _row(source: SampleSource, transform: Any, index: int, settings: BrowseSettings) -> SheetRow:
    """A sample with its first versions: those that epochs 1, 2, ... of a run with this seed would train on."""
    versions: list[Sample] = []
    for epoch in range(settings.variants):
        # The seeds of data/loader.py.
        seed = np.random.SeedSequence([settings.seed, epoch, 1 + index]).generate_state(1)[0]
        versions.append(augmented(transform, source, index, int(seed)))
    return SheetRow(source.read(index), versions)
