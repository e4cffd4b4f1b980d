"""What the parts of segkit hand to each other. Imports nothing else of segkit but its exceptions."""

from segkit.contracts.batch import Batch, EvaluationData, Targets, TrainingData, integer_mask, num_valid
from segkit.contracts.label_space import ClassWeightMethod, LabelSpace
from segkit.contracts.loop import Schedule, Strategy
from segkit.contracts.model_and_loss import (
    Loss,
    LossTerms,
    Prediction,
    Predictor,
    ProgressAware,
    QueryPrediction,
    Recomputing,
)
from segkit.contracts.run_info import RunInfo, Tracker
from segkit.contracts.sample import ReadingTransform, Sample, SampleSource, SampleView, StoredSamples, Transform
from segkit.contracts.task import Counts, Metric, NamedScores, Task
from segkit.errors import DataError, UserError

__all__ = [
    "Batch",
    "ClassWeightMethod",
    "Counts",
    "DataError",
    "EvaluationData",
    "LabelSpace",
    "Loss",
    "LossTerms",
    "Metric",
    "NamedScores",
    "Prediction",
    "Predictor",
    "ProgressAware",
    "QueryPrediction",
    "ReadingTransform",
    "Recomputing",
    "RunInfo",
    "Sample",
    "SampleSource",
    "SampleView",
    "Schedule",
    "StoredSamples",
    "Strategy",
    "Targets",
    "Task",
    "Tracker",
    "TrainingData",
    "Transform",
    "UserError",
    "integer_mask",
    "num_valid",
]
