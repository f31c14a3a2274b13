"""Tasks: data, model, loss and metric; one file each."""

from grawa.tasks.digits import Digits
from grawa.tasks.logistic import Logistic
from grawa.tasks.quadratic import Quadratic
from grawa.tasks.task import Data, Task

__all__ = ["Data", "Digits", "Logistic", "Quadratic", "Task"]
