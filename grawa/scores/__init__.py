"""What workers report about themselves before a round."""

from grawa.scores.delayed import Delayed
from grawa.scores.groups import sum_groups
from grawa.scores.loss import TrainingLoss
from grawa.scores.presence import Presence
from grawa.scores.probe_loss import ProbeLoss
from grawa.scores.probe_norms import ProbeGradientNorms
from grawa.scores.probing import Probe
from grawa.scores.product import NormTimesLoss
from grawa.scores.rms_norms import RmsGradientNorms
from grawa.scores.training_norms import GradientNorms

__all__ = [
    "Delayed",
    "GradientNorms",
    "NormTimesLoss",
    "Presence",
    "Probe",
    "ProbeGradientNorms",
    "ProbeLoss",
    "RmsGradientNorms",
    "TrainingLoss",
    "sum_groups",
]
