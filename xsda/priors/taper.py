r"""Localisation of a sample covariance: distant correlations, which few data estimate badly, are tapered.

The covariance is multiplied, element by element, by :math:`\rho(p, q) = \exp(-|r_p - r_q|^2 / 2 L^2)` with positions r
in space: on the sphere these are points in three dimensions, and on a ring points of a circle, so that rho is positive
semi-definite. A pivoted Cholesky decomposition (Harbrecht et al. 2012) gives :math:`\rho \approx \sum_m \phi_m
\phi_m^\top`, and the tapered covariance of anomalies z is that of the products :math:`z \phi_m`.
"""

from __future__ import annotations

import math

import numpy as np

from xsda.labels.cf import is_latitude, is_longitude
from xsda.labels.curvilinear import curvilinear
from xsda.labels.grid import Grid

EARTH = 6371.0  # km
LEFT = 0.01  # share of the variance of rho that the decomposition may leave out at any point
MOST = 400  # functions phi


def positions(grid: Grid) -> np.ndarray:
    """Return the places of the grid points, (point, coordinate), in km on the sphere, otherwise in axis units."""
    dims = grid.core_dims[1:]
    known = [d for d in dims if d in grid.template.coords]
    pair = curvilinear(grid.template, dims) if len(dims) == 2 else None
    if pair is not None:
        return _on_earth(*(np.asarray(grid.orient(c).transpose(*dims).values, float).ravel() for c in pair))
    mesh = np.meshgrid(*(grid.numbers(d) for d in dims), indexing="ij")
    flat = dict(zip(dims, (m.ravel() for m in mesh), strict=True))
    lat = next((d for d in known if is_latitude(grid.template[d])), None)
    lon = next((d for d in known if is_longitude(grid.template[d])), None)
    if lat is not None and lon is not None:
        return _on_earth(flat[lat], flat[lon])
    parts = []
    for d, x in flat.items():
        period = grid.period(d)
        if period is None:
            parts.append(x)
        else:
            angle = 2 * np.pi * x / period
            parts += [period / (2 * np.pi) * np.cos(angle), period / (2 * np.pi) * np.sin(angle)]
    return np.stack(parts, 1) if parts else np.zeros((1, 1))


def _on_earth(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Points in three dimensions, in km."""
    a, b = np.radians(lat), np.radians(lon)
    return EARTH * np.stack([np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)], 1)


def taper_functions(places: np.ndarray, length: float) -> np.ndarray:
    """Return phi (function, point) such that the sum of phi_m phi_m' is the taper of this length; one without taper."""
    n = len(places)
    if not math.isfinite(length):
        return np.ones((1, n))
    left, found = np.ones(n), np.zeros((0, n))
    while left.max() > LEFT and len(found) < min(MOST, n):
        pivot = int(left.argmax())
        column = np.exp(-np.square(places - places[pivot]).sum(1) / (2 * length**2)) - found[:, pivot] @ found
        row = column / math.sqrt(left[pivot])
        found = np.concatenate([found, row[None]])
        left = (left - row**2).clip(min=0)
        left[pivot] = 0
    return found / np.sqrt(np.square(found).sum(0))
