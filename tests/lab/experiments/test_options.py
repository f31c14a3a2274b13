"""Options that are written as texts, and conditions."""

import pytest

from grawa.errors import UserError
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.options import changed, condition, option_value, written_options

VALUES = {
    ("workers", "8"): 8,
    ("lr", "1"): 1.0,
    ("steps", "960"): 960,
    ("link", "100mbit:20ms"): "100mbit:20ms",
    ("strategy", "5"): "5",
    ("guard", "false"): False,
    ("score", "probe"): "probe",
    ("stack_workers", "auto"): "auto",
    ("stack_workers", "true"): "on",
    ("stack_workers", "false"): "off",
}


@pytest.mark.parametrize(("name", "text"), VALUES)
def test_values_have_their_options_type(name: str, text: str) -> None:
    value = option_value(name, text)
    assert value == VALUES[name, text]
    assert type(value) is type(VALUES[name, text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workers=many", "workers must be a whole number, got 'many'"),
        ("workers=2.5", "workers must be a whole number, got '2.5'"),
        ("lr_schedule=best", "lr_schedule must be one of constant, cosine, got 'best'"),
        ("guard=1", "guard must be true or false, got '1'"),
        ("momentum=0.9", "has no option 'momentum'; it has task, data, optimizer"),
        ("batch_sise=3", r"'batch_sise' \(did you mean batch_size\?\); it has"),
        ("workers", "write options as name=value"),
    ],
)
def test_what_is_no_option_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        written_options([text])


def test_later_changes_win_and_faults_add_up() -> None:
    base = TrainConfig(task="digits", fault=("nan:0@3",))
    found = changed(base, {"lr": 0.5}, condition("lr-x6:3"), {"lr": 0.2})
    assert (found.lr, found.fault) == (0.2, ("nan:0@3", "lr-x6:3"))
    assert base.fault == ("nan:0@3",)


def test_conditions_are_faults_and_ways_to_deal_out_samples() -> None:
    assert condition("clean") == {}
    assert condition("wrong-labels:3") == {"fault": ("wrong-labels:3",)}
    assert condition("iid+nan:0@3+lr-x6:1") == {"shards": "iid", "fault": ("nan:0@3", "lr-x6:1")}
    with pytest.raises(UserError, match="write conditions as"):
        condition("lr-x6:1+")
