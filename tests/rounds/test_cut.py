"""Models are cut into fragments of equal bytes, or where a function says."""

from collections.abc import Sequence

import pytest
import torch
from torch import nn
from torch.optim import SGD

import grawa
from grawa.scores.groups import Grouping
from tests.helpers import INPUTS, OUTPUTS, Fleet, batches


class Blocks(nn.Module):
    """Four blocks between an embedding and a head, named as in transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Linear(INPUTS, 6)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)) for _ in "abcd")
        self.head = nn.Linear(6, OUTPUTS)
        self.double()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.emb(inputs)
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        out: torch.Tensor = self.head(hidden)
        return out


def test_blocks_are_numbered_modules() -> None:
    names = [name for name, _ in Blocks().named_parameters()]
    found = grawa.by_block(names)
    assert {n: g for n, g in zip(names, found, strict=True) if n.endswith("weight")} == {
        "emb.weight": 0,
        **{f"layers.{i}.{j}.weight": i for i in range(4) for j in range(2)},
        "head.weight": 3,
    }
    encoder = ["enc.layers.0.w", "enc.layers.1.w", "enc.norm.w", "dec.layers.0.w", "dec.layers.1.w"]
    assert grawa.by_block(encoder) == (0, 1, 1, 2, 3)
    assert grawa.by_block(["weight", "bias"]) == (0, 0)


def made(fragments: Grouping | int, hosted: int = 2) -> tuple[int, torch.Tensor]:
    torch.manual_seed(0)
    fleet = Fleet(hosted, Blocks)
    data = batches(steps=8, workers=hosted)
    with grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=4, fragments=fragments
    ) as averager:
        fleet.train(data, averager)
    return averager.round, fleet.parameters()


def by_hand(names: Sequence[str]) -> tuple[int, ...]:
    """What `by_block` says of `Blocks`."""
    parts = [name.split(".") for name in names]
    return tuple(
        {"emb": 0, "head": 3}.get(p[0], int(p[1]) if p[1].isdecimal() else 0) for p in parts
    )


def test_a_block_at_a_time_is_a_fragment_at_a_time() -> None:
    rounds, params = made(grawa.by_block)
    assert rounds == 11  # four in each of two intervals; at the end all but the last, which is new
    assert torch.equal(made(by_hand)[1], params)


@pytest.mark.parametrize(
    "fragments",
    [
        lambda names: [0] * (len(names) - 1),
        lambda names: [1] * len(names),
        lambda names: [0, 2, *[2] * (len(names) - 2)],
        lambda names: [0, 1, *[0] * (len(names) - 2)],
    ],
    ids=["too few", "from 1", "a gap", "back again"],
)
def test_fragments_that_are_not_neighbours_in_order_are_refused(
    fragments: Grouping,
) -> None:
    with pytest.raises(grawa.UserError, match="fragments must give each of the"):
        made(fragments)


def test_more_blocks_than_steps_between_rounds_are_refused() -> None:
    model = Blocks()
    with pytest.raises(grawa.UserError, match=r"at most sync_every \(3\).* got 4"):
        grawa.Averager(
            model,
            SGD(model.parameters(), lr=0.1),
            grawa.LGRAWA(),
            sync_every=3,
            fragments=grawa.by_block,
        )
