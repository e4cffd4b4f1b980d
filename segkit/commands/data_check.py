"""`scripts/check_data.py`: everything that is wrong with a data set, and what it is made of, before a GPU is booked."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from segkit.commands.counting import counted_with_progress
from segkit.config import instantiate
from segkit.config.recipe import METHODS
from segkit.config.schema import CheckDataSettings, checked
from segkit.contracts import DataError, LabelSpace, SampleSource, UserError
from segkit.data.datasets.image_mask import Files
from segkit.data.datasets.sbd import Sbd
from segkit.data.datasets.source import Source
from segkit.data.datasets.subsets import faults_of, leaf
from segkit.data.discovery.mask_survey import runs, survey_of_ids
from segkit.data.discovery.unfit_masks import has_soft_edges
from segkit.data.statistics.sample_facts import Counted
from segkit.data.statistics.verification import TURNED_RULE
from segkit.engine.progress import CONSOLE
from segkit.experiment.computed_weights import weights_by
from segkit.models.layers.normalization import IMAGENET
from segkit.reporting import dataset_page, dataset_summary
from segkit.run.run_folder import output_folder, write_json

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
STRAY_VALUES = 8
TURNED = "images that EXIF turns otherwise than their masks, where sizes do not tell which is right. " + TURNED_RULE
OTHER_SCALE = "splits whose values are far from dataset.mean and dataset.std, by which images are normalised"
LIKE_PICTURES = "masks that look like pictures, or like masks resized or compressed with loss"

PALETTES_DIFFER = (
    "masks whose palettes differ: are colours the classes, or numbers? dataset.mask_format=colors reads colours; "
    "dataset.class_mapping={0: 0, 1: 1, ...} says that numbers were meant"
)
SOFT_EDGES = "masks most of whose values stand on edges alone: antialiased, resized or compressed with loss"

Findings = dict[str, list[str]]


@dataclass
class Report:
    """What was found.

    Attributes:
        faults: what has to be mended, by kind: each place.
        remarks: what may be meant so, but is worth a look, by kind.
        absent: why splits are not there.
    """

    labels: LabelSpace
    identities: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    counted: dict[str, Counted] = field(default_factory=dict[str, Counted])
    faults: Findings = field(default_factory=dict[str, list[str]])
    remarks: Findings = field(default_factory=dict[str, list[str]])
    absent: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def num_faults(self) -> int:
        return sum(map(len, self.faults.values()))


def run(config: DictConfig, folder: Path) -> None:
    """Check the data set that `config` names; report in the terminal, and in files of its output, or `folder`.

    Raises DataError, after the report, when something has to be mended.
    """
    values = instantiate.plain(config)
    settings = checked(CheckDataSettings, values)
    output = folder if settings.output is None else output_folder(Path(settings.output), "output")
    make_source = instantiate.build(values["dataset"], "dataset", supplied=("split",))
    sources, absent = find_splits(make_source)
    report = inspect(sources, Path(settings.cache_dir), settings.processes)
    report.absent = absent
    content = as_json(report)
    write_json(output / "report.json", content)
    dataset_page.write(content, output / "report.html")
    dataset_summary.show(content)
    log.info("report: %s and report.json beside it", output / "report.html")
    if report.faults:
        kinds = "\n".join(f"  {len(places)} {kind}" for kind, places in report.faults.items())
        raise DataError(
            f"the data set is not sound: {report.num_faults} findings that have to be mended\n"
            f"{kinds}\nAll of them, with their files: {output / 'report.html'}"
        )


def find_splits(make_source: Any) -> tuple[dict[str, SampleSource], dict[str, str]]:
    """The splits that a data set has, and why others are not there. Raises UserError when there is none."""
    sources: dict[str, SampleSource] = {}
    errors: dict[str, UserError] = {}
    for split in SPLITS:
        try:
            sources[split] = make_source(split=split)
        except UserError as error:
            errors[split] = error
    if not sources:
        raise errors[SPLITS[0]]
    return sources, {split: str(error) for split, error in errors.items()}


def inspect(sources: Mapping[str, SampleSource], cache_dir: Path | None, processes: int | None) -> Report:
    """Everything found of the splits of a data set; what an earlier call has looked at is not read again."""
    labels = next(iter(sources.values())).labels
    report = Report(labels)
    faults: defaultdict[str, list[str]] = defaultdict(list)
    for split, source in sources.items():
        report.counted[split] = counted_with_progress(source, split, cache_dir, processes, verify=True)
        # What training itself checks at its start; its cache is filled now.
        with CONSOLE.status(f"{split}: comparing images and masks"):
            kinds = faults_of(source).by_kind()
        for kind, places in kinds.items():
            faults[kind] += [place for place in places if place not in faults[kind]]
        for kind, place in unfit_masks(source).items():
            faults[kind].append(place)
        if pictures := like_pictures(source):
            report.remarks.setdefault(LIKE_PICTURES, []).extend(pictures)
        if turned := report.counted[split].turned_apart():
            report.remarks.setdefault(TURNED, []).extend(
                f"{_in_split(name, split)}: {how}" for name, how in turned.items()
            )
        if other := _other_scale(source, report.counted[split]):
            report.remarks.setdefault(OTHER_SCALE, []).append(f"{split}: {other}")
        report.identities[split] = dict(source.identity())
        if not kinds:
            for problem in report.counted[split].problems.values():
                faults["samples that cannot be read"].append(problem)
    if leaks := _leaks(report.counted):
        faults["images that stand in more than one split, so that scores flatter"] = leaks
    report.faults = dict(faults)
    report.remarks |= _remarks(report)
    return report


def like_pictures(source: SampleSource) -> list[str]:
    """Masks with more than a few values that are no classes, with how many these are."""
    if not isinstance(source, Files):
        return []
    masks = source.inspected_masks()
    unknown = np.flatnonzero(~source.label_map.is_known(masks.ids))
    owners = np.searchsorted(masks.starts, unknown, side="right") - 1
    numbers = np.bincount(owners, minlength=len(masks.sizes))
    return [
        f"{source.pairs.masks.name(index)}: {numbers[index]} values that are no classes"
        for index in np.flatnonzero(numbers > STRAY_VALUES).tolist()
    ]


def _other_scale(source: SampleSource, counted: Counted) -> str | None:
    """The mean and std of the images, where normalised by those of the data set they would be far from 0 and 1."""
    base = leaf(source, 0)[0] if len(source) else None
    if not isinstance(base, Source) or not counted.facts:
        return None
    found = counted.normalisation()
    usual = IMAGENET.of_channels(base.in_channels)
    own = base.mean or base.data_mean or usual.mean, base.std or base.data_std or usual.std
    for mean, std, own_mean, own_std in zip(found["mean"], found["std"], *own, strict=True):
        if abs(mean - own_mean) > 4 * own_std or not own_std / 8 < std < own_std * 8:
            return f"set dataset.data_mean={found['mean']} dataset.data_std={found['std']}"
    return None


def unfit_masks(source: SampleSource) -> dict[str, str]:
    """Why ids in masks may be no classes, though each is one: palettes that differ, soft edges. With an example."""
    if not isinstance(source, Files) or source.mask_format != "ids" or source.multilabel or isinstance(source, Sbd):
        return {}
    if source.class_mapping is not None:
        return {}  # says of each number what it is
    masks = source.inspected_masks()
    facts = [(source.pairs.masks[index], masks.facts(index)) for index in range(len(source))]
    # Of masks with other ids than those of classes, these are what is told.
    found = survey_of_ids(
        {
            path: frozenset(fact.ids)
            for path, fact in facts
            if fact is not None and source.label_map.is_known(np.array(fact.ids)).all()
        }
    )
    kinds: dict[str, str] = {}
    if found.palettes_differ is not None:
        index, first, where, second, other = found.palettes_differ
        kinds[PALETTES_DIFFER] = f"{index} is {list(first)} in {where}, and {list(second)} in {other}"
    if has_soft_edges(found):
        edges = found.edge_values
        kinds[SOFT_EDGES] = f"{found.example(edges[0])}: {runs(edges[:3])}; {len(edges)} of {len(found.values)} values"
    return kinds


def _leaks(counted: Mapping[str, Counted]) -> list[str]:
    """Samples of different splits whose decoded images are the same, pixel for pixel."""
    holders: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for split, found in counted.items():
        for name, facts in found.facts.items():
            holders[facts.content].append((split, name))
    groups = [group for group in holders.values() if len({split for split, _ in group}) > 1]
    return [" = ".join(_in_split(name, split) for split, name in group) for group in groups]


def _in_split(name: str, split: str) -> str:
    return name if split in Path(name).parts else f"{name} ({split})"


def _remarks(report: Report) -> Findings:
    remarks: defaultdict[str, list[str]] = defaultdict(list)
    for split, counted in report.counted.items():
        same: defaultdict[str, list[str]] = defaultdict(list)
        for name, facts in counted.facts.items():
            same[facts.content].append(name)
            if not sum(facts.pixels):
                remarks["masks without a single labelled pixel"].append(_in_split(name, split))
        for names in same.values():
            if len(names) > 1:
                remarks["images that stand more than once in a split"].append(" = ".join(names))
    totals = {split: counted.pixels.sum(axis=0) for split, counted in report.counted.items()}
    for index, name in enumerate(report.labels.names):
        missing = [split for split, pixels in totals.items() if not pixels[index]]
        if len(missing) == len(totals):
            remarks["classes without a pixel in any split"].append(name)
        elif "train" in missing:
            remarks["classes that are evaluated but not in the train split"].append(name)
    train = totals.get("train")
    if train is not None and np.count_nonzero(train) == 1 and len(train) > 1:
        only = report.labels.names[int(np.argmax(train))]
        remarks["train splits with one class only; is class_mapping right?"].append(only)
    return dict(remarks)


def as_json(report: Report) -> dict[str, Any]:
    """The whole report in plain types."""
    usable = {split: counted for split, counted in report.counted.items() if counted.facts}
    splits = {split: _split_as_json(counted, report.identities[split]) for split, counted in report.counted.items()}
    content: dict[str, Any] = {
        "sound": not report.faults,
        "classes": list(report.labels.names),
        "colors": [list(color) for color in report.labels.colors],
        "faults": report.faults,
        "remarks": report.remarks,
        "absent": report.absent,
        "splits": splits,
    }
    if "train" in usable:
        content |= usable["train"].normalisation()
        content["class_weights"] = {method: weights_by(method, usable["train"]) for method in METHODS}  # pyright: ignore
    return content


def _split_as_json(counted: Counted, identity: Mapping[str, str]) -> dict[str, Any]:
    sizes = Counter(f"{facts.shape[1]}x{facts.shape[0]}" for facts in counted.facts.values())
    return {
        "identity": dict(identity),
        "samples": len(counted.names),
        "unusable": counted.problems,
        "pixels": counted.pixels.sum(axis=0).tolist(),
        "images": (counted.pixels > 0).sum(axis=0).tolist(),
        "ignored_pixels": sum(facts.ignored for facts in counted.facts.values()),
        "sizes": dict(sizes.most_common()),
    }
