"""Environments of their own for what benchmarks compare segkit with, made on first use."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path


def environment(folder: Path, packages: Sequence[str], *, beside_the_running_one: bool = False) -> Path:
    """The Python of a virtual environment at `folder` that has `packages`.

    With `beside_the_running_one`, they come without their dependencies, which are those of the running environment.
    """
    python = folder / "bin" / "python"
    if (folder / "ready").exists():
        return python
    print(f"setting up {folder}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    alone = ["--no-deps"] if beside_the_running_one else []
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *alone, *packages], check=True)
    if beside_the_running_one:
        query = "import sysconfig; print(sysconfig.get_path('purelib'))"
        own = subprocess.run([str(python), "-c", query], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        Path(own, "running_environment.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / "ready").touch()
    return python
