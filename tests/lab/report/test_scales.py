"""Numbers beside logarithmic axes."""

import pytest
from matplotlib.figure import Figure

from grawa.lab.report.layout import log_scale


@pytest.mark.parametrize("panels", [1, 5])
@pytest.mark.parametrize("decades", [1, 2, 3, 6, 12])
def test_a_logarithmic_axis_has_numbers_however_wide_its_range(decades: int, panels: int) -> None:
    panel = Figure(figsize=(8.0, 3.0)).subplots(1, panels, squeeze=False)[0, 0]
    low, high = 0.9 * 10.0**-decades, 1.1
    panel.plot([low, high], [1.0, 1.0])
    log_scale(panel, "x")
    panel.set_xlim(low, high)
    ticks = [tick for tick in panel.get_xticks() if low <= tick <= high]
    assert len(ticks) >= 2
