"""The flatness of a run's saved models: its consensus, and its workers if they were kept."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.flatness import (
    Disagreement,
    Flatness,
    Surface,
    Valley,
    disagreement,
    measure,
    valley,
)
from grawa.lab.experiments.flatness_config import FlatnessConfig
from grawa.lab.tasks import Data, Task
from grawa.math.finite import finite_or_none
from grawa.modes import evaluating
from grawa.seeding import generator
from grawa.workers.batchnorm import recalibrate_batchnorm

FLATNESS_SCHEMA = 2
"""Version of `flatness.json`; increased when the meaning of a field changes."""

CONSENSUS = "consensus"
"""The name of the consensus among the models."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Models of one task, and the loss as a function of their parameters.

    Args:
        task: the task.
        data: the training and test data.
        surface: the loss over some of the training samples.
        known: data whose test samples are training samples, to measure the training error.
        states: name -> state dict, the consensus first.
        rounds: the workers' parameters before each of some rounds, (N, P); none if it is not to be
            measured in which directions they differ.
    """

    task: Task
    data: Data
    surface: Surface
    known: Data
    states: Mapping[str, Mapping[str, Tensor]]
    rounds: Sequence[Tensor] = ()

    @classmethod
    def of(
        cls,
        task: Task,
        data: Data,
        states: Mapping[str, Mapping[str, Tensor]],
        config: FlatnessConfig,
    ) -> "Subject":
        """Draws the samples.

        Args:
            task: the models' task.
            data: on the device and in the dtype for the measurements.
            states: name -> state dict.
            config: has the numbers of samples.

        Returns:
            The subject, with a model of the data's dtype and device.
        """
        inputs = data.train_inputs
        like = inputs if inputs.is_floating_point() else inputs.double()
        random = generator(config.seed, "flatness", "samples")
        order = torch.randperm(len(inputs), generator=random).to(inputs.device)
        picked = order[: config.samples]
        model = task.model(0).to(like.device, like.dtype)
        surface = Surface(
            model=model,
            loss=task.loss,
            inputs=task.prepare(inputs[picked], model),
            targets=data.train_targets[picked],
            recalibrate=True,
        )
        train = (inputs, data.train_targets)
        if config.gap_samples < len(inputs):
            train = (inputs[order[: config.gap_samples]], train[1][order[: config.gap_samples]])
        known = Data(*data[:2], *train)
        return cls(task=task, data=data, surface=surface, known=known, states=states)

    @property
    def workers(self) -> list[str]:
        """The names of all models except the consensus."""
        return [name for name in self.states if name != CONSENSUS]

    def with_rounds(self, kept: Mapping[int, Mapping[str, Tensor]]) -> "Subject":
        """Adds the workers' parameters before rounds, so that their disagreement is measured.

        Args:
            kept: worker -> its parameters, name -> (R, *shape), not numbers where it had no part;
                if there are none, the workers' last parameters are taken, unless they are equal.

        Returns:
            The subject, with the rounds in which two or more workers had a part.

        Raises:
            UserError: if the parameters don't fit the task's model, or are not of one run.
        """
        rounds: list[Tensor] = []
        if kept:
            found = [self._before_rounds(each) for each in kept.values()]
            if len(numbers := sorted({len(each) for each in found})) > 1:
                raise UserError(
                    f"--keep-rounds has kept {', '.join(map(str, numbers))} rounds of different "
                    "workers, so these are not of one run: train again"
                )
            stack = torch.stack(found, dim=1)
            rounds = [workers[workers.isfinite().all(dim=1)] for workers in stack]
        elif self.workers:
            last = torch.stack([self.position(name) for name in self.workers])
            rounds = [last] if bool((last != last[0]).any()) else []
        return replace(self, rounds=[workers for workers in rounds if len(workers) > 1])

    def _before_rounds(self, kept: Mapping[str, Tensor]) -> Tensor:
        """One worker's parameters before rounds, (R, P), in the surface's order."""
        own = [(n, p) for n, p in self.surface.model.named_parameters() if p.requires_grad]
        wrong = [n for n, p in own if n not in kept or kept[n].shape[1:] != p.shape]
        if wrong or len({len(kept[name]) for name, _ in own}) > 1:
            raise UserError(
                "the parameters kept by --keep-rounds are not of this task's model"
                + (f": {wrong[0]} is missing or has another shape" if wrong else "")
            )
        return torch.cat([kept[n].reshape(len(kept[n]), -1).to(p) for n, p in own], dim=1)

    def counts(self) -> dict[str, int]:
        """Numbers of training samples (for the loss, in total, for the error) and of parameters."""
        return {
            "samples": len(self.surface.inputs),
            "of_samples": len(self.data.train_inputs),
            "gap_samples": len(self.known.test_inputs),
            "parameters": self.surface.position().numel(),
        }

    def put(self, name: str) -> None:
        """Loads a model, and computes its BatchNorm statistics anew from the samples."""
        self.surface.model.load_state_dict(self.states[name])
        recalibrate_batchnorm(self.surface.model, self.surface.batches)

    def position(self, name: str) -> Tensor:
        """Loads a model, and returns its parameters as a vector, (P,)."""
        self.put(name)
        return self.surface.position()

    def errors(self) -> tuple[float, float]:
        """The loaded model's metric on training samples, and on test samples."""
        model = self.surface.model
        with evaluating(model):
            return self.task.measure(model, self.known), self.task.measure(model, self.data)


@dataclass(frozen=True, kw_only=True)
class RunFlatness:
    """The measurements of a run.

    Args:
        models: name -> measurements, the consensus first.
        errors: name -> the task's metric on training samples and on test samples.
        valley: around the consensus, toward the workers; `None` if it could not be measured.
        no_valley: why not.
        disagreement: in which directions workers differ; `None` if it was not measured.
        no_disagreement: why not.
    """

    models: Mapping[str, Flatness]
    errors: Mapping[str, tuple[float, float]]
    valley: Valley | None
    no_valley: str
    disagreement: Disagreement | None = None
    no_disagreement: str = ""

    def as_json(self) -> dict[str, Any]:
        """All measurements as plain values; numbers that are not finite become `None`.

        Returns:
            The values; a model's "gap" is its test error minus its error on training samples.
        """
        models = {}
        for name, one in self.models.items():
            train, test = self.errors[name]
            errors = {"train_error": train, "test_error": test, "gap": test - train}
            known = {what: finite_or_none(error) for what, error in errors.items()}
            models[name] = {**known, **one.as_json()}
        through = self.valley
        plain = None
        if through is not None:
            borders = [b if math.isfinite(b) else None for b in through.border_distances]
            measured = {**asdict(through), "border_distances": borders}
            plain = {**measured, "inverse_mean": through.inverse_mean}
        spectrum = self.disagreement
        return {
            "models": models,
            "valley": plain,
            "no_valley": self.no_valley,
            "disagreement": None if spectrum is None else spectrum.as_json(),
            "no_disagreement": self.no_disagreement,
        }


def parts(subject: Subject, config: FlatnessConfig) -> int:
    """Number of parts that `measure_run` reports for all models, for a progress bar."""
    each = 2 + len(config.radii) + (2 if config.eigenvalues else 0)
    return each * len(subject.states) + 1 + bool(subject.rounds)


def measure_run(
    subject: Subject,
    config: FlatnessConfig,
    before_part: Callable[[str], object],
    names: Collection[str] | None = None,
) -> RunFlatness:
    """Measures each model, the valley between all of them, and the workers' disagreement.

    Args:
        subject: the models.
        config: what to measure.
        before_part: called with the name of the next part, `parts` times if all are measured.
        names: the models to measure one by one; all by default. The valley uses all.

    Returns:
        The measurements.
    """
    models, errors = {}, {}
    for name in subject.states if names is None else names:
        subject.put(name)
        errors[name] = subject.errors()
        models[name] = measure(
            subject.surface,
            eigenvalues=config.eigenvalues,
            radii=config.radii,
            ascent_steps=config.ascent_steps,
            seed=config.seed,
            before_part=_named(name, before_part),
        )
    before_part("worker valley")
    found, why = _valley(subject, config.kappa)
    spectrum, missing = _disagreement(subject, config, before_part)
    return RunFlatness(
        models=models,
        errors=errors,
        valley=found,
        no_valley=why,
        disagreement=spectrum,
        no_disagreement=missing,
    )


def _named(name: str, before_part: Callable[[str], object]) -> Callable[[str], object]:
    return lambda part: before_part(f"{name}: {part}")


def _valley(subject: Subject, kappa: float) -> tuple[Valley | None, str]:
    """The valley, or why there is none."""
    if not subject.workers:
        return None, "the workers' parameters were not saved; train with --keep-workers"
    workers = [subject.position(name) for name in subject.workers]
    center = subject.position(CONSENSUS)
    try:
        return valley(subject.surface, center, workers, kappa), ""
    except UserError as error:
        return None, str(error)


def _disagreement(
    subject: Subject, config: FlatnessConfig, before_part: Callable[[str], object]
) -> tuple[Disagreement | None, str]:
    """The disagreement around the consensus, or why there is none."""
    if not subject.rounds:
        return None, "their parameters before rounds were not saved; train with --keep-rounds"
    before_part("disagreement of the workers")
    subject.put(CONSENSUS)
    found = disagreement(
        subject.surface, subject.rounds, eigenvalues=config.eigenvalues, seed=config.seed
    )
    if not found.singular_values:
        return None, "they were equal before each round"
    return found, ""
