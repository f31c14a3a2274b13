"""What workers report about themselves before a round."""

from grawa.scores.delayed import Delayed
from grawa.scores.displacement import DisplacementLengths, DisplacementNorms
from grawa.scores.groups import sum_groups
from grawa.scores.loss import TrainingLoss
from grawa.scores.probe import ProbeLoss, ProbeNorms
from grawa.scores.product import NormTimesLoss
from grawa.scores.rms_norms import RmsGradientNorms
from grawa.scores.training_norms import GradientNorms

__all__ = [
    "Delayed",
    "DisplacementLengths",
    "DisplacementNorms",
    "GradientNorms",
    "NormTimesLoss",
    "ProbeLoss",
    "ProbeNorms",
    "RmsGradientNorms",
    "TrainingLoss",
    "sum_groups",
]
