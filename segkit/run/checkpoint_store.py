"""Which checkpoints of a run stay, and how a save replaces them so that one is whole at every instant."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

from segkit.errors import UserError
from segkit.run.checkpoint import Content, read, refused, remove, sync_folder, when_saved, write_flushed


class CheckpointKeeper:
    """Which checkpoints of a run stay: last.pt and previous.pt, best.pt, and top-<step>-<score>.pt for the best k.

    One file is written and linked to every name it deserves. What is kept follows from the folder alone, so a
    resumed run goes on with it.
    """

    TOP = re.compile(r"top-(\d+)-(.+)\.pt")

    def __init__(self, folder: Path, *, keep_top: int, mode: str):
        self.folder = folder
        self.keep_top = keep_top
        self.mode = mode
        self._saves: int | None = None
        self._last_is_whole = False
        self._remove_parts()

    def save(self, content: Content, *, score: float | None = None, is_best: bool = False) -> Path:
        """Write last.pt, and make it one of the best if `score` is finite.

        Raises OSError if it cannot be written; what was saved before is then still there.
        """
        fresh, last = self.folder / ".fresh.part", self.folder / "last.pt"
        try:
            if self._saves is None:
                self._saves = self._look_around()
            write_flushed(content, fresh, self._saves + 1)
            # The best come first: killed in between, the folder holds a best checkpoint that is simply the newest.
            if score is not None and math.isfinite(score):
                self._link(fresh, f"top-{content['state']['step']:08d}-{score:.6f}.pt")
            if is_best:
                self._link(fresh, "best.pt")
            if self._last_is_whole and last.exists():
                self._keep_as_previous(last)
            fresh.replace(last)
            self._last_is_whole = True
            self._saves += 1
            self._drop_all_but_top()
            sync_folder(self.folder)
        except OSError as error:
            self._remove_parts()
            raise refused(last, content, error) from error
        return last

    def top(self) -> list[Path]:
        """The best checkpoints, best first."""
        scored = [
            (float(m.group(2)), int(m.group(1)), p) for p in self.folder.iterdir() if (m := self.TOP.fullmatch(p.name))
        ]
        sign = -1.0 if self.mode == "max" else 1.0
        return [path for *_, path in sorted(scored, key=lambda entry: (sign * entry[0], entry[1]))]

    def paths(self) -> dict[str, Any]:
        """What summary.json says of the checkpoints, relative to the run folder."""
        run_folder = self.folder.parent
        named = {n: self.folder / f"{n}.pt" for n in ("last", "best")}
        shown: dict[str, Any] = {n: str(p.relative_to(run_folder)) for n, p in named.items() if p.exists()}
        return shown | {"top": [str(p.relative_to(run_folder)) for p in self.top()]}

    def delete_all(self) -> None:
        for path in self.folder.glob("*.pt"):
            path.unlink(missing_ok=True)

    def _look_around(self) -> int:
        """Saves into this folder by earlier processes. Notes whether last.pt is whole, and may become previous.pt."""
        numbers = [0]
        for path in self.folder.glob("*.pt"):
            with contextlib.suppress(UserError):
                numbers.append(when_saved(path)[0])
        with contextlib.suppress(UserError):
            read(self.folder / "last.pt")
            self._last_is_whole = True
        return max(numbers)

    def _drop_all_but_top(self) -> None:
        for path in self.top()[self.keep_top :]:
            path.unlink(missing_ok=True)

    def _keep_as_previous(self, last: Path) -> None:
        temporary = self.folder / ".previous.pt.part"
        remove(temporary)
        try:
            os.link(last, temporary)
        except OSError:  # a file system without hard links
            temporary = last
        temporary.replace(self.folder / "previous.pt")
        # Renaming one link of a file to another does nothing: after a kill both names may stand for the same.
        if temporary != last:
            remove(temporary)

    def _link(self, file: Path, name: str) -> None:
        temporary = self.folder / f".{name}.part"
        remove(temporary)
        try:
            os.link(file, temporary)
        except OSError:  # a file system without hard links
            with file.open("rb") as source, temporary.open("wb") as copy:
                shutil.copyfileobj(source, copy)
                copy.flush()
                os.fsync(copy.fileno())
        temporary.replace(self.folder / name)

    def _remove_parts(self) -> None:
        with contextlib.suppress(OSError):
            for part in self.folder.glob(".*.part"):
                remove(part)
