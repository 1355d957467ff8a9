r"""Fits patterns (EOFs), their time covariances, and the localisation and inflation that a short record needs.

The anomalies z of the climatology are read in blocks. A randomised subspace iteration (Halko, Martinsson & Tropp 2011)
finds the leading eigenvectors of the tapered covariance :math:`\frac{1}{n} \sum_{t,m} (z_t \phi_m)(z_t \phi_m)^\top`.

Points crowd at the poles of a grid of latitudes and longitudes. The patterns therefore span the eigenvectors of the
covariance weighted by area, :math:`W^{1/2} C W^{1/2}`, divided by :math:`W^{1/2}`. Within this space they are the
eigenvectors of C itself: they stay orthonormal, and all of them together give C.

A short record makes the covariance too sure of itself. How much localisation and inflation it needs is measured: the
record is cut into blocks of time, the covariance at a few random points is estimated without one block, and some of the
points predict the others within it. The taper and the inflation with the best mean logarithmic score are taken.

Patterns fit the states from which they were computed better than new states: most of all the small ones, and the
remainder. So each group of patterns, and the remainder, gets the variance that states have which were left out when the
patterns were computed, if it is larger (cross-validated eigenvalues, Bartz 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import xarray as xr

from xsda.arguments import warn
from xsda.labels.area import grid_areas
from xsda.labels.layout import Layout
from xsda.labels.steps import step_numbers, stretches
from xsda.priors.eof import EofDenoiser, time_factors
from xsda.priors.moments import Blocks
from xsda.priors.taper import positions, taper_functions

MODES = 256  # patterns by default
FILLERS, FILLINGS = 20, 8  # patterns that fill gaps, and how often
LEAST_AREA = 1e-6  # of a point, relative to the mean
HELD_NUMBERS = 2**27  # anomalies of at most this many numbers are kept in memory (single precision)
EXTRA, PASSES = 10, 3  # columns and passes of the subspace iteration
POINTS, SEEN, GUESSED, STATES = 160, 12, 12, 24  # of the search for taper and inflation
FOLDS, WINDOWS, NOISE = 6, 4, 0.2
PARTS = 4  # of the record, for the variances of what is left out
TAPERS = (np.inf, 1.0, 0.7, 0.5, 0.35, 0.25, 0.15)  # lengths, relative to the width of the region
INFLATIONS = (0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0)
EDGES = (1, 2, 3, 5, 8, 12, 18, 27, 40, 60, 90, 140, 220, 350, 560, 900, 1500)  # groups of patterns that share a T


class Anomalies:
    """Blocks (row, time, point) of anomalies at valid points; a missing value is zero, until it is drawn."""

    def __init__(self, ds: xr.Dataset, layout: Layout):
        assert layout.normals is not None
        self.blocks = Blocks(ds, layout)
        self.grid = self.blocks.grid
        self.valid = layout.normals.valid.ravel()
        area = grid_areas(ds, self.grid.core_dims[1:]).clip(min=LEAST_AREA)
        self.root_area = np.sqrt(np.tile(area.ravel(), layout.channels)[self.valid]).astype(np.float32)
        self.rows, self.states = self.blocks.rows, ds.sizes[layout.time]
        numbers = step_numbers(ds[layout.time]) if layout.time in ds.coords else np.arange(float(self.states))
        self.stretches = stretches(numbers, layout.dt)
        small = self.rows * self.states * int(self.valid.sum()) <= HELD_NUMBERS
        self.held: list[tuple[int, np.ndarray]] | None = None
        self.missing: list[np.ndarray] = []  # of the blocks that are held
        self.gaps = False
        self.held = list(self) if small else None

    @property
    def points(self) -> int:
        return int(self.valid.sum())

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        if self.held is not None:
            yield from self.held
            return
        for start, x in self.blocks:
            z = self.grid.standardise(x, start).numpy()
            z = z.reshape(*z.shape[:2], -1)[..., self.valid]
            missing = np.isnan(z)
            if self.held is None:
                self.missing.append(missing)
            self.gaps = self.gaps or bool(missing.any())
            yield start, np.nan_to_num(z, copy=False, nan=0.0)

    def draw_missing(self, patterns: np.ndarray, variance: np.ndarray, rest: float, rng: np.random.Generator) -> None:
        """Draw missing values given the others of their state, from patterns (pattern, point) and a remainder."""
        assert self.held is not None
        for (_, z), missing in zip(self.held, self.missing, strict=True):
            for row, time in np.argwhere(missing.any(2)):
                gap = missing[row, time]
                known = patterns[:, ~gap].astype(np.float64)
                precision = known @ known.T / rest + np.diag(1 / variance)
                factor = np.linalg.cholesky(precision)
                along = np.linalg.solve(precision, known @ z[row, time, ~gap] / rest)
                along += np.linalg.solve(factor.T, rng.standard_normal(len(along)))
                z[row, time, gap] = along @ patterns[:, gap] + rest**0.5 * rng.standard_normal(gap.sum())

    def placed(self) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """Yield the rows and times of each block, and its values."""
        first = stop = 0
        for start, z in self:
            if start == 0:
                first, stop = stop, stop + len(z)
            yield slice(first, stop), slice(start, start + z.shape[1]), z

    def states_of(self, keep: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the states (state, point) that ``keep`` (row, time) selects."""
        for rows, times, z in self.placed():
            yield z[keep[rows, times]]

    def map(self, function: Callable[[np.ndarray], np.ndarray], width: int) -> np.ndarray:
        """Apply a function (row, time, point) -> (row, time, width) to all blocks, and join the results."""
        out = np.empty((self.rows, self.states, width), np.float32)
        for rows, times, z in self.placed():
            out[rows, times] = function(z)
        return out


@dataclass(frozen=True)
class Choice:
    """Length of the taper (in the units of ``positions``), inflation of the variance, and how much it differs.

    ``doubt`` is the standard deviation of the logarithm of the inflation that is best in each part of the record.
    """

    length: float = np.inf
    inflation: float = 1.0
    doubt: float = 0.0


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


def group_ends(count: int) -> list[int]:
    """Where the groups of patterns end."""
    return [*(e for e in EDGES if e < count), count]


def lagged(x: np.ndarray, length: int) -> np.ndarray:
    """Return the sums of x_t x_(t-k) over rows (row, time, column), for each lag k below ``length``: (lag, column).

    All lags have the same divisor, so that the Toeplitz matrices are positive semi-definite.
    """
    out = np.zeros((length, x.shape[2]))
    for k in range(min(length, x.shape[1])):
        out[k] = np.einsum("rtc,rtc->c", x[:, k:], x[:, : x.shape[1] - k], dtype=np.float64)
    return out


def pooled(lags: np.ndarray) -> np.ndarray:
    """Return the correlation in time that patterns share, (lag,), from their sums (lag, pattern)."""
    total = lags.sum(1)
    return total / total[0] if total[0] > 0 else np.eye(len(total))[0]


def choose_taper(data: Anomalies, places: np.ndarray, width: float, length: int) -> Choice:
    """Measure which taper and inflation predict best what was left out."""
    rng = np.random.default_rng(1)
    pick = np.sort(rng.choice(data.points, min(POINTS, data.points), replace=False))
    z = data.map(lambda block: block[..., pick], len(pick)).astype(np.float64)
    states = max(1, min(length, STATES, z.shape[1] // 8))
    folds = list(_folds(z, states, {part.stop for part in data.stretches}))
    if not folds or len(pick) < 4:
        return Choice()
    distance = np.linalg.norm(places[pick, None] - places[None, pick], axis=-1)
    scores: dict[float, np.ndarray] = {}
    for share in TAPERS if width > 0 else (np.inf,):
        taper = np.exp(-np.square(distance / (share * width)) / 2)
        scores[share * width] = np.stack([_score(*fold, taper, np.random.default_rng(2)) for fold in folds])
    best = min(scores, key=lambda length: scores[length].mean(0).min())
    each = np.log(INFLATIONS)[scores[best].argmin(1)]
    return Choice(best, INFLATIONS[scores[best].mean(0).argmin()], float(each.std()))


def _folds(z: np.ndarray, states: int, ends: set[int]) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    """Yield training series and held-out windows, (time, point), by trajectory or by stretch of time.

    A window holds no gap, which follows each of ``ends``.
    """
    rows, time, _ = z.shape
    if rows >= FOLDS and time >= states:
        for f in range(FOLDS):
            train = [z[r] for r in range(rows) if r % FOLDS != f]
            yield train, [z[r, :states] for r in range(f, rows, FOLDS)][:WINDOWS]
        return
    count = min(FOLDS, time // (2 * states))
    if count < 2:
        return
    edges = np.linspace(0, time, count + 1).astype(int)
    for a, b in pairwise(edges):
        train = [part for row in z for part in (row[:a], row[b:]) if len(part)]
        starts = [s for s in np.linspace(a, b - states, WINDOWS).astype(int) if not ends & {*range(s + 1, s + states)}]
        if starts:
            yield train, [row[s : s + states] for row in z for s in starts]


def _score(
    train: list[np.ndarray], windows: list[np.ndarray], taper: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return the mean logarithmic score of predictions in held-out windows, for each inflation."""
    count = sum(map(len, train))
    mean = np.sum([t.sum(0) for t in train], 0) / count
    train = [t - mean for t in train]
    values, vectors = np.linalg.eigh(np.sum([t.T @ t for t in train], 0) / count * taper)
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    states, ends = len(windows[0]), group_ends(len(values))
    lags = np.sum([lagged((t @ vectors)[None], states) for t in train], 0)
    spans = list(pairwise([0, *ends]))
    correlations = [pooled(lags[:, a:b]) for a, b in spans]
    index = np.abs(np.subtract.outer(np.arange(states), np.arange(states)))
    found = []
    for window in windows:
        chosen = rng.permutation(len(values))[: SEEN + GUESSED]
        seen = min(SEEN, len(chosen) // 2)
        cov = np.zeros((len(chosen) * states,) * 2)
        for (a, b), rho in zip(spans, correlations, strict=True):
            cov += np.kron((vectors[chosen, a:b] * values[a:b]) @ vectors[chosen, a:b].T, rho[index])
        x = (window - mean)[:, chosen].T.ravel()  # point by point, as in the Kronecker product
        found.append(_predicted(cov, x, seen * states, rng))
    return np.mean(found, 0)


def _predicted(cov: np.ndarray, x: np.ndarray, seen: int, rng: np.random.Generator) -> np.ndarray:
    """Return the mean logarithmic score of x[seen:] given x[:seen] with noise, for each inflation."""
    values, vectors = np.linalg.eigh(cov[:seen, :seen])
    values = values.clip(min=0)
    y = vectors.T @ (x[:seen] + NOISE * rng.standard_normal(seen))
    across = cov[seen:, :seen] @ vectors
    scores = []
    for inflation in INFLATIONS:
        gain = inflation / (inflation * values + NOISE**2)
        mean = across @ (gain * y)
        variance = inflation * (np.diag(cov)[seen:] - (across**2 * gain).sum(1))
        variance = variance.clip(min=1e-4 * NOISE**2)
        scores.append((np.log(variance) + (x[seen:] - mean) ** 2 / variance).mean() / 2)
    return np.array(scores)
