"""The methods: frozen values, each a `grawa.strategies.protocol.Strategy`."""

from grawa.strategies.controls import InverseLoss, RandomWeights
from grawa.strategies.data_parallel import DataParallel
from grawa.strategies.diloco import DiLoCo
from grawa.strategies.dppf import DPPF
from grawa.strategies.easgd import EASGD
from grawa.strategies.edit import EDiT
from grawa.strategies.grawa import GRAWA, LGRAWA, MGRAWA
from grawa.strategies.local_sgd import LocalSGD
from grawa.strategies.lsgd import LSGD
from grawa.strategies.outer_steps import OuterSteps
from grawa.strategies.rda import RDA
from grawa.strategies.slowmo import SlowMo
from grawa.strategies.soft_pull import SoftPull

__all__ = [
    "DPPF",
    "EASGD",
    "GRAWA",
    "LGRAWA",
    "LSGD",
    "MGRAWA",
    "RDA",
    "DataParallel",
    "DiLoCo",
    "EDiT",
    "InverseLoss",
    "LocalSGD",
    "OuterSteps",
    "RandomWeights",
    "SlowMo",
    "SoftPull",
]
