"""What follows from a strategy and a network alone, without measuring anything."""

from collections.abc import Mapping

import torch

from grawa.comm import InProcessCommunicator, Participants
from grawa.lab.planning.predict import Measured, Method
from grawa.lab.simulate.metered import Metered
from grawa.lab.simulate.network import Network
from grawa.math.leaves import Rows
from grawa.math.weights import uniform
from grawa.rounds.roll_call import ROW_LENGTH
from grawa.strategies.protocol import Strategy, first_state

_TRIALS = 16

_LATE = 10**6
"""A local step that is later than any warm-up."""


def costs(name: str, strategy: Strategy, tensors: int, network: Network) -> Method:
    """What a strategy's round sends; what workers compute in it is left out.

    Args:
        name: of the strategy.
        strategy: the strategy.
        tensors: number of the model's parameter tensors.
        network: between the workers.

    Returns:
        Its costs.
    """
    groups = strategy.groups([str(i) for i in range(tensors)])
    sent, busiest = _shares(strategy, network)
    return Method(
        name=name,
        round_work=0.0,
        sent_share=sent,
        busiest_share=busiest,
        shares_gradients=strategy.shares_gradients(_LATE),
        row_length=ROW_LENGTH + (max(groups) + 1 if strategy.score else 0),
        codec_seconds={},
    )


def given(
    parameters: int,
    parameter_bytes: float,
    step_seconds: float,
    strategies: Mapping[str, Strategy],
    network: Network,
    samples: int | None = None,
) -> Measured:
    """What predictions can be made from without a model.

    Rounds then consist of their messages alone. The model counts as a single tensor, so that each
    worker reports at most one score in a round: further ones are few beside the parameters.

    Args:
        parameters: of the model.
        parameter_bytes: of one.
        step_seconds: of a local step.
        strategies: name -> strategy.
        network: between the workers.
        samples: in a step of one worker, if they are known.

    Returns:
        The same as measurements, without what workers compute in rounds.
    """
    return Measured(
        step_seconds=step_seconds,
        samples=samples,
        model_bytes=parameter_bytes * parameters,
        parameter_bytes=parameter_bytes,
        copy_seconds=0.0,
        network=network,
        methods=[costs(name, made, 1, network) for name, made in strategies.items()],
        with_averaging=False,
    )


def _shares(strategy: Strategy, network: Network) -> tuple[float, float]:
    """Measures the bytes of a round, divided by those of the parameters.

    Returns:
        Those that a worker sends on average, and those that the busiest link carries; without
        what does not grow with the parameters.
    """
    (sent, busiest), (more, busier) = (_models_sent(strategy, network, size) for size in (1, 2))
    return more - sent, busier - busiest


def _models_sent(strategy: Strategy, network: Network, size: int) -> tuple[float, float]:
    """What a round sends of parameters of this size, where 1 is a number in each section."""
    workers = network.num_workers
    rows = Rows({"x": torch.ones(workers, workers * size)}.items())
    model_bytes = rows["x"][0].nbytes / size
    comm = Metered(InProcessCommunicator(workers), network.per_model(model_bytes))
    if strategy.shares_gradients(_LATE):
        comm.weighted_mean(rows, uniform(workers))
        return comm.bytes_sent / model_bytes, comm.take_seconds()
    state = first_state(strategy, rows, workers)
    everyone = torch.ones(workers, dtype=torch.bool)
    before = comm.bytes_sent
    scores = torch.ones(workers, 1, dtype=torch.float64) if strategy.score else None
    for number in range(_TRIALS):
        strategy.sync(rows, scores, state, Participants(comm, everyone), number)
    return (comm.bytes_sent - before) / _TRIALS / model_bytes, comm.take_seconds() / _TRIALS
