"""`python scripts/init_dataset.py FOLDER`: a config for a folder of images and masks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from segkit.cli.app import CONF, PACKAGE, launch

if TYPE_CHECKING:
    from omegaconf import DictConfig

WITH_VALUE = frozenset(
    "--config-path -cp --config-name -cn --config-dir -cd --package -p --info -i --experimental-rerun".split()
)
"""Options of Hydra that are followed by a value of theirs."""


def task(config: DictConfig) -> None:
    from segkit.commands.dataset_setup import run

    run(config, CONF, CONF.parent == PACKAGE.parent)


def main() -> None:
    sys.argv[1:] = with_folder_key(sys.argv[1:])
    launch("init_dataset", task)


def with_folder_key(arguments: Sequence[str]) -> list[str]:
    """The arguments with a first plain path as `folder=...`, quoted as Hydra's grammar wants it."""
    result: list[str] = []
    found, previous = False, ""
    for argument in arguments:
        # What begins like a path is one, even with a = in it.
        is_path = not argument.startswith("-") and ("=" not in argument or argument.startswith(("/", ".", "~/")))
        if is_path and not found and previous not in WITH_VALUE:
            quoted = argument.replace("\\", "\\\\").replace("'", "\\'") if "'" in argument else argument
            argument, found = f"folder='{quoted}'", True
        result.append(argument)
        previous = argument
    return result


if __name__ == "__main__":
    main()
