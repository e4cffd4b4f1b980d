"""`scripts/init_dataset.py`: a config for an unknown folder of images and masks, so that the next command trains."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import DictConfig

from segkit.commands.counting import bar_of, counted_with_progress
from segkit.commands.setup_state import Setup
from segkit.commands.setup_summary import draw_examples, say, say_end
from segkit.config import instantiate
from segkit.config.schema import InitDatasetSettings, checked
from segkit.config.yaml_files import dataset_file, experiment_file
from segkit.contracts import DataError, SampleSource, UserError
from segkit.data.discovery.channels import choose_channels
from segkit.data.discovery.class_names import NamedClass, find_class_names
from segkit.data.discovery.found_splits import SPLITS, Wanted
from segkit.data.discovery.label_choice import Labels, Said, choose_labels
from segkit.data.discovery.layout import Kind, recognise
from segkit.data.discovery.mask_survey import MOST_VALUES, Survey, survey
from segkit.data.discovery.path_words import SplitName
from segkit.data.statistics.folds import make_lists
from segkit.experiment.computed_weights import weights_by
from segkit.run.run_folder import output_folder

TARGETS: dict[Kind, str] = {
    "folder": "segkit.data.datasets.folder.Folder",
    "split_lists": "segkit.data.datasets.split_lists.SplitLists",
    "voc": "segkit.data.datasets.voc.Voc",
    "csv": "segkit.data.datasets.csv_table.CsvTable",
    "table": "segkit.data.datasets.csv_table.CsvTable",
}
PUBLIC = {
    "coco_stuff": ("images/train2017", "annotations/train2017"),
    "ade20k": ("images/training", "annotations/training"),
    "bdd100k": ("images/10k/train", "labels/sem_seg/masks/train"),
    "mapillary": ("training/images", "training/v1.2/labels"),
    "lip": ("TrainVal_images/train_images", "TrainVal_parsing_annotations/train_segmentations"),
}
"""Folders of public data sets that others have too, so that it takes a person to say whether these are they."""
VOC_IDS = frozenset({*range(21), 255})
VOC_NAME = re.compile(r"\d{4}_\d{6}")
LARGEST_CROP = 512
STEPS = 4000
"""Optimizer steps that a run of the experiment makes, about."""


def run(config: DictConfig, conf: Path, is_checkout: bool) -> None:
    """Write the config of the folder that `config` names; `conf` holds the options that there are already."""
    settings = checked(InitDatasetSettings, instantiate.plain(config))
    root = Path(settings.folder).expanduser().absolute()
    name = settings.name or _name(root)
    output = output_folder(Path(settings.output or (conf if is_checkout else "my_conf")), "output")
    _require_free(name, output, conf, overwrite=settings.overwrite)
    keys = ("image_folder", "mask_folder", "image_suffix", "mask_suffix", "splits_from", "lists")
    layout = recognise(root, Wanted(**{key: getattr(settings, key) for key in keys}))
    say("found", f"{layout.told}")
    for note in layout.notes:
        say("", note, "yellow")
    for option, folders in PUBLIC.items():
        if all((root / folder).is_dir() for folder in folders):
            say("", f"if this is {option} as its authors publish it: dataset={option} has its names and ids", "yellow")
    setup = Setup(name, root, output, layout, layout.kind, dict(layout.pairs))
    if "train" not in layout.pairs and layout.kind != "cityscapes":
        raise UserError(f"folder={root}: has {' and '.join(layout.pairs)}, but no training split")
    if setup.draws_val:
        setup.kind = "table"
    had_table = setup.table.exists()
    try:
        _find_out(setup, settings, conf)
        _write(setup, settings)
        picture = draw_examples(_source(setup, "train"), setup.output / "dataset" / f"{name}.png")
    except BaseException:
        if setup.kind == "table" and not had_table:
            setup.table.unlink(missing_ok=True)
        raise
    say_end(
        setup,
        picture,
        drawn=f"{settings.val_share:.0%} drawn, as the folder has none" if setup.draws_val else None,
        command="python train.py" if is_checkout else "segkit-train",
        config_dir=None if setup.output.resolve() == conf.resolve() else setup.output,
    )


def _find_out(setup: Setup, settings: InitDatasetSettings, conf: Path) -> None:
    """Labels, statistics and splits. Raises DataError for files that training would object to."""
    if setup.kind == "cityscapes":
        setup.base = "cityscapes"
        in_channels = settings.in_channels or 3
    else:
        images = [setup.root / image for pairs in setup.pairs.values() for image, _ in pairs]
        in_channels, note = choose_channels(images, settings.in_channels)
        if note is not None:
            say("", note, "yellow")
        _find_labels(setup, settings, conf)
    if setup.kind == "table":
        _write_table(setup)
    setup.node = _node(setup, settings.cache_dir, conf)
    setup.node["in_channels"] = in_channels
    splits: list[SplitName] = ["train", "val"] if setup.kind == "cityscapes" else list(setup.pairs)
    for split in splits:
        source = _source(setup, split)
        source.check()
        counted = counted_with_progress(source, split, Path(settings.cache_dir), settings.processes)
        if counted.problems:
            raise DataError("\n".join(counted.problems.values()))
        setup.counted[split] = counted
    if setup.draws_val:
        _draw_val(setup, settings)


def _source(setup: Setup, split: SplitName) -> SampleSource:
    return instantiate.build(setup.node, "dataset", supplied=("split",))(split=split)


def _find_labels(setup: Setup, settings: InitDatasetSettings, conf: Path) -> None:
    masks = [setup.root / mask for pairs in setup.pairs.values() for _, mask in pairs]
    classes, file = find_class_names(setup.root, settings.names)
    if file is not None:
        place = file.relative_to(setup.root) if file.is_relative_to(setup.root) else file
        say("names", f"{len(classes)} classes are listed in {place}")
    found = _surveyed(masks, classes, settings)
    official = yaml.safe_load((conf / "dataset" / "voc.yaml").read_text(encoding="utf-8"))
    said = Said(settings.mask_format, settings.ignore, settings.class_mapping, settings.threshold)
    is_plain = file is None and said == Said() and found.mask_format == "ids" and found.palettes_differ is None
    if is_plain and setup.layout.kind == "voc" and found.values.keys() <= VOC_IDS and _has_voc_names(setup):
        colors = [(red, green, blue) for red, green, blue in official["colors"]]
        setup.labels = Labels(list(official["class_names"]), colors, "the 21 classes of Pascal VOC; 255 is ignored")
        setup.base = "voc" if setup.kind == "voc" else None
    else:
        setup.labels = choose_labels(found, classes, said)
    say("masks", setup.labels.told)
    for note in setup.labels.notes:
        say("", note, "yellow")


def _surveyed(masks: list[Path], classes: list[NamedClass], settings: InitDatasetSettings) -> Survey:
    """What the masks hold; palettes that differ from file to file are read by their colours, if these are listed."""
    most = max(MOST_VALUES, len(classes) + 1)
    with bar_of("masks", len(masks)) as on_progress:
        found = survey(masks, on_progress, mask_format=settings.mask_format, most_values=most)
    listed = {entry.color for entry in classes if entry.color is not None}
    if found.palettes_differ is None or settings.mask_format is not None or not listed:
        return found
    by_color = survey(masks, lambda _: None, mask_format="colors", most_values=most)
    colors = {(code >> 16, code >> 8 & 255, code & 255) for code in by_color.values}
    if not colors <= listed:
        return found
    say("", "palettes differ from mask to mask; all their colours are listed, so these are what counts", "yellow")
    return by_color


def _has_voc_names(setup: Setup) -> bool:
    return all(VOC_NAME.fullmatch(Path(image).stem) for pairs in setup.pairs.values() for image, _ in pairs)


def _node(setup: Setup, cache_dir: str, conf: Path) -> dict[str, Any]:
    if setup.base is not None:
        node = yaml.safe_load((conf / "dataset" / f"{setup.base}.yaml").read_text(encoding="utf-8"))
        return node | {"root": str(setup.root), "cache_dir": cache_dir} | setup.layout.keys
    labels = setup.labels
    assert labels is not None
    node: dict[str, Any] = {"_target_": TARGETS[setup.kind], "_partial_": True, "root": str(setup.root)}
    if setup.kind == "table":
        splits = {*setup.pairs, "val"} if setup.draws_val else {*setup.pairs}
        node |= {"table": str(setup.table.absolute())}
        node |= {f"{split}_split": split if split in splits else None for split in SPLITS}
    else:
        node |= setup.layout.keys
    node |= {"num_classes": len(labels.names), "class_names": labels.names, "colors": [list(c) for c in labels.colors]}
    node |= {"class_mapping": labels.mapping, "ignore_index": labels.ignore_index, "mask_format": labels.mask_format}
    node |= {"ignore_colors": [list(color) for color in labels.ignore_colors], "cache_dir": cache_dir}
    return node


def _write_table(setup: Setup) -> None:
    setup.table.parent.mkdir(parents=True, exist_ok=True)
    try:
        with setup.table.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["image", "mask", "split"])
            for split, pairs in setup.pairs.items():
                rows.writerows([image, mask, split] for image, mask in pairs)
    except UnicodeEncodeError as error:
        raise UserError(f"{error.object!r}: names of files have to be UTF-8 to stand in a table; rename it") from None


def _draw_val(setup: Setup, settings: InitDatasetSettings) -> None:
    """Move a share of the training pairs to a validation split, alike in classes, and write them to the table."""
    counted = setup.counted["train"]
    shares = {"train": 1 - settings.val_share, "val": settings.val_share}
    drawn = make_lists(counted, shares, settings.seed, settings.group_pattern)
    wanted = set(drawn["val"])
    pairs = setup.pairs["train"]
    setup.pairs = {
        **setup.pairs,
        "train": [pair for pair in pairs if pair[0] not in wanted],
        "val": [pair for pair in pairs if pair[0] in wanted],
    }
    setup.counted |= {"train": counted.only(drawn["train"]), "val": counted.only(drawn["val"])}
    _write_table(setup)


def _write(setup: Setup, settings: InitDatasetSettings) -> None:
    train = setup.counted["train"]
    normalisation = train.normalisation()
    shapes = np.array([facts.shape for facts in train.facts.values()])
    crop = crop_size(shapes)
    samples = len(train.names)
    batch = settings.batch_size or batch_size(crop, samples)
    setup.node |= {
        # Numbers here would win over those of pretrained weights.
        "mean": None,
        "std": None,
        **{f"data_{name}": values for name, values in normalisation.items()},
        "crop_size": crop,
        "epochs": settings.epochs or int(np.clip(round(STEPS * batch / samples), 10, 300)),
    }
    shares = train.pixels.sum(axis=0) / max(int(train.pixels.sum()), 1)
    weights = weights_by("inverse_sqrt", train)
    for folder in ("dataset", "experiment"):
        (setup.output / folder).mkdir(parents=True, exist_ok=True)
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
        setup.name, batch_size=batch, class_weights="inverse_sqrt" if unequal else None, lr=settings.lr
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
    return name[:100] or "mine"


def _require_free(name: str, output: Path, conf: Path, *, overwrite: bool) -> None:
    for group in ("dataset", "experiment"):
        own = output / group / f"{name}.yaml"
        if own.exists() and not overwrite:
            raise UserError(f"{own} exists already; give another name=..., or overwrite=true")
        if (conf / group / f"{name}.yaml").exists() and conf.resolve() != output.resolve():
            raise UserError(f"name={name}: segkit has a {group} option of this name; give another name=...")
        if own.exists() and "Written by init_dataset.py" not in own.read_text(encoding="utf-8"):
            raise UserError(f"{own} was not written by init_dataset.py; give another name=...")
