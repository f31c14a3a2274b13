"""`grawa evaluate`: measures the model in a run's folder."""

from pathlib import Path

import torch
from rich.console import Console

from grawa.lab.cli import names
from grawa.lab.cli.saved import put_state
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.report.console import metric_text
from grawa.lab.tasks import Task
from grawa.lab.train.sharing import load
from grawa.modes import evaluating


def evaluate_command(run: Path) -> None:
    """Runs `grawa evaluate`.

    Args:
        run: the run's folder.
    """
    console = Console(markup=False)
    with console.status("measuring"):
        task, error = measured_again(run)
    measured = {"metric": task.metric, "error": error}
    console.print(f"{task.metric} of {run}/model.safetensors: {metric_text(measured)}")


def measured_again(run: Path) -> tuple[Task, float]:
    """Measures a run's saved model on the run's test data.

    Args:
        run: the run's folder.

    Returns:
        The run's task, and its metric.
    """
    folder = RunFolder.open(run)
    config = folder.config()
    task = names.task(config.task, config.data)
    data = load(task, config.settings(), torch.device("cpu"))
    model = task.model(config.seed).to(getattr(torch, config.dtype))
    put_state(model, folder.load_model(), run / "model.safetensors", config.task)
    with evaluating(model):
        return task, task.measure(model, data)
