"""`scripts/make_splits.py`: lists of samples for training and evaluation, alike in classes, with groups kept whole."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from rich.table import Table
from rich.text import Text

from segkit.commands.counting import counted_with_progress
from segkit.config import instantiate
from segkit.config.schema import MakeSplitsSettings, checked
from segkit.contracts import DataError, UserError
from segkit.data.datasets.subsets import pooled
from segkit.data.statistics.folds import digest, make_folds, make_lists
from segkit.data.statistics.sample_facts import Counted
from segkit.engine.progress import CONSOLE
from segkit.run.run_folder import output_folder, write_json

log = logging.getLogger(__name__)

DESCRIPTION = "splits.json"


def run(config: DictConfig) -> None:
    """Make the lists that `config` asks for, write them, and show how the classes are shared out."""
    values = instantiate.plain(config)
    settings = checked(MakeSplitsSettings, values)
    output = output_folder(Path(settings.output), "output")
    _require_empty(output)
    source = pooled(instantiate.build(values["dataset"], "dataset", supplied=("split",)), settings.pool)
    source.check()
    counted = counted_with_progress(source, "+".join(settings.pool), Path(settings.cache_dir), settings.processes)
    if counted.problems:
        raise DataError("\n".join(counted.problems.values()))
    if settings.folds is None:
        rest = 1 - settings.test_share
        if settings.val_share >= rest:
            raise UserError(
                f"val_share={settings.val_share} and test_share={settings.test_share} leave nothing to train on"
            )
        shares = {"train": rest - settings.val_share, "val": settings.val_share}
        shares |= {"test": settings.test_share} if settings.test_share else {}
        lists = make_lists(counted, shares, settings.seed, settings.group_pattern)
    else:
        lists = make_folds(
            counted,
            folds=settings.folds,
            seed=settings.seed,
            group_pattern=settings.group_pattern,
            test_share=settings.test_share,
        )
    made = settings.model_dump(include={"folds", "val_share", "test_share", "group_pattern", "pool", "seed"})
    write_lists(lists, output, made | {"dataset": dict(source.identity())})
    show(lists, counted)
    log.info("lists: %s", output)
    use = "split=lists" if settings.folds is None else f"split=kfold split.folds={settings.folds}"
    pool = "" if settings.pool == ("train", "val") else f" 'split.pool=[{','.join(settings.pool)}]'"
    fold = "" if settings.folds is None else " split.fold=0"
    log.info("next: python train.py ... %s split.folder=%s%s%s", use, output, pool, fold)


def write_lists(lists: Mapping[str, Sequence[str]], folder: Path, made: Mapping[str, object]) -> None:
    """Write each list as text, a name a line in order, and what they were made of and how as JSON."""
    if unwritable := [name for names in lists.values() for name in names if "\n" in name or not name.strip()]:
        raise UserError(f"{unwritable[0]!r}: a name with a line break cannot stand in a list; rename the file")
    folder.mkdir(parents=True, exist_ok=True)
    for part, names in lists.items():
        text = "".join(f"{name}\n" for name in sorted(names))
        (folder / f"{part}.txt").write_text(text, encoding="utf-8", errors="surrogateescape")
    sizes = {part: len(names) for part, names in lists.items()}
    write_json(folder / DESCRIPTION, {**made, "samples": sizes, "digest": digest(lists)})


def show(lists: Mapping[str, Sequence[str]], counted: Counted) -> None:
    """Each class's share of the pixels of each list: a row of equal numbers is a class well dealt out."""
    places = {name: row for row, name in enumerate(counted.facts)}
    pixels = {part: counted.pixels[[places[name] for name in names]].sum(axis=0) for part, names in lists.items()}
    table = Table("class", box=None, pad_edge=False)
    for part in lists:
        table.add_column(part.replace("fold_", "fold "), justify="right")
    for index, name in enumerate(counted.labels.names):
        shares = [found[index] / max(int(found.sum()), 1) for found in pixels.values()]
        table.add_row(Text(name, overflow="ellipsis", no_wrap=True), *[f"{share:.2%}" for share in shares])
    table.add_row("samples", *[str(len(names)) for names in lists.values()], style="bold")
    CONSOLE.print(table)
    lacking = [
        f"{part} has no pixel of {counted.labels.names[index]}"
        for part, found in pixels.items()
        for index in np.flatnonzero(found == 0).tolist()
        if counted.pixels[:, index].any()
    ]
    for line in lacking:
        CONSOLE.print(Text(line, "yellow"))


def _require_empty(folder: Path) -> None:
    """Lists that a run was trained by must not be replaced unasked."""
    if there := sorted(path.name for path in folder.glob("*.txt")):
        raise UserError(f"output={folder}: has lists already ({', '.join(there[:5])}); give another folder")
