"""The options of conf/ as README's table, and the rooms of segkit/ as CONTRIBUTING's tree.

python scripts/option_table.py            # prints both
python scripts/option_table.py --write    # puts them into README.md and CONTRIBUTING.md, between their marks
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
CONF, PACKAGE = REPOSITORY / "conf", REPOSITORY / "segkit"
GROUPS = (
    "model model/head model/auxiliary backbone loss dataset split transform optimizer scheduler trainer predictor "
    "tracker sweep"
).split()
"""Those that a reader chooses from, in the order of the table."""


def option_table() -> str:
    """Every option with the first sentence of its file's comment."""
    lines = ["| group | option | |", "|---|---|---|"]
    for group in GROUPS:
        for number, file in enumerate(sorted((CONF / group).glob("*.yaml"))):
            name = "" if number else f"`{group}`"
            lines.append(f"| {name} | `{file.stem}` | {first_sentence(file)} |")
    return "\n".join(lines)


def first_sentence(file: Path) -> str:
    """Of the comment that a config file begins with. Raises ValueError for a file without one."""
    comments: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @"):
            comments.append(line.removeprefix("#").strip())
    text = " ".join(comments)
    if not text:
        raise ValueError(f"{file}: begin it with a comment that says what it is")
    sentence = re.split(r"(?<=\.)\s+(?=[A-Z0-9`]|optimizer)", text)[0].rstrip(".")
    return sentence.replace("|", "\\|")


def rooms() -> str:
    """Every module that lies flat in the package and every folder, with the first line of its docstring."""
    flat = [file for file in sorted(PACKAGE.glob("*.py")) if file.stem != "__init__"]
    rows = [(f"segkit/{file.name}", first_line(file)) for file in flat]
    rows += [(f"{'    ' * (depth - 1)}{name}/", first_line(file)) for depth, name, file in folders(PACKAGE)]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"    {name:{width}}  {line}" for name, line in rows)


def folders(folder: Path, depth: int = 1) -> Iterator[tuple[int, str, Path]]:
    for file in sorted(folder.glob("*/__init__.py")):
        name = file.parent.name if depth > 1 else f"segkit/{file.parent.name}"
        yield depth, name, file
        yield from folders(file.parent, depth + 1)


def first_line(file: Path) -> str:
    """Of a module's docstring, in one line. Raises ValueError for a module without one."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    if not docstring:
        raise ValueError(f"{file}: begin it with a docstring of one line that says what is in it")
    return " ".join(docstring.partition("\n\n")[0].split()).rstrip(".")


PAGES = {"README.md": option_table, "CONTRIBUTING.md": rooms}
BEGIN, END = "<!-- made by scripts/option_table.py -->", "<!-- end -->"


def filled(page: str) -> str:
    """The text of a page with what belongs between its marks."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{page} has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n\n{PAGES[page]()}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="into README.md and CONTRIBUTING.md")
    if parser.parse_args().write:
        for page in PAGES:
            (REPOSITORY / page).write_text(filled(page), encoding="utf-8")
    else:
        print(*(make() for make in PAGES.values()), sep="\n\n")


if __name__ == "__main__":
    main()
