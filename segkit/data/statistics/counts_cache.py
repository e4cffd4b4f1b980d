"""The file that remembers what was counted: its name, whether a sample is still the same, lines read and added."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from segkit.contracts import SampleSource, StoredSamples
from segkit.data.datasets.subsets import leaf
from segkit.data.files.decode import READING_VERSION
from segkit.data.statistics.sample_facts import SampleFacts

NOT_COUNTED = frozenset(
    {
        "split",
        "mean",
        "std",
        "data_mean",
        "data_std",
        "crop_size",
        "epochs",
        "cache_dir",
        "class_names",
        "on_error",
        "decoded_cache",
    }
)
"""Fields of a source that change neither the pixels nor the ids that it reads."""


def fingerprint(source: SampleSource) -> str:
    """Digest of how a data set is read, the same for its splits: where it is, and what becomes of raw ids."""
    base: Any = leaf(source, 0)[0]
    facts: dict[str, Any] = {"pixels": READING_VERSION, "class": f"{type(base).__module__}.{type(base).__qualname__}"}
    if dataclasses.is_dataclass(base):
        fields = [field.name for field in dataclasses.fields(base) if field.init and field.name not in NOT_COUNTED]
        facts |= {name: getattr(base, name) for name in fields}
    if "root" in facts:
        facts["root"] = str(Path(facts["root"]).expanduser().absolute())
    labels = source.labels
    facts |= {"labels": [labels.num_classes, labels.ignore_index, labels.multilabel]}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def stamps_of(source: SampleSource) -> list[str]:
    """What changes when a sample does: sizes and times of its files, else the digest of its source."""
    digests: dict[int, str] = {}
    stamps: list[str] = []
    for index in range(len(source)):
        base, place = leaf(source, index)
        files = base.paths(place) if isinstance(base, StoredSamples) else None
        if files:
            stamps.append(" ".join(_status(path) for path in files))
        else:
            if id(base) not in digests:
                digests[id(base)] = base.identity()["digest"][:16]
            stamps.append(digests[id(base)])
    return stamps


def _status(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size}:{status.st_mtime_ns}"


def load(file: Path | None) -> Mapping[str, SampleFacts]:
    """What the cache holds by name; the last word on a name counts, and a torn line is passed over."""
    known: dict[str, SampleFacts] = {}
    if file is None:
        return known
    with contextlib.suppress(OSError), file.open("rb") as lines:
        for line in lines:
            try:
                entry = json.loads(line)
                name = entry.pop("name")
                known[name] = SampleFacts.model_validate(entry)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue
    return known


@contextlib.contextmanager
def appending(file: Path | None) -> Iterator[Callable[[str, SampleFacts], None]]:
    """A function that adds a line to the cache, handed to the system at once."""
    descriptor = None
    if file is not None:
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                os.write(descriptor, b"\n")  # a kill tore the last line; it ends here

    def append(name: str, facts: SampleFacts) -> None:
        if descriptor is not None:
            line = json.dumps({"name": name, **facts.model_dump()}) + "\n"
            with contextlib.suppress(OSError):
                # One write a line: other processes that append at the same time cannot come in between.
                os.write(descriptor, line.encode())

    try:
        yield append
    finally:
        if descriptor is not None:
            os.close(descriptor)
