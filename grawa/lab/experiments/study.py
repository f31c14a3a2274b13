"""A study: what is compared, under which conditions, on which seeds; and the trials it takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from grawa.errors import UserError
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.flatness import FlatnessConfig
from grawa.lab.experiments.options import Changes, changed

Axis = Literal["time", "rounds", "bytes", "steps"]
"""By which amount of what methods are compared: seconds, times that workers talked, bytes sent by a
worker, or its local steps."""

Role = Literal["pace", "tune", "test"]
"""What a trial is for: to learn what a step costs, to choose a setting, or to be compared."""


_REPORTS = 4
"""Reports of a method that shares gradients in `sync_every` steps; each costs a small message."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One of the things that are compared.

    Attributes:
        name: as tables show it.
        method: its method; the same for several arms if a knob is what differs.
        value: of that knob; empty if there is none.
        settings: what may be chosen from by tuning; the first is taken if there is none.
        shares_gradients: whether its workers talk at every step.
    """

    name: str
    method: str
    value: str = ""
    settings: tuple[Changes, ...]
    shares_gradients: bool


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a comparison is made under.

    Attributes:
        name: as tables show it.
        options: what it changes in a run.
    """

    name: str
    options: Changes

    @property
    def is_population(self) -> bool:
        """Whether it is a random population of workers, one of many."""
        return any(fault.startswith("mixed:") for fault in self.options.get("fault", ()))


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training run of a study.

    Attributes:
        key: its name within the study.
        role: what it is for.
        arm: whose it is.
        setting: which of the arm's settings.
        condition: its name.
        seed: of the run.
        config: the run.
        points: at how many points its curve is measured; 0 for the end alone.
        flatness: how that of its end is measured; `None` for not at all.
    """

    key: str
    role: Role
    arm: str
    setting: int
    condition: str
    seed: int
    config: TrainConfig
    points: int = 0
    flatness: FlatnessConfig | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything that was asked, frozen.

    Attributes:
        kind: "compare" or "ablate".
        base: what all runs have in common.
        arms: what is compared.
        conditions: under what.
        seeds: that the comparison is made on. Random populations have as many, each its own, so
            that they are independent of each other.
        tune_seeds: that settings are chosen on; none for no tuning. Random populations have their
            own here too: else one split of the data would choose.
        tune_conditions: under which one setting of each arm is chosen for all conditions; none for
            a choice under each condition by itself.
        baseline: the arm that the others' differences are taken to; in an ablation the value of the
            knob, and each method's differences are taken to its own arm there.
        axis: by which amount of what arms are compared.
        points: at how many points curves are measured.
        knob: what differs in an ablation; empty in a comparison.
        flatness: how that of a compared run's end is measured; `None` for not at all.
        flat_conditions: the names of the conditions under which it is; none for all.
    """

    kind: Literal["compare", "ablate"]
    base: TrainConfig
    arms: tuple[Arm, ...]
    conditions: tuple[Condition, ...]
    seeds: tuple[int, ...]
    tune_seeds: tuple[int, ...] = ()
    tune_conditions: tuple[Condition, ...] = ()
    baseline: str
    axis: Axis
    points: int
    knob: str = ""
    flatness: FlatnessConfig | None = None
    flat_conditions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = [arm.value or arm.name for arm in self.arms]
        if self.baseline not in known:
            allowed = ", ".join(dict.fromkeys(known))
            raise UserError(f"the baseline must be one of {allowed}, got {self.baseline!r}")
        if not self.seeds or self.points < 1:
            raise UserError("a study needs at least one seed and one point")
        if self.flatness:
            self.flatness.check()
        names = [condition.name for condition in self.conditions]
        for name in self.flat_conditions:
            if name not in names:
                raise UserError(
                    f"flatness can be measured under {', '.join(names)}, not under {name!r}"
                )

    def arm(self, name: str) -> Arm:
        """The arm of this name."""
        return next(arm for arm in self.arms if arm.name == name)

    def baseline_of(self, name: str) -> str:
        """The name of the arm that this arm's differences are taken to; of itself, perhaps."""
        own = self.arm(name)
        alike = [a for a in self.arms if not own.value or a.method == own.method]
        return next(a.name for a in alike if self.baseline in {a.value, a.name})

    @property
    def measured(self) -> list[str]:
        """The names of the conditions under which flatness is measured."""
        if self.flatness is None:
            return []
        return list(self.flat_conditions) or [condition.name for condition in self.conditions]

    @property
    def populations(self) -> list[str]:
        """The names of the conditions that are random populations."""
        return [condition.name for condition in self.conditions if condition.is_population]

    def seeds_under(self, condition: Condition) -> list[int]:
        """The seeds that the comparison is made on under a condition."""
        return _seeds_under(condition, self.conditions, self.seeds)

    def pace_trials(self) -> list[Trial]:
        """Two rounds of each arm and half of a third, which tell what steps and rounds cost.

        Returns:
            The trials; none if steps are what counts.
        """
        if self.axis == "steps":
            return []
        clean = Condition(name="any", options={})
        return [self._trial("pace", arm, 0, clean, self.seeds[0], None) for arm in self.arms]

    def first_point(self, arm: Arm, steps: int) -> int:
        """After how many local steps a compared run of an arm is first measured.

        Args:
            arm: which.
            steps: that it makes in all.

        Returns:
            The steps, with rounds evenly spaced.
        """
        config = changed(self.base, arm.settings[0])
        found = _measured(config, arm, steps, self.points)
        first: int = found["sync_every"] * found["evaluate_every"] // config.fragments
        return min(steps, first)

    def tune_trials(self, steps: Mapping[str, int]) -> list[Trial]:
        """All settings of all arms on the validation seeds.

        Args:
            steps: arm -> local steps of each worker.

        Returns:
            The trials, seed by seed.
        """
        conditions = self.tune_conditions or self.conditions
        return [
            self._trial("tune", arm, i, where, seed, steps[arm.name])
            for seeds in zip(
                *(_seeds_under(where, conditions, self.tune_seeds) for where in conditions),
                strict=True,
            )
            for seed, where in zip(seeds, conditions, strict=True)
            for arm in self.arms
            for i in range(len(arm.settings))
        ]

    def test_trials(
        self, steps: Mapping[str, int], chosen: Mapping[tuple[str, str], int]
    ) -> list[Trial]:
        """Every arm with its setting, under every condition, on every seed.

        Args:
            steps: arm -> local steps of each worker.
            chosen: (arm, condition) -> which setting.

        Returns:
            The trials, seed by seed.
        """
        return [
            self._trial("test", arm, chosen[arm.name, where.name], where, seed, steps[arm.name])
            for seeds in zip(*map(self.seeds_under, self.conditions), strict=True)
            for seed, where in zip(seeds, self.conditions, strict=True)
            for arm in self.arms
        ]

    def count(self) -> int:
        """How many trials there are in all."""
        settings = sum(len(arm.settings) for arm in self.arms)
        tune = len(self.tune_seeds) * len(self.tune_conditions or self.conditions) * settings
        test = len(self.seeds) * len(self.conditions) * len(self.arms)
        return len(self.pace_trials()) + tune + test

    def _trial(
        self, role: Role, arm: Arm, setting: int, condition: Condition, seed: int, steps: int | None
    ) -> Trial:
        config = changed(self.base, arm.settings[setting], condition.options, {"seed": seed})
        points = {"pace": 2, "tune": 0, "test": self.points}[role]
        if steps is None:
            steps = 2 * config.sync_every + (0 if arm.shares_gradients else config.sync_every // 2)
        config = changed(config, {"steps": steps, **_measured(config, arm, steps, points)})
        return Trial(
            key="/".join([role, arm.name, condition.name, str(seed), str(setting)]),
            role=role,
            arm=arm.name,
            setting=setting,
            condition=condition.name,
            seed=seed,
            config=config,
            points=points,
            flatness=self.flatness if role == "test" and condition.name in self.measured else None,
        )


def _seeds_under(
    condition: Condition, conditions: Sequence[Condition], seeds: Sequence[int]
) -> list[int]:
    """These seeds, or as many others for each random population among the conditions."""
    if not condition.is_population:
        return list(seeds)
    number = [one.name for one in conditions if one.is_population].index(condition.name)
    return [seed + number * len(seeds) for seed in seeds]


def _measured(config: TrainConfig, arm: Arm, steps: int, points: int) -> Changes:
    """What makes a run measure its curve at so many points."""
    every = config.sync_every
    if arm.shares_gradients:  # its rounds only report, and few steps may be all that it can afford
        every = max(1, every // _REPORTS)
    rounds = config.fragments * (steps // every)
    return {"sync_every": every, "evaluate_every": max(1, rounds // points) if points else 0}
