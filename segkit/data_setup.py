"""`scripts/init_dataset.py`: a config for an unknown folder of images and masks, so that the next command trains."""

from __future__ import annotations

import csv
import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import DictConfig
from rich.text import Text

from segkit.computed_weights import weights_by
from segkit.config import instantiate
from segkit.config.schema import InitDatasetSettings, checked
from segkit.config_files import dataset_file, experiment_file
from segkit.contracts import DataError, SampleSource, UserError
from segkit.data.class_names import find_class_names
from segkit.data.folds import make_lists
from segkit.data.mask_survey import Labels, survey
from segkit.data.recognition import Kind, Layout, SplitName, recognise
from segkit.data.statistics import Counted
from segkit.data_check import bar_of, counted_with_progress
from segkit.engine.progress import CONSOLE
from segkit.split_making import write_lists

log = logging.getLogger(__name__)

TARGETS: dict[Kind, str] = {
    "folder": "segkit.data.folder.Folder",
    "split_lists": "segkit.data.split_lists.SplitLists",
    "voc": "segkit.data.voc.Voc",
    "csv": "segkit.data.table.CsvTable",
    "table": "segkit.data.table.CsvTable",
}
VOC_IDS = 21
LARGEST_CROP = 512
STEPS = 4000
"""Optimizer steps that a run of the experiment makes, about."""


@dataclass
class Setup:
    """What is known of the data set, and what is to be written.

    Attributes:
        node: the config of the data set, as its YAML file gives it.
        base: the option of the `dataset` group that it refines, or None.
        lists: validation lists that were made because the folder has no validation split.
    """

    name: str
    root: Path
    output: Path
    layout: Layout
    node: dict[str, Any]
    base: str | None = None
    labels: Labels | None = None
    counted: dict[SplitName, Counted] = field(default_factory=dict["SplitName", Counted])
    lists: dict[str, list[str]] | None = None
    identity: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def table(self) -> Path:
        return self.output / "dataset" / f"{self.name}.csv"

    @property
    def lists_folder(self) -> Path:
        return self.output / "dataset" / f"{self.name}_splits"


def run(config: DictConfig, conf: Path, is_checkout: bool) -> None:
    """Write the config of the folder that `config` names; `conf` holds the options that there are already."""
    settings = checked(InitDatasetSettings, instantiate.plain(config))
    root = Path(settings.folder).expanduser().absolute()
    name = settings.name or _name(root)
    output = Path(settings.output or (conf if is_checkout else "my_conf")).expanduser()
    _require_free(name, output, conf, overwrite=settings.overwrite)
    layout = recognise(root)
    CONSOLE.print(Text(f"{root}: {layout.told}"))
    if layout.left:
        CONSOLE.print(Text(f"{len(layout.left)} files without a partner, such as {layout.left[0]}", "yellow"))
    setup = Setup(name, root, output, layout, {})
    if layout.kind == "table":
        _write_table(setup)
    try:
        _find_out(setup, settings, conf)
        _write(setup, settings)
    except BaseException:
        if layout.kind == "table":
            setup.table.unlink(missing_ok=True)
        raise
    _tell(setup, conf, is_checkout)


def _find_out(setup: Setup, settings: InitDatasetSettings, conf: Path) -> None:
    """Labels, statistics and splits. Raises DataError for files that training would object to."""
    if setup.layout.kind == "cityscapes":
        setup.base = "cityscapes"
    else:
        classes, file = find_class_names(setup.root)
        setup.labels = _survey(setup)
        if setup.layout.kind == "voc" and file is None and _is_official_voc(setup.labels):
            setup.base, setup.labels = "voc", None
        elif file is not None and setup.labels.names[0] != "class_0":
            CONSOLE.print(Text(f"class names: {file}"))
        elif file is not None:
            CONSOLE.print(
                Text(f"{file} lists {len(classes)} classes and does not fit {len(setup.labels.names)}", "yellow")
            )
        if setup.labels is not None:
            CONSOLE.print(Text(setup.labels.told))
    setup.node = _node(setup, settings.cache_dir, conf)
    make_source = instantiate.build(setup.node, "dataset", supplied=("split",))
    splits: list[SplitName] = ["train", "val"] if setup.base == "cityscapes" else list(setup.layout.pairs)
    for split in splits:
        source: SampleSource = make_source(split=split)
        source.check()
        counted = counted_with_progress(source, split, Path(settings.cache_dir), settings.processes)
        if counted.problems:
            raise DataError("\n".join(counted.problems.values()))
        setup.counted[split] = counted
        setup.identity = dict(source.identity()) if split == "train" else setup.identity
    if "train" not in setup.counted:
        raise UserError(f"folder={setup.root}: has {' and '.join(splits)}, but no training split")
    if "val" not in setup.counted:
        shares = {"train": 1 - settings.val_share, "val": settings.val_share}
        setup.lists = make_lists(setup.counted["train"], shares, settings.seed, settings.group_pattern)


def _survey(setup: Setup) -> Labels:
    masks = [setup.root / mask for pairs in setup.layout.pairs.values() for _, mask in pairs]
    classes, _ = find_class_names(setup.root)
    with bar_of("masks", len(masks)) as on_progress:
        return survey(masks, classes, on_progress)


def _is_official_voc(labels: Labels) -> bool:
    return labels.mask_format == "ids" and labels.mapping is None and len(labels.names) == VOC_IDS


def _node(setup: Setup, cache_dir: str, conf: Path) -> dict[str, Any]:
    if setup.base is not None:
        node = yaml.safe_load((conf / "dataset" / f"{setup.base}.yaml").read_text(encoding="utf-8"))
        return node | {"root": str(setup.root), "cache_dir": cache_dir}
    labels = setup.labels
    assert labels is not None
    node = {"_target_": TARGETS[setup.layout.kind], "_partial_": True, "root": str(setup.root)}
    node |= setup.layout.keys
    if setup.layout.kind == "table":
        absent = {f"{s}_split": None for s in ("train", "val", "test") if s not in setup.layout.pairs}
        node |= {"table": str(setup.table.absolute())} | absent
    node |= {"num_classes": len(labels.names), "class_names": labels.names, "colors": [list(c) for c in labels.colors]}
    node |= {"class_mapping": labels.mapping, "ignore_index": labels.ignore_index, "mask_format": labels.mask_format}
    node |= {"ignore_colors": [list(color) for color in labels.ignore_colors], "cache_dir": cache_dir}
    return node


def _write_table(setup: Setup) -> None:
    setup.table.parent.mkdir(parents=True, exist_ok=True)
    with setup.table.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "mask", "split"])
        for split, pairs in setup.layout.pairs.items():
            rows.writerows([image, mask, split] for image, mask in pairs)


def _write(setup: Setup, settings: InitDatasetSettings) -> None:
    train = setup.counted["train"] if setup.lists is None else setup.counted["train"].only(setup.lists["train"])
    mean, std = train.mean_and_std()
    shapes = np.array([facts.shape for facts in train.facts.values()])
    crop = crop_size(shapes)
    samples = len(train.names)
    batch = batch_size(crop, samples)
    setup.node |= {
        "in_channels": len(mean),
        # Numbers here would win over those of pretrained weights.
        "mean": None,
        "std": None,
        "data_mean": [round(value, 4) for value in mean],
        # A channel without any contrast has a spread of 0, by which nothing can be divided.
        "data_std": [max(round(value, 4), 0.001) for value in std],
        "crop_size": crop,
        "epochs": int(np.clip(round(STEPS * batch / samples), 10, 300)),
    }
    shares = train.pixels.sum(axis=0) / max(int(train.pixels.sum()), 1)
    weights = weights_by("inverse_sqrt", train)
    for folder in ("dataset", "experiment"):
        (setup.output / folder).mkdir(parents=True, exist_ok=True)
    if setup.lists is not None:
        made = settings.model_dump(include={"val_share", "group_pattern", "seed"}) | {"pool": ["train"]}
        write_lists(setup.lists, setup.lists_folder, made | {"dataset": dict(setup.identity)})
    table = [
        f"{name}: {share:.3%} of the pixels, {int(images)} images, weight {weight:.4g}"
        for name, share, images, weight in zip(
            train.labels.names, shares, (train.pixels > 0).sum(axis=0), weights, strict=True
        )
    ]
    text = dataset_file(setup.node, base=setup.base, told=setup.layout.told, classes=table)
    (setup.output / "dataset" / f"{setup.name}.yaml").write_text(text, encoding="utf-8")
    unequal = shares[shares > 0].max() > 10 * shares[shares > 0].min()
    text = experiment_file(
        setup.name,
        batch_size=batch,
        class_weights="inverse_sqrt" if unequal else None,
        lists=None if setup.lists is None else setup.lists_folder.absolute(),
    )
    (setup.output / "experiment" / f"{setup.name}.yaml").write_text(text, encoding="utf-8")


def crop_size(shapes: Any) -> int:
    """Edge in pixels for images of `shapes` (N, 2): the shorter edge of the middle image, at most 512.

    A multiple of 32, which every network halves without a remainder, unless the images are smaller than that.
    """
    edge = int(np.median(shapes.min(axis=1)))
    return edge if edge < 32 else min(LARGEST_CROP, edge // 32 * 32)


def batch_size(crop: int, samples: int) -> int:
    """As many crops as fit about 1.2 million pixels, from 2 to 16, and no more than a quarter of the samples."""
    return max(2, min(16, round(1_200_000 / crop**2), samples // 4))


def _name(root: Path) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", root.name.lower()).strip("_")
    return name or "mine"


def _require_free(name: str, output: Path, conf: Path, *, overwrite: bool) -> None:
    for group in ("dataset", "experiment"):
        own = output / group / f"{name}.yaml"
        if own.exists() and not overwrite:
            raise UserError(f"{own} exists already; give another name=..., or overwrite=true")
        if (conf / group / f"{name}.yaml").exists() and conf.resolve() != output.resolve():
            raise UserError(f"name={name}: segkit has a {group} option of this name; give another name=...")
        if own.exists() and "Written by init_dataset.py" not in own.read_text(encoding="utf-8"):
            raise UserError(f"{own} was not written by init_dataset.py; give another name=...")


def _tell(setup: Setup, conf: Path, is_checkout: bool) -> None:
    train = setup.counted["train"]
    if setup.lists is None:
        sizes = {split: len(counted.names) for split, counted in setup.counted.items()}
    else:
        sizes = {split: len(names) for split, names in setup.lists.items()}
    counts = ", ".join(f"{split} {number}" for split, number in sizes.items())
    CONSOLE.print(Text(f"{len(train.labels.names)} classes: {_names(train.labels.names)}"))
    CONSOLE.print(Text(f"{counts}; crops of {setup.node['crop_size']}, {setup.node['epochs']} epochs"))
    files = [setup.output / "dataset" / f"{setup.name}.yaml", setup.output / "experiment" / f"{setup.name}.yaml"]
    files += [setup.table] * (setup.layout.kind == "table") + [setup.lists_folder] * (setup.lists is not None)
    for file in files:
        CONSOLE.print(Text(f"wrote {file}"), soft_wrap=True)
    command = "python train.py" if is_checkout else "segkit-train"
    if setup.output.resolve() != conf.resolve():
        command += f" --config-dir {shlex.quote(str(setup.output))}"
    CONSOLE.print(Text(f"\nnext:  {command} experiment={setup.name}", "bold"), soft_wrap=True)


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return shown if len(names) <= 12 else f"{shown} and {len(names) - 12} more"
