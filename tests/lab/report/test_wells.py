"""Pictures and tables of walks over the wells, from made-up walks."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageColor, ImageSequence

from grawa.lab.experiments.walk import Walk
from grawa.lab.experiments.wells import Walked, end_of
from grawa.lab.report.wells import END_COLOUR, colour_of, draw, draw_animation, draw_paths, title_of
from grawa.lab.report.wells_tables import end_table, share_table
from grawa.lab.tasks.wells import landscape

STEPS = 30


def walked(method: str, x: float, y: float, *, seed: int = 0, error: float | None = None) -> Walked:
    """Two workers that go straight from (4, 0) to a place, and one round half-way."""
    end = torch.tensor([x, y], dtype=torch.float64)
    start = torch.tensor([4.0, 0.0], dtype=torch.float64)
    shares = torch.linspace(0.0, 1.0, STEPS + 1, dtype=torch.float64)[:, None, None]
    aside = torch.tensor([[0.0, 0.2], [0.0, -0.2]], dtype=torch.float64)
    workers = start + shares * (end - start + aside)
    walk = Walk(
        workers=workers,
        consensus=workers[[0, STEPS // 2]].mean(dim=1),
        rounds=(0, STEPS // 2),
        end=end,
        error=float(landscape(end)) if error is None else error,
        failure="" if error is None else "diverged",
    )
    return Walked(method, seed, walk, end_of(walk))


def test_titles_say_how_it_ended() -> None:
    assert title_of(walked("mgrawa", 2.5, 0.0)) == "mgrawa\nloss 0.262, flat well"
    assert title_of(walked("lsgd", -2.5, 0.0)).endswith("sharp well")
    assert title_of(walked("easgd", 3.9, 3.9)).endswith("in no well")
    assert title_of(walked("dp_sgd", 0.0, 0.0, error=math.nan)) == "dp_sgd\ndiverged"


def test_a_panel_shows_the_walk_up_to_a_step() -> None:
    run = walked("mgrawa", 2.5, 0.0)
    (panel,) = draw(Figure(), [run])
    first, consensus, end = panel.moving[0], panel._consensus, panel._end
    panel.show(5)
    assert first.get_xydata().tolist() == run.walk.workers[:6, 0].tolist()
    assert (len(consensus.get_xdata()), end.get_visible()) == (1, False)
    panel.show(STEPS // 2)
    assert len(consensus.get_xdata()) == 2
    panel.show(STEPS)
    assert consensus.get_xydata()[-1].tolist() == [2.5, 0.0]
    assert (end.get_xydata().tolist(), end.get_visible()) == ([[2.5, 0.0]], True)


def test_the_animation_moves_loops_and_ends_at_the_star(tmp_path: Path) -> None:
    runs, drawn = [walked("mgrawa", 2.5, 0.0), walked("lsgd", -2.5, 0.0)], []
    draw_animation(runs, tmp_path / "paths.gif", lambda: drawn.append(1))
    with Image.open(tmp_path / "paths.gif") as moving:
        assert moving.info["loop"] == 0
        assert (
            len(list(ImageSequence.Iterator(moving))) == STEPS + 1
        )  # one for each step; those without news are joined
        assert len(drawn) > STEPS
        shown = []
        for frame in (0, STEPS // 2, STEPS):
            moving.seek(frame)
            shown.append(moving.convert("RGB"))
        assert moving.info["duration"] >= 3000
    blue = [pixels(picture, colour_of(0)) for picture in shown]
    assert blue[0] < blue[1] < blue[2]  # the path of a worker
    orange = [pixels(picture, END_COLOUR) for picture in shown]
    assert orange[0] == orange[1] < orange[2] / 2  # in the legend; at the end in two panels too
    assert [path.name for path in tmp_path.iterdir()] == ["paths.gif"]


def test_the_picture_shows_the_whole_walks(tmp_path: Path) -> None:
    draw_paths([walked("mgrawa", 2.5, 0.0)], tmp_path / "one.png")
    draw_paths([walked("mgrawa", -2.5, 0.0)], tmp_path / "far.png")
    near, far = (Image.open(tmp_path / f"{name}.png").convert("RGB") for name in ("one", "far"))
    assert pixels(near, END_COLOUR) > 0
    assert pixels(far, colour_of(0)) > pixels(near, colour_of(0))


def pixels(picture: Image.Image, colour: str) -> int:
    """How many have this colour."""
    wanted = torch.tensor(ImageColor.getrgb(colour)[:3])
    seen = torch.from_numpy(np.array(picture)).long()
    return int(((seen - wanted).abs().amax(dim=-1) < 40).sum())


def test_shares_are_of_seeds_and_their_errors_are_never_zero() -> None:
    runs = [walked("mgrawa", 2.5, 0.0, seed=seed) for seed in range(3)]
    runs += [walked("lsgd", -2.5 if seed else 4.0, 0.0, seed=seed) for seed in range(3)]
    first, second = ([cell.text for cell in row] for row in share_table(runs).rows)
    # Of Beta(4, 1) and Beta(1, 4) the standard deviation is sqrt(4 / 150) = 0.16.
    assert first[:4] == ["mgrawa", "100 ± 16 %", "0 ± 16 %", "0 ± 16 %"]
    assert second[:4] == ["lsgd", "0 ± 16 %", "67 ± 20 %", "33 ± 20 %"]


def test_a_run_that_diverged_is_in_no_well_and_has_no_loss() -> None:
    runs = [walked("mgrawa", 2.5, 0.0, error=math.nan)]
    (row,) = end_table(runs).rows
    assert [row[1].text, row[4].text] == ["-", "no"]
    assert share_table(runs).rows[0][-1].text == "diverged"


@pytest.mark.parametrize("count", [1, 5])
def test_there_is_a_panel_for_each_method(count: int) -> None:
    figure = Figure()
    panels = draw(figure, [walked(f"method {i}", 2.5, 0.0) for i in range(count)])
    visible = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == len(visible) == count
    assert visible[-1].get_xlabel() == "first parameter"
    assert visible[0].get_ylabel() == "second parameter"
