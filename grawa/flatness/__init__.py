"""Measures how flat the loss is around a model: curvature, sharpness, valley width, landscapes.

Each measurement is a function of a `Surface`: a model, a loss, and the samples for the loss.
"""

from grawa.flatness.correlation import Correlation, kendall
from grawa.flatness.curvature import Estimate, hessian_trace, top_eigenvalues
from grawa.flatness.disagreement import Disagreement, disagreement
from grawa.flatness.landscape import Line, Plane, line, plane
from grawa.flatness.measure import Flatness, measure
from grawa.flatness.sharpness import gradient_norm, sam_sharpness
from grawa.flatness.surface import Surface
from grawa.flatness.valley import Valley, valley

__all__ = [
    "Correlation",
    "Disagreement",
    "Estimate",
    "Flatness",
    "Line",
    "Plane",
    "Surface",
    "Valley",
    "disagreement",
    "gradient_norm",
    "hessian_trace",
    "kendall",
    "line",
    "measure",
    "plane",
    "sam_sharpness",
    "top_eigenvalues",
    "valley",
]
