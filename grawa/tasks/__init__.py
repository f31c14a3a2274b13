"""Tasks: data, model, loss and metric; one file each."""

from grawa.tasks.cifar import Cifar10, Cifar100
from grawa.tasks.digits import Digits
from grawa.tasks.glyphs import Glyphs
from grawa.tasks.imagenet import ImageNet
from grawa.tasks.logistic import Logistic
from grawa.tasks.quadratic import Quadratic
from grawa.tasks.task import Data, Task
from grawa.tasks.text import Text
from grawa.tasks.wells import Wells

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
]
