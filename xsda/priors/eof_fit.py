r"""Fits patterns (EOFs), their time covariances, and the localisation and inflation that a short record needs.

The anomalies z of the climatology are read in blocks. A randomised subspace iteration (Halko, Martinsson & Tropp 2011)
finds the leading eigenvectors of the tapered covariance :math:`\frac{1}{n} \sum_{t,m} (z_t \phi_m)(z_t \phi_m)^\top`.

Points crowd at the poles of a grid of latitudes and longitudes. The patterns therefore span the eigenvectors of the
covariance weighted by area, :math:`W^{1/2} C W^{1/2}`, divided by :math:`W^{1/2}`. Within this space they are the
eigenvectors of C itself: they stay orthonormal, and all of them together give C.

A short record makes the covariance too sure of itself; ``taper_choice`` measures how much localisation and inflation it
needs.

Patterns fit the states from which they were computed better than new states: most of all the small ones, and the
remainder. So each group of patterns, and the remainder, gets the variance that states have which were left out when the
patterns were computed, if it is larger (cross-validated eigenvalues, Bartz 2016).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
import xarray as xr

from xsda.arguments import warn
from xsda.labels.layout import Layout
from xsda.priors.anomalies import Anomalies
from xsda.priors.eof import EofDenoiser, time_factors
from xsda.priors.taper import positions, taper_functions
from xsda.priors.taper_choice import Choice, choose_taper, group_ends, lagged, pooled

MODES = 256  # patterns by default
FILLERS, FILLINGS = 20, 8  # patterns that fill gaps, and how often
EXTRA, PASSES = 10, 3  # columns and passes of the subspace iteration
PARTS = 4  # of the record, for the variances of what is left out


def fit_eof(
    ds: xr.Dataset, layout: Layout, length: int, *, modes: int | None = None, taper: float | str | None = "auto"
) -> tuple[EofDenoiser, dict[str, object]]:
    """Fit the denoiser of trajectories of ``length`` states, and describe the fit.

    Parameters
    ----------
    ds
        The data, which may be lazy.
    layout
        The layout with its normals.
    length
        Number of states of a trajectory.
    modes
        Number of patterns.
    taper
        Length of the localisation in km (on the sphere) or in axis units; None for none, "auto" to measure it.

    Returns
    -------
    denoiser, info
        The denoiser, and numbers for ``Prior.info``.
    """
    data = Anomalies(ds, layout)
    fill_gaps(data)
    places = np.tile(positions(data.grid), (layout.channels, 1))[data.valid]
    width = float(np.linalg.norm(places.max(0) - places.min(0)))
    choice = choose_taper(data, places, width, length) if taper == "auto" else Choice(float(taper or np.inf))
    functions = taper_functions(places, choice.length).astype(np.float32)
    count = min(modes or MODES, data.points)
    variance, patterns = leading(data, functions, count)
    total = float(sum(np.square(z.astype(np.float64)).sum() for _, z in data)) / (data.rows * data.states)
    free = data.points - count
    rest = max(total - float(variance.sum()), 0.0) / free if free else 0.0
    ends = group_ends(count)
    series = data.map(lambda z: z @ patterns.T, count)
    lags = np.sum([lagged(series[:, part], length) for part in data.stretches], 0)
    groups = [pooled(lags[:, a:b]) for a, b in pairwise([0, *ends])]
    values, vectors = time_factors([torch.as_tensor(c) for c in [*groups, groups[-1]]])
    factors = np.full(len(ends) + 1, choice.inflation)
    if taper == "auto":
        factors = np.maximum(factors, left_out_variances(data, functions, patterns, length))
    denoiser = EofDenoiser(
        torch.as_tensor(patterns), torch.as_tensor(np.repeat(factors[:-1], np.diff([0, *ends])) * variance),
        torch.tensor(ends), values, vectors, torch.tensor(factors[-1] * rest), torch.as_tensor(data.valid),
        torch.tensor((length, *data.grid.shape[1:])), torch.tensor(choice.doubt),
    )  # fmt: skip
    return denoiser, {
        "patterns": count,
        "taper": round(choice.length, 4) if np.isfinite(choice.length) else "none",
        "inflation": choice.inflation,
    }


def fill_gaps(data: Anomalies) -> None:
    """Draw missing anomalies from the patterns of the others, and repeat with the new patterns (stochastic EM).

    Zeros would weaken all correlations. Records that do not fit into memory keep them, with a warning.
    """
    if data.held is None:
        for _ in data:
            if data.gaps:
                warn(
                    "the record has gaps and is too large for memory: its correlations are underestimated", UserWarning
                )
                return
    if not data.gaps:
        return
    rng, count = np.random.default_rng(3), min(FILLERS, data.points - 1)
    share = 1 - float(np.mean([m.mean() for m in data.missing]))
    for number in range(FILLINGS if count else 0):
        variance, patterns = leading(data, np.ones((1, data.points), np.float32), count)
        total = float(sum(np.square(z.astype(np.float64)).sum() for _, z in data)) / (data.rows * data.states)
        rest = max((total - variance.sum()) / (data.points - count), 1e-3)
        data.draw_missing(patterns, variance.clip(min=1e-3), rest / share if number == 0 else rest, rng)


def left_out_variances(data: Anomalies, functions: np.ndarray, patterns: np.ndarray, length: int) -> np.ndarray:
    """Return the variance of states left out, relative to that of the others, (group + 1,); last the remainder.

    Patterns are computed without one part of the record (or of its trajectories), and describe this part.
    """
    count, ends = len(patterns), group_ends(len(patterns))
    starts, inside, expected = [0, *ends[:-1]], np.zeros(len(ends) + 1), np.zeros(len(ends) + 1)
    for out in _parts(data, length):
        variance, found = leading(data, functions, count, keep=~out, start=patterns)
        squares = sum(np.square(z @ found.T, dtype=np.float64).sum(0) for z in data.states_of(out)) / out.sum()
        for sums, along, keep in ((inside, squares, out), (expected, variance, ~out)):
            sums[:-1] += np.add.reduceat(along, starts)
            sums[-1] += max(_total(data, keep) - along.sum(), 0.0)
    return np.divide(inside, expected, out=np.ones_like(inside), where=expected > 1e-6 * expected.sum())


def _parts(data: Anomalies, length: int) -> Iterator[np.ndarray]:
    """Yield which states (row, time) each part of the record has; none if the record is too short to be divided."""
    several = data.rows >= PARTS
    if not several and data.states < 2 * PARTS * length:
        return
    edges = np.linspace(0, data.rows if several else data.states, PARTS + 1).astype(int)
    for a, b in pairwise(edges):
        part = np.zeros((data.rows, data.states), bool)
        part[(slice(a, b),) if several else (slice(None), slice(a, b))] = True
        yield part


def _total(data: Anomalies, keep: np.ndarray) -> float:
    """Return the variance of a state, summed over its points."""
    return sum(float(np.square(z, dtype=np.float64).sum()) for z in data.states_of(keep)) / int(keep.sum())


def leading(
    data: Anomalies, functions: np.ndarray, count: int, *, keep: np.ndarray | None = None,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return the variances (count,) and patterns (count, point) of the tapered covariance that explain most by area.

    ``keep`` (row, time) selects states. ``start`` (count, point) is a first guess, which saves passes over the data.
    """
    keep, root = np.ones((data.rows, data.states), bool) if keep is None else keep, data.root_area
    basis = np.random.default_rng(0).standard_normal((data.points, min(count + EXTRA, data.points))).astype(np.float32)
    if start is not None:
        basis[:, : len(start)] = (start * root).T
    for _ in range(PASSES if start is None else 1):
        basis = np.linalg.qr(_times_covariance(data, functions * root, basis, keep))[0]
    values, patterns = _within(data, functions * root, basis, count, keep)
    if np.ptp(root) == 0:
        return values, patterns
    return _within(data, functions, np.linalg.qr((patterns / root).T)[0], count, keep)


def _within(
    data: Anomalies, functions: np.ndarray, basis: np.ndarray, count: int, keep: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the leading eigenvalues and eigenvectors of the tapered covariance within the space of a basis."""
    small = basis.T @ _times_covariance(data, functions, basis, keep)
    values, vectors = np.linalg.eigh((small + small.T).astype(np.float64) / 2)
    order = np.argsort(values)[::-1][:count]
    patterns = np.linalg.qr(basis.astype(np.float64) @ vectors[:, order])[0]
    return values[order].clip(min=0), np.ascontiguousarray(patterns.T.astype(np.float32))


def _times_covariance(data: Anomalies, functions: np.ndarray, basis: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Multiply the tapered covariance of some states with (point, column)."""
    out = np.zeros(basis.shape)
    for z in data.states_of(keep):
        for phi in functions:
            part = z * phi
            out += part.T @ (part @ basis)
    return (out / keep.sum()).astype(np.float32)
