"""Lists of sample names: dealt out by class and group, read from files, told apart by a digest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from segkit.contracts import UserError
from segkit.data.datasets.subsets import shown
from segkit.data.files.bounded import UnusableError, read_text
from segkit.data.files.pairing import same_spelling
from segkit.data.statistics.sample_facts import Counted
from segkit.data.statistics.stratification import stratified


def make_folds(
    counted: Counted, *, folds: int, seed: int, group_pattern: str | None = None, test_share: float = 0.0
) -> dict[str, list[str]]:
    """Sample names by list: fold_0, fold_1, ... of equal size, and test where it has a share. See `make_lists`."""
    shares = {f"fold_{number}": (1 - test_share) / folds for number in range(folds)}
    return make_lists(counted, shares | ({"test": test_share} if test_share else {}), seed, group_pattern)


def make_lists(
    counted: Counted, shares: Mapping[str, float], seed: int, group_pattern: str | None = None
) -> dict[str, list[str]]:
    """Sample names by list, so that each list has its share of the images and of every class's pixels.

    Samples of one group stay together, and so do samples with the same image, whatever their groups: neither
    may be trained on here and evaluated there.

    Raises UserError when the pattern is wrong or does not fit a name, or when a list would be left empty.
    """
    facts = counted.facts
    groups = _groups(facts, group_pattern)
    labels = _joined(groups, [fact.content for fact in facts.values()])
    places = stratified(counted.pixels, labels, list(shares.values()), seed)
    lists: dict[str, list[str]] = {name: [] for name in shares}
    parts = list(shares)
    for name, place in zip(facts, places.tolist(), strict=True):
        lists[parts[place]].append(name)
    if empty := [name for name, names in lists.items() if not names]:
        raise UserError(
            f"{shown(empty)}: nothing left to put there; the data set has {len(facts)} samples "
            f"in {len(set(labels))} groups for {len(shares)} lists, and identical images count as one group"
        )
    return lists


def _groups(names: Sequence[str] | Mapping[str, object], pattern: str | None) -> list[str]:
    """The group of each name: what `pattern` finds in it, or the name itself."""
    if pattern is None:
        return list(names)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"group_pattern={pattern!r}: not a regular expression ({error})") from None
    found = {name: expression.search(name) for name in names}
    if unmatched := [name for name, match in found.items() if match is None]:
        raise UserError(f"group_pattern={pattern!r} finds nothing in {shown(unmatched)}; every name must have a group")
    return [match[1] if expression.groups else match[0] for match in found.values() if match is not None]


def _joined(groups: Sequence[str], contents: Sequence[str]) -> list[int]:
    """Number of the group of each sample, where groups that share an image are one."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    for group, content in zip(groups, contents, strict=True):
        parent[root(f"content {content}")] = root(f"group {group}")
    numbers: dict[str, int] = {}
    return [numbers.setdefault(root(f"group {group}"), len(numbers)) for group in groups]


def read_list(file: Path) -> list[str]:
    """The names in a list, one a line; empty lines do not count. Raises UserError."""
    try:
        text = read_text(file, errors="surrogateescape")
    except UnusableError as error:
        raise UserError(f"{file}: no list of samples here ({error})") from None
    names = [line for line in text.split("\n") if line.strip()]
    if not names:
        raise UserError(f"{file}: the list is empty")
    return names


def as_named(names: Sequence[str], samples: Iterable[str]) -> list[str]:
    """The names in a list as the data set spells them: letters with accents, blanks at the end, backslashes.

    What is no sample in any spelling stays as it is.
    """
    known = {same_spelling(sample): sample for sample in samples}

    def own(name: str) -> str:
        spellings = name, name.strip(), name.strip().replace("\\", "/")
        return next((known[key] for key in map(same_spelling, spellings) if key in known), name)

    return [own(name) for name in names]


def digest(lists: Mapping[str, Sequence[str]]) -> str:
    """What tells lists of the same samples from others, whatever their order."""
    made = hashlib.sha256()
    for part in sorted(lists):
        made.update(f"{part}\n".encode())
        for name in sorted(lists[part]):
            made.update(b"\0" + name.encode("utf-8", "surrogateescape"))
    return made.hexdigest()[:16]
