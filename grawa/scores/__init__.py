"""What workers report about themselves before a round."""

from grawa.scores.groups import sum_groups
from grawa.scores.loss import TrainingLoss
from grawa.scores.presence import Presence
from grawa.scores.probe_norms import Probe, ProbeGradientNorms
from grawa.scores.product import NormTimesLoss
from grawa.scores.rms_norms import RmsGradientNorms
from grawa.scores.training_norms import GradientNorms

__all__ = [
    "GradientNorms",
    "NormTimesLoss",
    "Presence",
    "Probe",
    "ProbeGradientNorms",
    "RmsGradientNorms",
    "TrainingLoss",
    "sum_groups",
]
