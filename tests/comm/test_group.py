"""From where messages are sent: the device of the parameters decides, not a backend's name."""

from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist

from grawa.comm.group import _sending_device
from grawa.errors import UserError
from tests.world import on_ranks

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("backends", "parameters", "sends"),
    [
        ("cpu:gloo,cuda:nccl", GPU, GPU),
        ("cpu:gloo,cuda:nccl", CPU, CPU),
        ("cpu:gloo,cuda:gloo", GPU, CPU),
        ("cpu:gloo,cuda:gloo", CPU, CPU),
        ("cpu:gloo", GPU, CPU),
        ("cuda:nccl", GPU, GPU),
    ],
)
def test_messages_leave_from_where_the_parameters_are_if_they_can(
    monkeypatch: pytest.MonkeyPatch, backends: str, parameters: torch.device, sends: torch.device
) -> None:
    monkeypatch.setattr(dist, "get_backend_config", lambda group: backends)
    assert _sending_device(Mock(), parameters) == sends


def test_a_group_that_can_not_send_from_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_backend_config", lambda group: "cuda:nccl")
    with pytest.raises(UserError, match="parameters are on cpu, but the process group"):
        _sending_device(Mock(), CPU)


def backends_of_a_plain_group() -> torch.device:
    group = dist.group.WORLD
    assert group is not None
    return _sending_device(group, CPU)


@pytest.mark.world
def test_a_real_group_of_gloo_sends_from_the_cpu() -> None:
    assert on_ranks(2, backends_of_a_plain_group) == [CPU, CPU]
