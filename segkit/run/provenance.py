"""Where a run came from, as tags: the state of the code, the versions of its packages, the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

from segkit.config.credentials import masked
from segkit.run.machine import available_cores

PACKAGES = (
    "segkit",
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "albumentations",
    "torchmetrics",
    "hydra-core",
    "numpy",
)

GIT_TIMEOUT_S = 10.0


def git_state(folder: Path, diff_to: Path | None = None, *, max_diff_bytes: int = 1_000_000) -> dict[str, str]:
    """Tags git.commit, git.branch and git.dirty of the checkout around `folder`; empty where there is none.

    `diff_to` receives what differs from the commit in tracked files, cut at `max_diff_bytes`, when something
    does; passwords in addresses are masked. Untracked files make a checkout dirty too but stand in no diff: they may
    be data.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    status = _git(folder, "status", "--porcelain") or ""
    if diff_to is not None and status:
        diff = masked(_git(folder, "diff", "HEAD") or "", pairs=False).encode()
        cut = b"\n[cut here]\n" if len(diff) > max_diff_bytes else b""
        if diff:
            diff_to.write_bytes(diff[:max_diff_bytes] + cut)
    return {
        "git.commit": commit.strip(),
        "git.branch": (_git(folder, "branch", "--show-current") or "").strip() or "(detached)",
        "git.dirty": str(bool(status)).lower(),
    }


def versions() -> dict[str, str]:
    """Tags version.<package> of those installed, and version.python; nothing is imported for it."""
    found = {"version.python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[f"version.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str]:
    """Tags machine.host, machine.system, machine.cpus, machine.gpus where torch is loaded and sees any."""
    found = {
        "machine.host": platform.node(),
        "machine.system": platform.platform(),
        "machine.cpus": str(available_cores()),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        found["machine.gpus"] = ", ".join(gpus)
    return found


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command in `folder`; None when git is missing, slow, or finds no commit there."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}  # never in the way of the user's own git
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=GIT_TIMEOUT_S,
            check=True,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout
