"""What the script prints of options and rooms is what the pages hold."""

from __future__ import annotations

import runpy
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.test_layering import ORDER

SCRIPT: dict[str, Any] = runpy.run_path(str(REPOSITORY / "scripts" / "option_table.py"))


@pytest.mark.parametrize("page", SCRIPT["PAGES"])
def test_a_page_holds_what_the_script_prints(page: str) -> None:
    assert (REPOSITORY / page).read_text() == SCRIPT["filled"](page), "run python scripts/option_table.py --write"


def test_every_option_that_is_chosen_by_name_stands_in_the_table() -> None:
    table = SCRIPT["option_table"]()
    for group in SCRIPT["GROUPS"]:
        for file in (REPOSITORY / "conf" / group).glob("*.yaml"):
            assert f"| `{file.stem}` |" in table, file


def test_every_folder_with_modules_is_a_room_with_a_docstring() -> None:
    rooms = SCRIPT["rooms"]()
    for file in (REPOSITORY / "segkit").rglob("*.py"):
        if "hydra_plugins" not in file.parts and file.parent.name != "segkit":
            assert f"{file.parent.name}/ " in rooms, file


def test_contributing_lists_the_rooms_in_the_order_of_the_layers() -> None:
    text = " ".join((REPOSITORY / "CONTRIBUTING.md").read_text().split())
    assert " ".join(ORDER) in text
