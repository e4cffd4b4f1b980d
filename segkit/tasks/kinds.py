"""The task that a label space asks for: the one place that asks whether it is multi-label."""

from __future__ import annotations

from segkit.contracts import LabelSpace, Task
from segkit.tasks.multiclass import Multiclass
from segkit.tasks.multilabel import Multilabel


def task_of(labels: LabelSpace) -> Task:
    return Multilabel(labels) if labels.multilabel else Multiclass(labels)
