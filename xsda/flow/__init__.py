"""Quantities derived from two-dimensional flow: vorticity, divergence, energy, circulation, block means.

The velocities (u along x, v along y) lie at the same points, the centres of the cells. Every function takes a labelled
Dataset, which stays lazy on dask, or a mapping of tensors (..., y, x), through which gradients flow. A function whose
result lies on the points of the state can therefore be used in ``derived=``. Kinetic energy and its spectrum as means
over the plane are in ``xsda.metrics``.
"""

from xsda.flow.coarsening import coarsen, upsample
from xsda.flow.derivatives import circulation, divergence, enstrophy, kinetic_energy, vorticity

__all__ = ["circulation", "coarsen", "divergence", "enstrophy", "kinetic_energy", "upsample", "vorticity"]
