"""The options of `gpu.py`."""

from dataclasses import dataclass

PARTS = ("round", "step", "stacked", "resume")
"""What can be measured."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    parts: tuple[str, ...] = PARTS
    """What is measured: round, step, stacked, resume."""
    device: str = "cuda"
    """Where: cuda, or cpu, where times mean nothing for a GPU."""
    workers: tuple[int, ...] = (1, 4)
    """Numbers of hosted workers of a round."""
    rounds: int = 15
    """Timed rounds of each method."""
    transformer: tuple[int, int, int, int, int] = (1024, 50257, 768, 12, 12)
    """Context, symbols, width, blocks and heads; 163 million parameters by default, as GPT-2 with
    an output layer of its own."""
    texts: int = 8
    """Texts in a batch of the transformer, each as long as the context."""
    resnet: str = "resnet50"
    """A residual network of grawa.lab.tasks.models."""
    images: int = 128
    """Images in a batch of the residual network."""
    side: int = 224
    """Pixels of an image's side."""
    turns: int = 3
    """Cycles from one round to the next of each variant of a step."""
    sync_every: int = 64
    """Local steps of a cycle, of which the last, with the round, is not timed."""
    fleet: int = 64
    """Hosted workers of digits, looped and stacked."""
    fleet_steps: int = 192
    """Local steps of each of them."""
    copied_bytes: int = 2**30
    """Bytes that are copied to measure the memory's bandwidth."""


ORDINARY = Config()

TOY = Config(
    device="cpu",
    workers=(1, 2),
    rounds=1,
    transformer=(8, 16, 8, 1, 1),
    texts=1,
    resnet="resnet20",
    images=1,
    side=8,
    turns=1,
    sync_every=2,
    fleet=2,
    fleet_steps=2,
    copied_bytes=2**12,
)
