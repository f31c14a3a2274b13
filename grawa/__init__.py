"""Train deep networks on several workers that rarely talk; see README.md."""

from grawa.averager import Averager
from grawa.batchnorm import recalibrate_batchnorm
from grawa.errors import CommunicationError, DivergedError, UserError
from grawa.guard import Guard
from grawa.optim import SAM
from grawa.probe import GradientProbe, LossProbe
from grawa.protocols import Communicator, Round, Score, State, Strategy
from grawa.round_report import RoundReport
from grawa.schedule import Every, Quadratic, Schedule, SharedCount, Warmup
from grawa.scores import (
    Delayed,
    GradientNorms,
    NormTimesLoss,
    Presence,
    ProbeGradientNorms,
    ProbeLoss,
    RmsGradientNorms,
    TrainingLoss,
)
from grawa.stack import Leaves, Stack, by_model, by_tensor
from grawa.strategies import (
    DPPF,
    EASGD,
    GRAWA,
    LGRAWA,
    LSGD,
    MGRAWA,
    DataParallel,
    DiLoCo,
    InverseLoss,
    LocalSGD,
    RandomWeights,
    SlowMo,
    SoftPull,
)
from grawa.strategies.center import OuterNesterov
from grawa.train.launch import distributed
from grawa.version import __version__

__all__ = [
    "DPPF",
    "EASGD",
    "GRAWA",
    "LGRAWA",
    "LSGD",
    "MGRAWA",
    "SAM",
    "Averager",
    "CommunicationError",
    "Communicator",
    "DataParallel",
    "Delayed",
    "DiLoCo",
    "DivergedError",
    "Every",
    "GradientNorms",
    "GradientProbe",
    "Guard",
    "InverseLoss",
    "Leaves",
    "LocalSGD",
    "LossProbe",
    "NormTimesLoss",
    "OuterNesterov",
    "Presence",
    "ProbeGradientNorms",
    "ProbeLoss",
    "Quadratic",
    "RandomWeights",
    "RmsGradientNorms",
    "Round",
    "RoundReport",
    "Schedule",
    "Score",
    "SharedCount",
    "SlowMo",
    "SoftPull",
    "Stack",
    "State",
    "Strategy",
    "TrainingLoss",
    "UserError",
    "Warmup",
    "__version__",
    "by_model",
    "by_tensor",
    "distributed",
    "recalibrate_batchnorm",
]
