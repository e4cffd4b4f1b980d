"""What several test files use: small runs of the real command, in processes of their own."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

REPOSITORY = Path(__file__).resolve().parent.parent

# A network of 60 thousand parameters on 24 images of 32x32: a run of a few steps takes seconds.
TINY = (
    "dataset.image_size=32 dataset.crop_size=32 dataset.num_train=24 dataset.num_val=6 "
    "backbone=timm backbone.name=test_resnet model/head=fcn model.head.channels=16 "
    "trainer.batch_size=4 trainer.evaluate.panel_samples=2 trainer.num_threads=1 trainer.max_epochs=1"
).split()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs that ended well."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    done = train(folder, "trainer.max_epochs=2", "trainer.log_sample_ids=true", "trainer.ema.decay=0.5")
    assert done.returncode == 0, done.stderr
    return folder


def command(*arguments: str, script: str = "train.py", **environment: str) -> list[Any]:
    """Arguments for subprocess.run or Popen: the command line, and its environment."""
    return [
        [sys.executable, str(REPOSITORY / script), *arguments],
        {**os.environ, "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": "/tmp/segkit-mpl", **environment},
    ]


def run(*arguments: str, cwd: Path, script: str = "train.py", timeout: float = 240, **environment: str) -> Any:
    """Run one of the commands in the folder `cwd`; its CompletedProcess with text output."""
    arguments_list, variables = command(*arguments, script=script, **environment)
    return subprocess.run(
        arguments_list, cwd=cwd, env=variables, capture_output=True, text=True, timeout=timeout, check=False
    )


def train(folder: Path, *arguments: str, **keywords: Any) -> Any:
    """A tiny training run into `folder`, without a tracker unless `arguments` choose one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return run(*TINY, "tracker=none", f"hydra.run.dir={folder}", *arguments, cwd=folder.parent, **keywords)


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl of one kind."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def losses(folder: Path) -> dict[int, float]:
    """The training loss of every step; of a step trained again, the last."""
    return {record["step"]: record["loss"] for record in records(folder, "train")}


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


@dataclass
class Ended:
    """How a command ended that was called in the test's own process."""

    returncode: int
    stderr: str


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., Ended]]:
    """Calls a command's `main` in this process and in `tmp_path`: PyTorch is imported once, not once a mistake."""
    handlers = list(logging.getLogger().handlers)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def called(main: Callable[[], None], *arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        GlobalHydra.instance().clear()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Ended(code, capsys.readouterr().err)

    yield called
    GlobalHydra.instance().clear()
    signal.signal(signal.SIGTERM, on_sigterm)
    logging.getLogger().handlers[:] = handlers
