"""The studies of the evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evidence_kinds import SMALL_TEXT, Asked, Kind

DILOCO = "diloco:outer.momentum=0.9"
"""With the outer momentum of its paper."""

METHODS = (
    "mgrawa:score=training,lgrawa:score=training,mgrawa:score=probe,uniform,random,inverse_loss,"
    "easgd,easgd:sync_every=4,lsgd,lsgd:sync_every=4,local_sgd,"
    f"{DILOCO},dppf,dp_sgd,dp_sam"
)
"""EASGD and LSGD have rounds as rarely as GRAWA, or every 4 steps as in the paper, which costs
time."""

FEWER = (
    "mgrawa:score=training,lgrawa:score=training,mgrawa:score=probe,uniform,inverse_loss,"
    "easgd:sync_every=4,lsgd:sync_every=4,local_sgd"
)
"""Methods for tasks with expensive runs."""

_BY_LABEL = "dirichlet:0.3"
_ALL = ("clean", "wrong-labels:3", "lr-x6:3", _BY_LABEL, "gradient-noise=2:3", "batch-of-one:3")
CONDITIONS = ",".join(_ALL)
NO_LABELS = ",".join(name for name in _ALL if name != _BY_LABEL)
"""Conditions for tasks without a label for each sample."""

_KINDS = f"clean,{_BY_LABEL}"
"""Data dealt evenly, and workers whose data differ in kind."""

LINK = ("--link", "1gbit:5ms")
"""With this link a data-parallel step takes 1.9 times a local step of 50 ms: its all-reduce takes
30 ms, and the roll call before it, with which the guard leaves out workers that are not finite,
15 ms."""

TUNED = ("--tune-faults", "clean,wrong-labels:3", "--grid", "8")
"""Chooses one setting of each method for all conditions."""


def _compare(*words: str) -> Asked:
    return Asked(kind=Kind.METHODS, words=("compare", *words, *LINK, *TUNED))


def _small(task: str) -> Asked:
    return _compare(
        task,
        *("--strategies", METHODS, "--faults", CONDITIONS, "--lr", "0.2"),
        *("--steps", "320", "--seeds", "10", "--tune", "4"),
    )


HELD_OUT = ",".join(f"mixed:{seed}" for seed in range(40, 60))
"""Random populations that were drawn after methods and their tuning had been fixed."""
HELD_OUT_LATER = ",".join(f"mixed:{seed}" for seed in range(100, 120))
"""Random populations for questions that came up after `HELD_OUT` had been used; the populations
between the two were used to explore them."""
HELD_OUT_FAMILY = ",".join(f"mixed:{seed}" for seed in range(200, 220))
"""Random populations that nobody had seen before the whole family was compared on them."""
_SEEN = [f"mixed:{seed}" for seed in range(2000, 2008)]
"""Populations on which each method's setting is chosen. With only three of them, and one split of
the data, the chosen learning rates cost one point of error."""

OUTER = "outer.lr=1:outer.momentum=0.5"
_EQUAL = f"mgrawa:score=training:power=0:{OUTER}"
_TIMES_LOSS = f"mgrawa:score=probe-times-loss:{OUTER}"
MAP_CONTROLS = ("uniform", "local_sgd", "inverse_loss:score=probe-loss", _EQUAL)
"""Methods with which all are compared on populations: equal weights, equal weights with a pull of
1, losses on the shared batch in place of norms, and equal weights with outer momentum."""


def _core(late: int) -> tuple[str, ...]:
    """Methods that are in all maps, some with weights from a later round on."""
    return (
        *(
            "mgrawa:score=training",
            "mgrawa:score=probe",
            "uniform",
            "inverse_loss",
            "inverse_loss:score=probe-loss",
        ),
        *("lsgd", _EQUAL),
        f"inverse_loss:score=loss:score.from={late}:{OUTER}",
        _TIMES_LOSS,
        _times_loss_from(late),
    )


def _times_loss_from(late: int | str) -> str:
    """Norms times loss from a round on, with equal weights before it."""
    return f"mgrawa:score=probe-times-loss:score.from={late}:{OUTER}"


_MAPPED = (
    *_core(late=6),
    *("mgrawa:score=norm-times-loss", "local_sgd", f"mgrawa:score=probe:{OUTER}"),
    *(f"inverse_loss:{OUTER}", f"inverse_loss:score=probe-loss:{OUTER}"),
)


_STEEPER = ("mgrawa:score=training:power=2", "mgrawa:score=rms:power=2")
"""Weights proportional to norm^-2, which were best on graded labels in small trials."""

_FOR_CNN = (*_core(late=6), "local_sgd")
_FOR_TEXT = (
    *_core(late=3),
    "local_sgd",
    f"mgrawa:score=probe-times-loss:power=4:{OUTER}",
    "lsgd:pull=0.5",  # grids of four rates leave LSGD's pull alone, and it decides there
)


_FULL_PULL = (
    *("local_sgd", "uniform", "mgrawa:score=training:pull=1", "lgrawa:score=training:pull=1"),
    "mgrawa:score=probe:pull=1",
    *("mgrawa:score=norm-times-loss:pull=1", "mgrawa:score=probe-times-loss:pull=1"),
    *("inverse_loss:pull=1", "inverse_loss:score=probe-loss:pull=1"),
    *(f"mgrawa:score=training:power=0:pull=1:{OUTER}", _TIMES_LOSS),
    "mgrawa:score=probe-times-loss:score.from=6:pull=1",
    "inverse_loss:score=probe-loss:score.from=6:pull=1",
    "inverse_loss:score=probe-loss:power=2:pull=1",
)
"""Weighted methods with a pull of 1, since LocalSGD, which has that pull, was close to the best in
the maps. The last three were added after the results of the others, so all are repeated on other
populations."""


def _family(late: int) -> tuple[str, ...]:
    """One of each kind of method, all with a pull of 1 and the outer optimizer of DiLoCo's default.

    Args:
        late: the round from which norms times loss count, half of a run's.
    """
    return (
        *("local_sgd", "diloco", "local_sgd:prox=0.5:prox_probability=0.1"),
        *("mgrawa:score=probe:pull=1", "lgrawa:score=probe:pull=1"),
        *("mgrawa:score=displacement:pull=1", "edit:outer.lr=0.7:outer.momentum=0.3", "rda"),
        "inverse_loss:score=probe-loss:pull=1",
        f"mgrawa:score=probe-times-loss:score.from={late}:pull=1",
    )


def _populations(
    task: str,
    workers: int,
    methods: Sequence[str],
    *words: str,
    kind: Kind = Kind.POPULATIONS,
    seen: int = len(_SEEN),
    held_out: str = HELD_OUT,
    grid: int = 4,
    controls: tuple[str, ...] = MAP_CONTROLS,
) -> Asked:
    return Asked(
        kind=kind,
        words=(
            *("compare", task, "--strategies", ",".join(methods)),
            *("--workers", str(workers), "--sync-every", "16", *words),
            *("--axis", "steps", "--points", "2", "--flatness", "0", "--tune", "1"),
            *("--grid", str(grid), "--tune-faults", ",".join(_SEEN[:seen]), "--faults", held_out),
        ),
        controls=controls,
    )


def _full_pull(task: str, *words: str) -> Asked:
    return _populations(
        task,
        8,
        _FULL_PULL,
        *words,
        kind=Kind.FULL_PULL,
        held_out=HELD_OUT_LATER,
        controls=("uniform",),
    )


def _family_populations(task: str, *words: str, late: int = 6, seen: int = len(_SEEN)) -> Asked:
    return _populations(
        task,
        8,
        _family(late),
        *words,
        kind=Kind.FAMILY,
        held_out=HELD_OUT_FAMILY,
        controls=("diloco",),
        seen=seen,
    )


def _family_on_a_link(task: str, *words: str, faults: str = _KINDS, late: int = 6) -> Asked:
    """A study of clean data, and of data that differ in kind, over a slow link."""
    return Asked(
        kind=Kind.LINK,
        words=(
            *("compare", task, "--strategies", ",".join((*_family(late), "data_parallel"))),
            *("--link", "100mbit:25ms", "--faults", faults, "--tune-faults", faults),
            *("--seeds", "10", "--tune", "2", "--grid", "4", "--flatness", "0", *words),
        ),
    )


def _speeds(task: str, *words: str) -> Asked:
    """A study with a shared count of steps, so that slow workers make fewer steps per round."""
    methods = (*_core(late=6), "local_sgd")
    turns = ("--options", "schedule=shared-count")
    return _populations(task, 8, methods, *words, *turns, kind=Kind.SPEEDS)


def _pulls(task: str, *words: str, late: tuple[str, ...] = ()) -> Asked:
    methods = (
        *(
            "mgrawa:score=training",
            "mgrawa:score=probe",
            "uniform",
            "inverse_loss:score=probe-loss",
            "lsgd",
            "easgd",
        ),
        *(_EQUAL, _TIMES_LOSS, *late, "local_sgd"),
    )
    return _populations(task, 8, methods, *words, kind=Kind.PULLS, grid=8)


# Learning rates lie around the best ones: at an edge of a grid its spacing decides.
_MLP = ("--steps", "160", "--seeds", "2")
_CNN = ("--steps", "160", "--seeds", "1")
_TEXT = ("--steps", "64", "--lr", "0.004", "--options", "optimizer=adamw", "--seeds", "1")


def _equal_steps(task: str, dp: str, *words: str) -> Asked:
    """A study at equal steps, as if messages took no time, so data parallel has as many steps."""
    return Asked(
        kind=Kind.STEPS,
        words=(
            *("compare", task, "--strategies", f"mgrawa:score=training,uniform,local_sgd,{dp}"),
            *words,
            *("--axis", "steps", "--seeds", "10", "--tune", "2", "--grid", "8"),
        ),
    )


_BY_TRAINING = "mgrawa:score=training,lgrawa:score=training"


def _knob(knob: str, *words: str) -> Asked:
    return Asked(kind=Kind.KNOB, words=("ablate", "digits", knob, *words))


STUDIES: Mapping[str, Asked] = {
    "digits": _small("digits"),
    "noisy-digits": _small("digits:label_noise=0.2"),
    "glyphs": _small("glyphs"),
    "digits-cnn": _compare(
        "digits:model=cnn",
        *("--strategies", f"{FEWER},dp_sgd,dp_sam", "--lr", "0.1"),
        *("--faults", CONDITIONS),
        *("--steps", "320", "--seeds", "10", "--tune", "2", "--flatness", "64"),
    ),
    "text": _compare(
        SMALL_TEXT,
        *("--strategies", f"{FEWER},data_parallel", "--faults", NO_LABELS),
        *("--batch-size", "8", "--lr", "0.004", "--options", "optimizer=adamw"),
        *("--steps", "160", "--seeds", "10", "--tune", "2"),
        *("--flatness", "16", "--flatness-faults", "clean"),
    ),
    "workers": _knob(
        "workers=4,8,16,32",
        *("--strategies", f"{_BY_TRAINING},uniform,easgd,lsgd,local_sgd,dp_sgd"),
        *("--steps", "320", "--seeds", "10", "--lr", "0.2", "--tune", "2", "--grid", "8"),
        *("--flatness", "0"),
        *("--options", "stack_workers=true"),
    ),
    "sync-every": _knob(
        "sync_every=4,16,32,64,160",
        "--strategies",
        f"{_BY_TRAINING},uniform,easgd,lsgd,local_sgd,{DILOCO}",
        *("--steps", "320", "--seeds", "10", "--lr", "0.2", "--tune", "2", "--grid", "8"),
        *("--flatness", "0"),
    ),
    "graded": Asked(
        kind=Kind.GRADED,
        words=(
            *("compare", "digits", "--faults", "graded-labels,graded-batch"),
            *("--strategies", ",".join((*_MAPPED, *_STEEPER))),
            *("--workers", "8", "--sync-every", "16"),
            *("--steps", "160", "--axis", "steps", "--seeds", "10", "--flatness", "0"),
            *("--lr", "0.2", "--tune", "2", "--grid", "4"),
        ),
    ),
    "unguarded": Asked(
        kind=Kind.UNGUARDED,
        words=(
            *("compare", "digits", "--strategies", METHODS, *LINK, *TUNED),
            *("--faults", CONDITIONS),
            *("--lr", "0.2", "--options", "guard=false", "--steps", "320", "--seeds", "10"),
            *("--tune", "2", "--flatness", "0"),
        ),
    ),
    "steps-digits": _equal_steps("digits", "dp_sgd", "--steps", "320", "--lr", "0.2"),
    "steps-noisy-digits": _equal_steps(
        "digits:label_noise=0.2", "dp_sgd", "--steps", "320", "--lr", "0.2"
    ),
    "steps-glyphs": _equal_steps("glyphs", "dp_sgd", "--steps", "320", "--lr", "0.2"),
    "steps-digits-cnn": _equal_steps(
        "digits:model=cnn", "dp_sgd", "--steps", "320", "--lr", "0.1", "--flatness", "64"
    ),
    "steps-text": _equal_steps(
        SMALL_TEXT,
        "data_parallel",
        *("--batch-size", "8", "--lr", "0.004", "--options", "optimizer=adamw"),
        *("--steps", "160", "--flatness", "16"),
    ),
    "populations-digits-8": _populations("digits", 8, _MAPPED, *_MLP),
    "populations-digits-16": _populations("digits", 16, _MAPPED, *_MLP),
    "populations-glyphs-8": _populations("glyphs", 8, _MAPPED, *_MLP, "--lr", "0.05"),
    "populations-glyphs-16": _populations("glyphs", 16, _MAPPED, *_MLP, "--lr", "0.05"),
    "populations-digits-cnn-8": _populations("digits:model=cnn", 8, _FOR_CNN, *_CNN),
    "populations-digits-cnn-16": _populations("digits:model=cnn", 16, _FOR_CNN, *_CNN),
    "populations-text-8": _populations(SMALL_TEXT, 8, _FOR_TEXT, *_TEXT, seen=4),
    "populations-text-16": _populations(
        SMALL_TEXT, 16, (*_core(late=3), "local_sgd", "lsgd:pull=0.5"), *_TEXT, seen=4
    ),
    "speeds-digits-8": _speeds("digits", *_MLP),
    "speeds-glyphs-8": _speeds("glyphs", *_MLP, "--lr", "0.05"),
    "speeds-digits-cnn-8": _speeds("digits:model=cnn", *_CNN),
    "pulls-digits-8": _pulls("digits", *_MLP),
    "pulls-glyphs-8": _pulls("glyphs", *_MLP, "--lr", "0.05"),
    "pulls-digits-cnn-8": _pulls("digits:model=cnn", *_CNN, late=(_times_loss_from(6),)),
    "full-pull-digits-8": _full_pull("digits", "--steps", "160", "--seeds", "4"),
    "full-pull-glyphs-8": _full_pull("glyphs", "--steps", "160", "--seeds", "4", "--lr", "0.05"),
    "full-pull-digits-cnn-8": _full_pull("digits:model=cnn", "--steps", "160", "--seeds", "2"),
    "family-digits-8": _family_populations("digits", *_MLP),
    "family-glyphs-8": _family_populations("glyphs", *_MLP, "--lr", "0.05"),
    "family-digits-cnn-8": _family_populations("digits:model=cnn", *_CNN),
    "family-text-8": _family_populations(SMALL_TEXT, *_TEXT, late=3, seen=4),
    "link-digits": _family_on_a_link("digits", "--steps", "320", "--lr", "0.2"),
    "link-glyphs": _family_on_a_link("glyphs", "--steps", "320", "--lr", "0.2"),
    "link-digits-cnn": _family_on_a_link("digits:model=cnn", "--steps", "320", "--lr", "0.1"),
    "link-text": _family_on_a_link(
        SMALL_TEXT,
        *("--steps", "160", "--batch-size", "8", "--lr", "0.004"),
        *("--options", "optimizer=adamw"),
        faults="clean",
        late=3,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Maps:
    """Several maps side by side, with the methods that are in all of them.

    Attributes:
        kind: the kind of their studies.
        baseline: the method with which all are compared.
    """

    kind: Kind
    baseline: str


MAPS: Mapping[str, Maps] = {
    "family-maps": Maps(kind=Kind.FAMILY, baseline="local_sgd"),
    "full-pull-maps": Maps(kind=Kind.FULL_PULL, baseline="local_sgd"),
    "maps": Maps(kind=Kind.POPULATIONS, baseline="uniform"),
    "speeds-maps": Maps(kind=Kind.SPEEDS, baseline="uniform"),
    "pulls-maps": Maps(kind=Kind.PULLS, baseline="uniform"),
}

ON_A_LINK: Mapping[str, str] = {"link-clean": "clean", "link-kinds": _BY_LABEL}
"""Name of a table over tasks -> the condition that it is of."""
