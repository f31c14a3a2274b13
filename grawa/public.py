"""All names that `grawa` offers; see README.md."""

import grawa.integrations as integrations
from grawa.averager import Averager
from grawa.comm.elastic import Elastic
from grawa.comm.lighthouse import lighthouse
from grawa.errors import CommunicationError, DivergedError, UserError
from grawa.launching.launch import launch
from grawa.math.top_k import TopK
from grawa.optim import SAM
from grawa.process_group import distributed
from grawa.rounds.guard import Guard
from grawa.rounds.report import RoundReport
from grawa.rounds.schedule import Every, Quadratic, SharedCount, Warmup
from grawa.scores import DisplacementNorms, GradientNorms, ProbeLoss, ProbeNorms, TrainingLoss
from grawa.scores.groups import by_block, by_model, by_tensor
from grawa.strategies import (
    DPPF,
    EASGD,
    GRAWA,
    LGRAWA,
    LSGD,
    MGRAWA,
    RDA,
    DataParallel,
    DiLoCo,
    EDiT,
    LocalSGD,
    OuterSteps,
    SlowMo,
)
from grawa.strategies.center import OuterNesterov
from grawa.strategies.outer_optimizer import OuterOptimizer
from grawa.strategies.protocol import Strategy
from grawa.version import __version__
from grawa.workers.batchnorm import recalibrate_batchnorm

__all__ = [
    "DPPF",
    "EASGD",
    "GRAWA",
    "LGRAWA",
    "LSGD",
    "MGRAWA",
    "RDA",
    "SAM",
    "Averager",
    "CommunicationError",
    "DataParallel",
    "DiLoCo",
    "DisplacementNorms",
    "DivergedError",
    "EDiT",
    "Elastic",
    "Every",
    "GradientNorms",
    "Guard",
    "LocalSGD",
    "OuterNesterov",
    "OuterOptimizer",
    "OuterSteps",
    "ProbeLoss",
    "ProbeNorms",
    "Quadratic",
    "RoundReport",
    "SharedCount",
    "SlowMo",
    "Strategy",
    "TopK",
    "TrainingLoss",
    "UserError",
    "Warmup",
    "__version__",
    "by_block",
    "by_model",
    "by_tensor",
    "distributed",
    "integrations",
    "launch",
    "lighthouse",
    "recalibrate_batchnorm",
]
