"""Collects the code blocks of the documents: each page is run from top to bottom.

What the pages take for granted, such as a model and its optimizer, is defined here.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from torch import nn

import grawa


def _given(names: dict[str, Any]) -> None:
    """A training of a small model, without batches to train on in an endless loop."""
    torch.manual_seed(0)
    names["before"] = os.getcwd()
    names["folder"] = tempfile.TemporaryDirectory()
    os.chdir(names["folder"].name)
    model = nn.Sequential(nn.Linear(20, 8), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = torch.randn(200, 20), torch.randint(3, (200,))
    names.update(
        torch=torch, nn=nn, grawa=grawa, model=model, optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 1),
        loss_fn=nn.functional.cross_entropy, inputs=inputs[:8],
        targets=targets[:8], train_inputs=inputs, train_targets=targets,
        loader=list(zip(inputs.split(8), targets.split(8), strict=True)),
        averager=grawa.Averager(model, optimizer, grawa.LocalSGD()),
        epochs=2, train_one_epoch=lambda: None,
    )  # fmt: skip


def _over(names: dict[str, Any]) -> None:
    os.chdir(names["before"])
    names["folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    path=str(Path(__file__).parent),
    patterns=["README.md", "docs/**/*.md"],
    setup=_given,
    teardown=_over,
).pytest()
