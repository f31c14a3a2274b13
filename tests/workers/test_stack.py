"""Models seen as rows of one stack, and the leaves that all workers share."""

import pytest
import torch
from torch import Tensor, nn

from grawa.errors import UserError
from grawa.math.leaves import Leaves, Rows
from grawa.scores.groups import by_model, by_tensor
from grawa.workers.stack import host, is_dense


def names_of(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def test_one_model_goes_on_in_one_block_with_its_values() -> None:
    model = nn.Linear(3, 2)
    parameters, values = list(model.parameters()), [p.detach().clone() for p in model.parameters()]
    stack = host([model], names_of(model), together=True)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(parameters, values, strict=True))
    assert [rows.data_ptr() for rows in stack.values()] == [p.data_ptr() for p in parameters]
    assert parameters[1].data_ptr() == parameters[0].data_ptr() + parameters[0].nbytes
    # Those who save models look at storages, and drop a tensor that shares another's.
    storages = [p.untyped_storage() for p in parameters]
    assert len({storage.data_ptr() for storage in storages}) == 2
    assert [storage.nbytes() for storage in storages] == [p.nbytes for p in parameters]
    assert {name: tuple(rows.shape) for name, rows in stack.items()} == {
        "weight": (1, 2, 3),
        "bias": (1, 2),
    }
    stack["bias"].fill_(5.0)
    assert model.bias.tolist() == [5.0, 5.0]


def test_several_models_become_rows_with_their_values_and_stay_themselves() -> None:
    models = [nn.Linear(3, 2) for _ in range(3)]
    before = [p.detach().clone() for model in models for p in model.parameters()]
    parameters = [p for model in models for p in model.parameters()]
    stack = host(models, names_of(models[0]))
    assert stack["weight"].shape == (3, 2, 3)
    for model, k in zip(models, range(3), strict=True):
        assert model.weight.data_ptr() == stack["weight"][k].data_ptr()
        assert model.bias.data_ptr() == stack["bias"][k].data_ptr()
    after = [p for model in models for p in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert all(a is b for a, b in zip(after, parameters, strict=True))


def test_hosted_models_train_as_they_did() -> None:
    hosted, free = ([nn.Linear(3, 2) for _ in range(2)] for _ in range(2))
    for a, b in zip(hosted, free, strict=True):
        b.load_state_dict(a.state_dict())
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.1) for model in [*hosted, *free]]
    stack = host(hosted, names_of(hosted[0]))
    for step in range(3):
        for model, optimizer in zip([*hosted, *free], optimizers, strict=True):
            optimizer.zero_grad()
            model(torch.full((4, 3), 1.0 + step)).square().sum().backward()
            optimizer.step()
    for k in range(2):
        assert torch.equal(hosted[k].weight, free[k].weight)
        assert torch.equal(stack["weight"][k], free[k].weight)


def test_hosting_again_keeps_values_and_the_models_follow() -> None:
    models = [nn.Linear(3, 2) for _ in range(2)]
    first, second = (host(models, names_of(models[0])) for _ in range(2))
    for name, rows in first.items():
        assert torch.equal(second[name], rows)
        assert dict(models[1].named_parameters())[name].data_ptr() == second[name][1].data_ptr()


@pytest.mark.parametrize("workers", [1, 3])
def test_channels_last_weights_keep_their_strides(workers: int) -> None:
    models = [
        nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for _ in range(workers)
    ]
    values = [model.weight.detach().clone() for model in models]
    stack = host(models, ["weight"])
    for model, value, row in zip(models, values, stack["weight"], strict=True):
        assert model.weight.is_contiguous(memory_format=torch.channels_last)
        assert row.stride() == model.weight.stride()
        assert torch.equal(row, value)
    copied = Leaves.copy_of(stack)["weight"]
    assert copied.stride() == models[0].weight.stride()
    assert torch.equal(copied, values[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_transposed_weight_keeps_its_strides(workers: int) -> None:
    models = [nn.Linear(3, 2) for _ in range(workers)]
    for model in models:
        model.weight.data = torch.randn(3, 2).t()
    values = [model.weight.detach().clone() for model in models]
    stack = host(models, ["weight"])
    for k, value in enumerate(values):
        assert stack["weight"][k].stride() == models[k].weight.stride() == (1, 2)
        assert torch.equal(stack["weight"][k], value)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_tensor_with_gaps_is_refused_by_name(workers: int) -> None:
    models = [nn.Linear(3, 2) for _ in range(workers)]
    for model in models:
        model.weight.data = torch.randn(2, 6)[:, ::2]
    with pytest.raises(UserError, match=r"'weight' \(shape \(2, 3\), strides \(6, 2\)\)"):
        host(models, ["weight"])


def test_buffers_can_be_hosted_too() -> None:
    models = [nn.BatchNorm1d(2) for _ in range(2)]
    stack = host(models, ["running_mean", "num_batches_tracked"])
    stack["running_mean"][1] = 3.0
    stack["num_batches_tracked"][0] = 9
    assert models[1].running_mean is not None
    assert models[1].running_mean.tolist() == [3.0, 3.0]
    assert [int(m.num_batches_tracked or 0) for m in models] == [9, 0]


@pytest.mark.parametrize(
    ("tensor", "dense"),
    [
        (torch.zeros(()), True),
        (torch.zeros(0, 3), True),
        (torch.zeros(2, 3, 4), True),
        (torch.zeros(2, 3, 4).permute(2, 0, 1), True),
        (torch.zeros(1, 3).expand(1, 3), True),
        (torch.zeros(4)[1:], True),
        (torch.zeros(1, 3).expand(2, 3), False),
        (torch.zeros(4, 4)[:, :2], False),
        (torch.zeros(6)[::2], False),
    ],
)
def test_dense_is_one_block_of_memory_in_any_order(tensor: Tensor, dense: bool) -> None:
    assert is_dense(tensor) is dense


def mixed() -> dict[str, Tensor]:
    return {
        "a": torch.arange(6.0).view(2, 3),
        "b": torch.arange(4.0, dtype=torch.float64).view(2, 2),
        "c": torch.arange(8.0, 16.0).view(2, 2, 2),
    }


def test_leaves_have_one_flat_tensor_for_each_dtype() -> None:
    leaves = Leaves.copy_of(mixed(), row=1)
    assert [(flat.dtype, flat.numel()) for flat in leaves.flats] == [
        (torch.float32, 7),
        (torch.float64, 2),
    ]
    assert leaves.flats[0].tolist() == [3.0, 4.0, 5.0, 12.0, 13.0, 14.0, 15.0]
    assert leaves.flats[1].tolist() == [2.0, 3.0]


def test_leaves_are_views_of_the_flat_tensors() -> None:
    leaves = Leaves.copy_of(mixed())
    leaves.flats[0].zero_()
    assert leaves["a"].tolist() == [0.0, 0.0, 0.0]
    leaves["c"].fill_(2.0)
    assert leaves.flats[0].tolist() == [0.0] * 3 + [2.0] * 4
    assert [row.shape for row in leaves.rows] == [(1, 3), (1, 2), (1, 2, 2)]


def test_flat_tensors_are_as_long_as_their_leaves() -> None:
    leaves = Leaves.like(mixed())
    assert [flat.numel() for flat in leaves.flats] == [7, 2]
    assert {name: leaf.shape for name, leaf in leaves.items()} == {
        name: rows.shape[1:] for name, rows in mixed().items()
    }


def test_leaves_of_rows_that_skip_memory_are_dense() -> None:
    leaves = Leaves.copy_of({"x": torch.arange(12.0).view(1, 3, 4)[:, :, ::2]})
    assert leaves["x"].tolist() == [[0.0, 2.0], [4.0, 6.0], [8.0, 10.0]]
    assert leaves.flats[0].numel() == 6


def test_a_part_keeps_its_blocks_whatever_has_no_elements() -> None:
    rows = Rows({"none": torch.zeros(2, 0), "a": torch.zeros(2, 3), "b": torch.zeros(2, 1)}.items())
    part = rows.twin().part(["none", "a"])
    part["a"].fill_(4.0)
    assert [block.tolist() for block in part.blocks] == [[[4.0] * 3] * 2]


def test_a_copy_does_not_follow_its_source() -> None:
    stack = mixed()
    leaves = Leaves.copy_of(stack)
    clone = leaves.clone()
    stack["a"].zero_()
    leaves["a"].fill_(7.0)
    assert clone["a"].tolist() == [0.0, 1.0, 2.0]
    assert leaves["a"].tolist() == [7.0, 7.0, 7.0]


def test_zeros_like_has_the_form_and_no_values() -> None:
    leaves = Leaves.copy_of(mixed())
    zeros = leaves.zeros_like()
    assert {n: (leaf.shape, leaf.stride(), leaf.dtype) for n, leaf in zeros.items()} == {
        n: (leaf.shape, leaf.stride(), leaf.dtype) for n, leaf in leaves.items()
    }
    assert all(not bool(flat.any()) for flat in zeros.flats)
    assert leaves["a"].tolist() == [0.0, 1.0, 2.0]


def test_groupings() -> None:
    assert by_model(["a", "b", "c"]) == (0, 0, 0)
    assert by_tensor(["a", "b", "c"]) == (0, 1, 2)
