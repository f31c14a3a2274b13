"""The methods, one line apart. Every one is a frozen value; see `grawa.protocols.Strategy`."""

from grawa.strategies.data_parallel import DataParallel
from grawa.strategies.diloco import DiLoCo
from grawa.strategies.easgd import EASGD
from grawa.strategies.grawa import GRAWA, LGRAWA, MGRAWA
from grawa.strategies.local_sgd import LocalSGD
from grawa.strategies.lsgd import LSGD

__all__ = ["EASGD", "GRAWA", "LGRAWA", "LSGD", "MGRAWA", "DataParallel", "DiLoCo", "LocalSGD"]
