"""Every key of every option changes something, or is refused with a message; none is read by nobody."""

from __future__ import annotations

import copy
import inspect
import shutil
import typing
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from segkit.config import instantiate
from segkit.data.datasets.source import Source
from segkit.errors import UserError
from tests.harness.checks import write_files, write_lists
from tests.harness.options import CONF, Option, every
from tests.harness.other_values import others
from tests.harness.views import VIEWS, view

KEYS = {"model/head": "model.head", "model/auxiliary": "model.auxiliary", "trainer": "trainer.strategy"}
"""Where the options of a group stand in the config, if not below its own name."""

WEIGHTS = [1.0, 2.0, 0.5, 3.0, 1.0, 0.1, 4.0]
FLIP = {"_target_": "albumentations.HorizontalFlip", "p": 1.0}

GIVEN: dict[str, list[dict[str, Any]]] = {
    "class_weights": [{".": WEIGHTS}],
    "TimmBackbone.name": [{".": "resnet34"}],
    "Source.ignore_index": [{".": 254, "class_mapping": {0: 0, 1: 1, 2: 2, 255: 254}}],
    "SetPredictionLoss.num_points": [{".": 20}],
    "EoMT.name": [{".": "vit_tiny_patch16_224"}],
    "SmpSegmenter.encoder": [{".": "resnet34"}],
    "encoder_options": [{".": {"drop_path_rate": 0.3}}],
    "create_optimizer_v2.opt": [{".": "adam"}],
    "MixTransformer.name": [{".": "mit_b1"}],
    "options": [{".": {"drop_path_rate": 0.3}}],
    "Files.train_split": [{".": "val"}],
    "Files.root": [{".": "{root}/other"}],
    "Source.class_names": [{".": ["a", "b", "c"]}],
    "Source.colors": [{".": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}],
    "Files.class_mapping": [{".": {0: 0, 1: 2, 2: 1, 255: 255}}],
    "CsvTable.table": [{".": "more.csv"}],
    "CsvTable.image_column": [{".": "second"}],
    "CsvTable.mask_column": [{".": "second"}],
    "SplitLists.images_dir": [{".": "images_2"}],
    "SplitLists.masks_dir": [{".": "masks_2"}],
    "SplitLists.splits_dir": [{".": "splits_2"}],
    "multistep.milestones_steps": [{".": [20, 50], "milestones_epochs": None}],
    "step_decay.every_steps": [{".": 7, "every_epochs": None}],
    "KFold.folder": [{".": "{root}"}],
    "KFold.group_pattern": [{".": r"\d+$"}],
    "Lists.folder": [{".": "{root}/other"}],
    "pool": [{".": ["train", "val", "test"]}],
    "PadIfNeeded.min_height": [{".": 64}],
    "PadIfNeeded.min_width": [{".": 64}],
    "steps": [{".": [FLIP]}],
}
"""By parameter, or class and parameter: values to try, "." the key's own, beside its neighbours'.

For keys of which the values that are made from their own and their annotation are not enough."""

ONE_VALUE = {
    "fill_mask": "pixels that a transform uncovers have no label: only dataset.ignore_index is allowed",
    "random_crop.size": "samples of another size than transform.size do not stack to a batch",
    "MixTransformer.gradient_checkpointing": "it has no stages that could be computed again",
    "Shapes.num_classes": "the shapes that are drawn are seven",
}
"""Keys of which every other value is refused with a message, and why."""

UNSEEN: dict[str, str] = {
    "pretrained": "weights are fetched from the Hugging Face Hub",
    "weights": "names a file of weights, as tests/models/backbones/test_timm_backbone.py makes one",
    "Files.mask_format": "needs masks of colours, as tests/data/datasets/test_folder.py writes them",
    "Files.ignore_colors": "goes with mask_format=colors",
    "Source.multilabel": "needs masks of layers, as tests/cli/test_multilabel.py writes them",
    "Segmenter.pyramid": "needs a plain transformer, as tests/models/backbones/test_pyramid.py has one",
    "Mapillary.version": "goes with a class mapping; dataset=mapillary and mapillary_v2 have each",
}
"""Keys whose effect cannot be seen here, and why."""

FIRST = {
    "timm": "a small network stands for all of timm's",
    "folder": "stands for all data sets of files",
    "class_balanced": "lays crops on classes, so that it matters on which",
}
"""Options that are tried before the others of their group, and why."""

NOTHING = "nothing changes"
MOST_CANDIDATES = 8


def leaves(node: Mapping[str, Any], key: str) -> Iterator[tuple[str, str, Any, Any]]:
    """Class and parameter, dotted key, value and annotation of every key of a node and of nodes in it."""
    target = node.get("_target_")
    hints = annotations(target, key) if target else {}
    for name, value in node.items():
        if name in instantiate.SPECIAL_KEYS:
            continue
        at = f"{key}.{name}"
        if isinstance(value, Mapping) and holds_node(value):
            yield from leaves(value, at)
        elif isinstance(value, list) and holds_node(value):
            for number, item in enumerate(value):
                yield from leaves(item, f"{at}[{number}]")
        else:
            yield f"{owner(target, name, key)}.{name}", at, value, hints.get(name)


def owner(target: str | None, name: str, key: str) -> str:
    """The class whose key it is: of data sets the one that declares it, since their keys do what is written there."""
    if target is None:
        return key
    found = instantiate.locate(target, key)
    if inspect.isclass(found) and issubclass(found, Source):
        found = [part for part in found.__mro__ if name in inspect.get_annotations(part)][-1]
    return found.__name__


def holds_node(value: Any) -> bool:
    return next(instantiate.nodes(value, ""), None) is not None


def annotations(target: str, key: str) -> dict[str, Any]:
    found = instantiate.locate(target, key)
    try:
        return typing.get_type_hints(found.__init__ if inspect.isclass(found) else found)
    except (NameError, TypeError, AttributeError):
        return {}


def changed(config: Any, changes: Mapping[str, Any]) -> Any:
    config = copy.deepcopy(config)
    for key, value in changes.items():
        OmegaConf.update(config, key, value, merge=False, force_add=True)
    return config


def elsewhere(group: str, config: Any, key: str) -> Any:
    """Of a data set's keys: what the rest of the config takes from them."""
    if group != "dataset":
        return None
    values = instantiate.plain(config)
    del values["dataset"][key.partition(".")[2]]
    return values


def effect(group: str, config: Any, key: str, tries: list[dict[str, Any]]) -> str | None:
    """None if some candidate does something else than `config`; else what became of all of them."""
    before = view(group, config), elsewhere(group, config, key)
    told: list[str] = []
    for changes in tries:
        other = changed(config, changes)
        try:
            if (view(group, other), elsewhere(group, other, key)) != before:
                return None
            told.append(f"{changes}: {NOTHING}")
        except UserError as error:
            told.append(f"{changes}: {str(error).splitlines()[0][:120]}")
    return "\n  ".join(told)


def has_keys_of_its_own(group: str, name: str) -> bool:
    """Whether an option is more than other values for the keys of the one that it starts from."""
    content = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    bases = [base for base in content.pop("defaults", []) if isinstance(base, str) and base != "_self_"]
    known = {key for base in bases for key in yaml.safe_load((CONF / group / f"{base}.yaml").read_text())}
    return not content.keys() <= known or not bases


@pytest.mark.parametrize("group", VIEWS)
def test_a_key_changes_something(group: str, tmp_path: Path) -> None:
    """Each parameter of each class once, in the first option that has it."""
    of_group = [name for its_group, name in every() if its_group == group]
    names = [name for name in of_group if name in FIRST or has_keys_of_its_own(group, name)]
    names.sort(key=lambda name: name not in FIRST)
    tried: set[str] = set()
    wrong = [line for name in names for line in idle_keys(Option(group, name, tmp_path / name), tried)]
    assert not wrong, "\n".join(wrong)


def idle_keys(option: Option, tried: set[str]) -> Iterator[str]:
    """What is wrong with keys of an option that are not yet among the `tried` ones, which they join."""
    group = option.group
    config = option.compose(*["model=fcn", "model.head.channels=16"] * (group in ("backbone", "optimizer")))
    if group == "dataset":
        write_files(option)
        if option.root.exists():
            shutil.copytree(option.root, option.root / "other")
    if group == "split":
        write_lists(option.root)
        write_lists(option.root / "other", first=1)
    key = KEYS.get(group, group)
    for of, at, value, annotation in leaves(instantiate.plain(OmegaConf.select(config, key)), key):
        if of in tried or (group == "model" and at.split(".")[1] in ("backbone", "head", "auxiliary")):
            continue
        tried.add(of)
        told = effect(group, config, at, candidates(option, of, at, value, annotation))
        names = {of, of.rpartition(".")[2]}
        listed = bool(names & {*ONE_VALUE, *UNSEEN})
        if told is None and listed:
            yield f"{at} ({of}) can be seen; take it off the list"
        if told is not None and (not listed or (names & {*ONE_VALUE} and NOTHING in told)):
            yield f"{at} ({of}) = {value!r}:\n  {told}"


def candidates(option: Option, of: str, at: str, value: Any, annotation: Any) -> list[dict[str, Any]]:
    parent = at.rpartition(".")[0]
    for changes in GIVEN.get(of) or GIVEN.get(of.rpartition(".")[2]) or []:
        filled = {name: to.format(root=option.root) if isinstance(to, str) else to for name, to in changes.items()}
        return [{at if name == "." else f"{parent}.{name}": to for name, to in filled.items()}]
    return [{at: other} for other in islice(others(value, annotation), MOST_CANDIDATES)]
