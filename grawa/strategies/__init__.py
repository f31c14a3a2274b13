"""The methods, one line apart. Every one is a frozen value; see `grawa.protocols.Strategy`."""

from grawa.strategies.data_parallel import DataParallel
from grawa.strategies.diloco import DiLoCo
from grawa.strategies.dppf import DPPF
from grawa.strategies.easgd import EASGD
from grawa.strategies.grawa import GRAWA, LGRAWA, MGRAWA
from grawa.strategies.inverse_loss import InverseLoss
from grawa.strategies.local_sgd import LocalSGD
from grawa.strategies.lsgd import LSGD
from grawa.strategies.random_weights import RandomWeights
from grawa.strategies.slowmo import SlowMo
from grawa.strategies.soft_pull import SoftPull

__all__ = [
    "DPPF",
    "EASGD",
    "GRAWA",
    "LGRAWA",
    "LSGD",
    "MGRAWA",
    "DataParallel",
    "DiLoCo",
    "InverseLoss",
    "LocalSGD",
    "RandomWeights",
    "SlowMo",
    "SoftPull",
]
