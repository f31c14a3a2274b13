"""A study: what is compared, under which conditions, on which seeds; and its trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from grawa.errors import UserError
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.flatness_config import FlatnessConfig
from grawa.lab.experiments.options import Changes, changed

Axis = Literal["time", "rounds", "bytes", "steps"]
"""What is equal for all methods that are compared: seconds, exchanges between workers, bytes sent
by a worker, or its local steps."""

Role = Literal["pace", "tune", "test"]
"""The purpose of a trial: to measure the cost of a step, to choose a setting, or to be compared."""


_REPORTS = 4
"""Reports of a method that shares gradients in `sync_every` steps; each costs a small message."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One of the methods, or values of a knob, that are compared.

    Attributes:
        name: in tables.
        method: its method, or an alias of it; the same for several arms that differ in a knob.
        alias_of: the method for which the alias stands; empty without an alias.
        value: the knob's value; empty without a knob.
        settings: the settings that tuning tries; without tuning the first is used.
        beyond: settings with learning rates beyond those of `settings`, which tuning tries as far
            as the best ones are at the edge. Their numbers go on from those of `settings`.
        shares_gradients: whether its workers communicate at every step.
    """

    name: str
    method: str
    alias_of: str = ""
    value: str = ""
    settings: tuple[Changes, ...]
    beyond: tuple[Changes, ...] = ()
    shares_gradients: bool

    @property
    def possible(self) -> tuple[Changes, ...]:
        """All settings that tuning may try, by number."""
        return self.settings + self.beyond

    @property
    def written(self) -> str:
        """Its method as it can be written on the command line, without an alias."""
        return self.alias_of or self.method


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A condition of a comparison, such as a fault.

    Attributes:
        name: in tables.
        options: its changes to a run's options.
    """

    name: str
    options: Changes

    @property
    def is_population(self) -> bool:
        """Whether it is a random population of workers."""
        return any(fault.startswith("mixed:") for fault in self.options.get("fault", ()))


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training run of a study.

    Attributes:
        key: its name within the study.
        role: its purpose.
        arm: the name of its arm.
        setting: the number of the arm's setting.
        condition: the name of its condition.
        seed: of the run.
        config: the run's options.
        points: number of points at which its curve is measured; 0 for the end only.
        flatness: how flatness at the end is measured; `None` if it is not.
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
    """A whole study.

    Attributes:
        kind: "compare" or "ablate".
        base: the options that all runs share.
        arms: what is compared.
        conditions: the conditions of the comparison.
        seeds: of the comparison. Each random population has the same number of seeds, but different
            ones, so that populations are independent.
        tune_seeds: validation seeds, on which settings are chosen; empty without tuning. Random
            populations have different ones here too, so that the choice does not depend on one
            split of the data.
        tune_conditions: conditions over which one setting of each arm is chosen for all conditions;
            empty to choose a setting for each condition.
        baseline: the arm with which the others are compared; in an ablation the value of the knob,
            where each method is compared with its own arm at that value.
        axis: what is equal for all arms.
        points: number of points at which curves are measured.
        knob: the option that differs in an ablation; empty in a comparison.
        flatness: how flatness at the end of a compared run is measured; `None` if it is not.
        flat_conditions: the conditions under which flatness is measured; empty for all.
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
        """The arm with this name."""
        return next(arm for arm in self.arms if arm.name == name)

    def baseline_of(self, name: str) -> str:
        """The name of the arm with which this arm is compared; for the baseline, its own name."""
        own = self.arm(name)
        candidates = [a for a in self.arms if not own.value or a.method == own.method]
        return next(a.name for a in candidates if self.baseline in {a.value, a.name})

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
        """The seeds of the comparison under a condition."""
        return _seeds_under(condition, self.conditions, self.seeds)

    def pace_trials(self) -> list[Trial]:
        """Trials of two and a half rounds of each arm, to measure the cost of steps and rounds.

        Returns:
            The trials; none on the axis of steps.
        """
        if self.axis == "steps":
            return []
        clean = Condition(name="any", options={})
        return [self._trial("pace", arm, 0, clean, self.seeds[0], None) for arm in self.arms]

    def first_point(self, arm: Arm, steps: int) -> int:
        """The number of local steps after which a compared run is first measured.

        Args:
            arm: the run's arm.
            steps: the run's total number of local steps.

        Returns:
            The steps, if rounds are evenly spaced.
        """
        config = changed(self.base, arm.settings[0])
        found = _measured(config, arm, steps, self.points)
        first: int = found["sync_every"] * found["evaluate_every"] // config.fragments
        return min(steps, first)

    @property
    def tuned_under(self) -> tuple[Condition, ...]:
        """The conditions under which settings are tried."""
        return self.tune_conditions or self.conditions

    def tune_trials(
        self, steps: Mapping[str, int], settings: Mapping[tuple[str, str], Sequence[int]]
    ) -> list[Trial]:
        """Settings of all arms on the validation seeds.

        Args:
            steps: arm -> local steps of each worker.
            settings: (arm, condition) -> numbers of the settings to try there.

        Returns:
            The trials, ordered by seed.
        """
        conditions = self.tuned_under
        return [
            self._trial("tune", arm, i, where, seed, steps[arm.name])
            for seeds in zip(
                *(_seeds_under(where, conditions, self.tune_seeds) for where in conditions),
                strict=True,
            )
            for seed, where in zip(seeds, conditions, strict=True)
            for arm in self.arms
            for i in settings[arm.name, where.name]
        ]

    def test_trials(
        self, steps: Mapping[str, int], chosen: Mapping[tuple[str, str], int]
    ) -> list[Trial]:
        """Every arm with its setting, under every condition, on every seed.

        Args:
            steps: arm -> local steps of each worker.
            chosen: (arm, condition) -> number of the setting.

        Returns:
            The trials, ordered by seed.
        """
        return [
            self._trial("test", arm, chosen[arm.name, where.name], where, seed, steps[arm.name])
            for seeds in zip(*map(self.seeds_under, self.conditions), strict=True)
            for seed, where in zip(seeds, self.conditions, strict=True)
            for arm in self.arms
        ]

    def count(self) -> int:
        """The number of trials, without those of settings beyond the edges of grids."""
        settings = sum(len(arm.settings) for arm in self.arms)
        tune = len(self.tune_seeds) * len(self.tuned_under) * settings
        test = len(self.seeds) * len(self.conditions) * len(self.arms)
        return len(self.pace_trials()) + tune + test

    def _trial(
        self, role: Role, arm: Arm, setting: int, condition: Condition, seed: int, steps: int | None
    ) -> Trial:
        config = changed(self.base, arm.possible[setting], condition.options, {"seed": seed})
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
    """These seeds; for a random population the same number of other seeds."""
    if not condition.is_population:
        return list(seeds)
    number = [one.name for one in conditions if one.is_population].index(condition.name)
    return [seed + number * len(seeds) for seed in seeds]


def _measured(config: TrainConfig, arm: Arm, steps: int, points: int) -> Changes:
    """The options with which a run measures its curve at so many points."""
    every = config.sync_every
    if arm.shares_gradients:  # its rounds only report, and it may afford few steps only
        every = max(1, every // _REPORTS)
    rounds = config.fragments * (steps // every)
    return {"sync_every": every, "evaluate_every": max(1, rounds // points) if points else 0}
