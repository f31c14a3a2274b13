"""Tasks, one file each: data, models, loss and metric."""

from grawa.lab.tasks.cifar import Cifar10, Cifar100
from grawa.lab.tasks.custom import custom
from grawa.lab.tasks.digits import Digits
from grawa.lab.tasks.glyphs import Glyphs
from grawa.lab.tasks.imagenet import ImageNet
from grawa.lab.tasks.logistic import Logistic
from grawa.lab.tasks.quadratic import Quadratic
from grawa.lab.tasks.task import Data, Task
from grawa.lab.tasks.text import Text
from grawa.lab.tasks.wells import Wells

__all__ = [
    "Cifar10",
    "Cifar100",
    "Data",
    "Digits",
    "Glyphs",
    "ImageNet",
    "Logistic",
    "Quadratic",
    "Task",
    "Text",
    "Wells",
    "custom",
]
