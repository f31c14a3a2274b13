"""Train deep networks on several workers that rarely talk; see README.md."""

from grawa.averager import Averager
from grawa.comm.protocol import Communicator
from grawa.errors import CommunicationError, DivergedError, UserError
from grawa.math.leaves import Leaves, Stack
from grawa.optim import SAM
from grawa.process_group import distributed
from grawa.rounds.guard import Guard
from grawa.rounds.report import RoundReport
from grawa.rounds.schedule import Every, Quadratic, Schedule, SharedCount, Warmup
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
from grawa.scores.groups import by_model, by_tensor
from grawa.scores.protocol import Score
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
from grawa.strategies.protocol import Round, State, Strategy
from grawa.version import __version__
from grawa.workers.batchnorm import recalibrate_batchnorm
from grawa.workers.probe import GradientProbe, LossProbe

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
