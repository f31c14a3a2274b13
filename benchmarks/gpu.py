"""Measures grawa on one GPU: rounds against the memory's limit, attached steps, stacking, resuming.

A worker that is alone is not averaged, so that its rounds and steps would do nothing. Where one
worker is measured, the method is one that moves a single worker too, and does for it all that it
does for one of many, but for messages. One GPU has nobody to send to.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from command import Benchmark, Results, check_same_options
from common import first_line
from gpu_card import Card
from gpu_config import ORDINARY, PARTS, TOY, Config
from gpu_fleet import fleets
from gpu_resume import resumes
from gpu_rounds import rounds
from gpu_steps import steps
from gpu_tables import tables
from grawa.errors import UserError
from row_pictures import gpu_picture
from samples import Sample, Samples

Items = Mapping[str, Callable[[], dict[str, Any]]]
"""What a part measures: name -> a function that does it, whose result is one sample."""

MEASURED: Mapping[str, Callable[[Config, Card], Items]] = {
    "round": rounds,
    "step": steps,
    "stacked": fleets,
    "resume": resumes,
}

_LONGEST = 200
"""Characters of an error's message that are kept."""


def check(config: Config) -> None:
    """Raises `UserError` if this can't be measured on this machine."""
    for part in config.parts:
        if part not in PARTS:
            raise UserError(f"--parts must be of {', '.join(PARTS)}, got {part}")
    if config.sync_every < 2:
        raise UserError(f"--sync-every must be at least 2, got {config.sync_every}")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "this needs a GPU, and there is none here that torch can use; --toy runs the same at "
            "a tiny size on the CPU"
        )


def measure(config: Config, samples: Samples) -> None:
    """Measures what there is no sample of; what fails is noted, and costs nothing else."""
    card = Card(config.device)
    _, found, _ = samples.read()
    done = {(sample["part"], sample["item"]) for sample in found}
    for part in config.parts:
        for name, item in MEASURED[part](config, card).items():
            if (part, name) not in done:
                began = time.perf_counter()
                outcome = _outcome(item)
                if card.is_gpu:
                    _free_memory()
                samples.add(part=part, item=name, card=card.name, **outcome)
                print(f"{part}: {name}, {time.perf_counter() - began:.1f} s", flush=True)


def _outcome(item: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What an item has found, or why it has failed."""
    try:
        return {"found": item()}
    except Exception as error:  # whatever it is, the other items can be measured
        return {"failed": f"{type(error).__name__}: {first_line(error)[:_LONGEST]}"}


def _free_memory() -> None:
    """For the next item, also after one that ran out of it."""
    gc.collect()  # models and their hooks refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def merge(_: Config, samples: Sequence[Sample]) -> Results:
    """Card, part -> item -> what was found, and why others failed."""
    parts: dict[str, dict[str, Any]] = {}
    for sample in samples:
        if "found" in sample:
            parts.setdefault(sample["part"], {})[sample["item"]] = sample["found"]
    failed = {f"{s['part']}: {s['item']}": s["failed"] for s in samples if "failed" in s}
    return {"card": samples[0]["card"] if samples else None, "parts": parts, "failed": failed}


def resume(
    config: Config, earlier: Config, samples: Sequence[Sample]
) -> tuple[Config, Sequence[Sample]]:
    """Goes on with samples of the same options and card, other parts aside; repeats failures."""
    check_same_options(config, earlier, but=("parts",))
    card = Card(config.device).name
    others = {sample["card"] for sample in samples} - {card}
    if others:
        raise UserError(
            f"the samples are of {', '.join(sorted(others))}, and this is {card}: leave out "
            "--resume, or choose another folder (--out)"
        )
    both = tuple(part for part in PARTS if part in config.parts or part in earlier.parts)
    return replace(config, parts=both), [s for s in samples if "found" in s]


def draw(_: Config, results: Results, folder: Path) -> None:
    """Draws the times of rounds and steps, if they are a GPU's."""
    if results["card"] not in {None, "cpu"}:
        gpu_picture(results["card"], results["parts"], folder / "gpu.png")


BENCHMARK = Benchmark(
    name="gpu",
    text=__doc__,
    takes="less than 4 minutes of one GPU, by an estimate",
    config=ORDINARY,
    toy=TOY,
    measure=measure,
    merge=merge,
    show=tables,
    draw=draw,
    check=check,
    resume=resume,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
