"""Where a run leaves its traces, and where its time went."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from segkit.contracts import Tracker
from segkit.engine.evaluator import Evaluation
from segkit.engine.progress import Display
from segkit.run.checkpoint_store import CheckpointKeeper
from segkit.run.run_folder import RunFolder


@dataclass
class Recording:
    """Where a run leaves its traces.

    Attributes:
        folder: the run folder.
        keeper: the checkpoints in it.
        tracker: the recorder beside it.
        display: what a person sees meanwhile.
        identity: what every checkpoint carries beside the state: the config, the label space.
        on_best: called with every evaluation that is the best so far.
        on_score: called with the monitored score and the number of each evaluation, once it is saved. What it
            raises ends the run.
    """

    folder: RunFolder
    keeper: CheckpointKeeper
    tracker: Tracker
    display: Display
    identity: Mapping[str, Any] = field(default_factory=dict[str, Any])
    on_best: Callable[[Evaluation], None] = lambda evaluation: None
    on_score: Callable[[float, int], None] = lambda score, evaluation: None


@dataclass
class Clock:
    """Where the time of this process went, in seconds: steps in all, of that waiting for data, and evaluations."""

    steps: float = 0.0
    waiting: float = 0.0
    evaluation: float = 0.0
    images: int = 0
