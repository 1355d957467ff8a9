r"""Fits the climatology of each grid point in one pass through the data: mean, cycles, standard deviation and mask.

The coefficients m of the waves w solve the normal equations over the states that have a value,

.. math:: \sum_t w(t) w(t)^\top m = \sum_t w(t)\, x(t), \qquad s^2 = \frac{1}{n} \sum_t (x(t) - w(t)^\top m)^2 .

Where gaps leave few values, the cycles are shrunk towards their mean over all points (``shrink``). So a point with few
values has nearly the common cycle around its own mean, and a point with many values has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from xsda.arguments import choose, warn
from xsda.labels.axes import TIME_FEATURES, axis_numbers, is_datelike
from xsda.labels.cf import is_latitude
from xsda.labels.climatology import Normals, waves
from xsda.labels.curvilinear import curvilinear
from xsda.labels.fills import find_fill_value
from xsda.labels.layout import Layout
from xsda.labels.steps import duration
from xsda.priors.moments import Blocks
from xsda.priors.shrink import Equations, shrink

LEAST, FEWEST = 0.05, 3  # points with a smaller share of the states, or fewer values, are masked
MANY = 10  # values for each wave, from which on nothing is shrunk
RIDGE = 1e-9  # added to the normal equations, relative to the number of states
FLAT = 1e-3  # smallest standard deviation of a point, in those of its channel
DAY, YEAR = 86400.0, 365.25 * 86400.0


def point_scaling(ds: xr.Dataset, layout: Layout, scaling: str) -> bool:
    """Whether each grid point gets a mean and standard deviation of its own.

    "auto" says so for latitudes and longitudes, and for fields with missing values in their first state.
    """
    if scaling not in ("auto", "point", "variable"):
        raise ValueError(f"scaling={scaling!r} is unknown; {choose(scaling, ('auto', 'point', 'variable'))}")
    if scaling != "auto":
        return scaling == "point"
    if not layout.space:
        return False
    if any(a.name in ds.coords and is_latitude(ds[a.name]) for a in layout.space) or curvilinear(ds) is not None:
        return True
    first = ds[list(layout.names)].isel({layout.time: 0})
    return any(bool(first[v].isnull().any()) for v in layout.names)


def chosen_cycles(ds: xr.Dataset, layout: Layout, climatology: Any) -> tuple[str, ...]:
    """Return the cycles of the climatology: those given, or ("auto") those that the dates resolve and cover."""
    time = ds[layout.time] if layout.time in ds.coords else None
    dated = time is not None and is_datelike(time)
    if climatology == "auto":
        if not dated or layout.dt is None:
            return ()
        span = layout.dt * (ds.sizes[layout.time] - 1)
        found = {"hour_of_day": layout.dt < DAY / 2 and span >= 5 * DAY, "day_of_year": span >= 2 * YEAR - 40 * DAY}
        return tuple(name for name in TIME_FEATURES if found[name])
    cycles = (climatology,) if isinstance(climatology, str) else tuple(climatology or ())
    for name in cycles:
        if name not in TIME_FEATURES:
            raise ValueError(f"climatology={name!r} is unknown; {choose(name, TIME_FEATURES)}")
    if cycles and not dated:
        raise ValueError(f"a climatology by {cycles[0]} needs a time axis of dates; {layout.time!r} holds none")
    _check_resolved(cycles, ds, layout)
    return cycles


def _check_resolved(cycles: Sequence[str], ds: xr.Dataset, layout: Layout) -> None:
    """Raise if the dates of a record cannot resolve a cycle."""
    if "hour_of_day" in cycles and (layout.dt or 0.0) > DAY / 2:
        raise ValueError(
            f"climatology='hour_of_day' needs states at several hours of the day, but the time step of the record is "
            f"{duration(layout.dt or 0.0)}; omit it"
        )
    if "day_of_year" in cycles and (span := float(np.ptp(axis_numbers(ds[layout.time])))) < YEAR - 40 * DAY:
        raise ValueError(
            f"climatology='day_of_year' needs about a year of data, but the record spans {duration(span)}; omit it, or "
            "use a longer record"
        )


@dataclass
class Sums:
    """Running sums over the states: of w w', w x and x^2, and the number of values, at each point."""

    shift: np.ndarray
    ww: np.ndarray
    wx: np.ndarray
    square: np.ndarray
    count: np.ndarray

    @classmethod
    def start(cls, first: np.ndarray, size: int) -> Sums:
        """Begin with the mean of the first block as a shift, which avoids cancellation."""
        count = np.isfinite(first).sum((0, 1))
        shift = np.where(np.isfinite(first), first, 0).sum((0, 1)) / count.clip(1)
        zeros = np.zeros(shift.shape)
        return cls(shift, np.zeros((size, size, *shift.shape)), np.zeros((size, *shift.shape)), zeros, zeros.copy())

    def add(self, x: np.ndarray, w: np.ndarray) -> None:
        """Add the states x (row, time, channel, *space) with the waves w (time, wave)."""
        known = np.isfinite(x)
        x = np.where(known, x - self.shift, 0)
        counts = known.sum(0).astype(float)  # (time, channel, *space)
        for i, a in enumerate(w.T):
            self.wx[i] += np.tensordot(a, x.sum(0), 1)
            for j, b in enumerate(w.T[: i + 1]):
                self.ww[i, j] += np.tensordot(a * b, counts, 1)
                self.ww[j, i] = self.ww[i, j]
        self.square += np.square(x).sum((0, 1))
        self.count += counts.sum(0)


def fit_normals(ds: xr.Dataset, layout: Layout, cycles: Sequence[str] = (), mask: xr.DataArray | None = None) -> Layout:
    """Fit the climatology of each grid point and return the layout with it.

    Parameters
    ----------
    ds
        The data, which may be lazy, and may have gaps.
    layout
        Variables and axes.
    cycles
        Any of "hour_of_day" and "day_of_year".
    mask
        True where there are values, over the space dimensions. Default: where the data have some.

    Returns
    -------
    Layout
        The layout with its scaling and normals.

    Examples
    --------
    >>> from xsda.labels import Layout
    >>> from xsda.priors.normals import fit_normals
    >>> fitted = fit_normals(weather.mean("member"), Layout.of(weather))
    >>> fitted.normals.std.shape, fitted.normals.masked
    ((1, 4, 5), False)
    """
    blocks = Blocks(ds, layout)
    all_waves = waves(ds[layout.time], cycles) if cycles else np.ones((ds.sizes[layout.time], 1))
    sums: Sums | None = None
    for start, x in blocks:
        if np.isinf(x).any():
            raise ValueError("the data hold infinite values; mark missing values as NaN")
        if found := find_fill_value(x):
            raise ValueError(
                f"{found[1]} values of the data are {found[0]:g}, which stands for a missing value; use "
                f"ds.where(ds != {found[0]:g})"
            )
        sums = sums or Sums.start(x, all_waves.shape[1])
        sums.add(x, all_waves[start : start + x.shape[1]])
    assert sums is not None
    least = max(LEAST * sums.count.max(), FEWEST)
    valid = sums.count >= least
    if mask is not None:
        valid &= _given_mask(mask, blocks, valid)
    else:
        _tell_of_few_values(int(((sums.count > 0) & ~valid).any(0).sum()), least)
    _tell_of_isolated(valid.any(0), layout)
    empty = [n for n, s in layout.slices().items() if not valid[s].any()]
    if empty:
        raise ValueError(f"the variables {empty} have no values (all NaN, or masked); drop them")
    _check_enough(layout, np.where(valid, sums.count, 0), 2 * all_waves.shape[1])
    fitted = _layout(layout, sums, valid, tuple(cycles))
    assert fitted.normals is not None
    return replace(fitted, normals=replace(fitted.normals, position=blocks.grid.positions()))


def _check_enough(layout: Layout, count: np.ndarray, least: int) -> None:
    """Raise if all points of a variable together have too few values for a cycle."""
    for name, number in zip(_channel_names(layout), count.reshape(len(count), -1).sum(1), strict=True):
        if number < least:
            raise ValueError(
                f"the variable {name!r} has {number:.0f} values, too few for its climatology, which needs {least}; use "
                "climatology=None, or a longer record"
            )


def _tell_of_few_values(points: int, least: float) -> None:
    """Say how many points are masked because they have too few values."""
    if points:
        warn(
            f"{points} grid point{'s have' if points > 1 else ' has'} values in fewer than {np.ceil(least):.0f} states "
            f"of the record; {'they are' if points > 1 else 'it is'} masked, as if there were none",
            UserWarning,
        )


def _tell_of_isolated(valid: np.ndarray, layout: Layout) -> None:
    """Say how many points of a map have values, but no neighbour that has."""
    if valid.ndim != 2 or valid.all():
        return
    shifts = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    rows, columns = valid.shape
    around = np.pad(valid, [(1, 1) if a.period is None else (0, 0) for a in layout.space])
    around = np.pad(around, [(0, 0) if a.period is None else (1, 1) for a in layout.space], mode="wrap")
    alone = valid & ~np.any([around[i : i + rows, j : j + columns] for i, j in shifts], axis=0)
    if alone.any():
        first = zip(layout.space, np.argwhere(alone)[0], strict=True)
        place = ", ".join(f"{a.name} {a.points[i] if a.points else i:g}" for a, i in first)
        warn(
            f"grid points with values but no neighbour with values: {alone.sum()}, the first at {place}; they are kept "
            "(set them to NaN to leave them out)",
            UserWarning,
        )


def _given_mask(mask: xr.DataArray, blocks: Blocks, found: np.ndarray) -> np.ndarray:
    """Return a mask on the axes of a state; raise if it does not fit the data."""
    space = blocks.grid.core_dims[1:]
    if not isinstance(mask, xr.DataArray) or set(mask.dims) != set(space):
        raise ValueError(f"mask must be a DataArray over {space}, True where there are values")
    if not np.isin(mask.values, (0, 1)).all():
        raise ValueError("mask must be True or False (or 1 or 0) at each point, and holds other values; use .notnull()")
    for d in space:
        if d in mask.coords and d in blocks.ds.coords:
            if not np.array_equal(np.sort(mask[d].values), np.sort(blocks.ds[d].values)):
                raise ValueError(f"the mask has other coordinates along {d!r} than the data; use .sel or .interp first")
            mask = mask.sel({d: blocks.ds[d]})
    own = np.asarray(blocks.grid.orient(mask.astype(bool)).transpose(*space).values)
    if own.shape != found.shape[1:]:
        raise ValueError(f"the mask has the shape {own.shape}, the data have {found.shape[1:]}")
    missing = int((own & ~found.any(0)).sum())
    if missing:
        raise ValueError(
            f"the mask says that {missing} points have values, but the data have (almost) none there; correct the "
            "mask, or omit it to use the points that have data"
        )
    return own


def _layout(layout: Layout, sums: Sums, valid: np.ndarray, cycles: tuple[str, ...]) -> Layout:
    """Solve the normal equations, and write mean and spread in units of the channels."""
    size = len(sums.wx)
    ww = np.moveaxis(sums.ww.reshape(size, size, -1), -1, 0)
    # a wave that the time step cannot tell from another, or that is zero at all times, gets the coefficient zero
    ww = ww + (RIDGE * sums.count.ravel() + ~valid.ravel())[:, None, None] * np.eye(size)
    wx = sums.wx.reshape(size, -1).T
    mean = np.linalg.solve(ww, wx[..., None])[..., 0]
    variance = (sums.square.ravel() - (mean * wx).sum(1)) / sums.count.ravel().clip(1)
    _shrink_few(Equations(ww, wx, sums.square.ravel(), sums.count.ravel()), valid, mean, variance)
    mean = mean.T.reshape(sums.wx.shape)
    mean[0] += sums.shift
    std = np.sqrt(variance.clip(0)).reshape(valid.shape)
    centers, scales = [], []
    for c, name in enumerate(_channel_names(layout)):
        here = valid[c]
        center = mean[0, c][here].mean()
        scale = np.sqrt((np.square(std[c][here]) + np.square(mean[0, c][here] - center)).mean())
        if not scale > 1e-12 * np.abs(mean[0, c][here]).max() or not std[c][here].max() > 1e-9 * scale:
            raise ValueError(f"the variable {name!r} is constant in time; drop it, or pass it as context")
        centers.append(center)
        scales.append(scale)
    shape = (-1, *(1,) * (valid.ndim - 1))
    center, scale = np.reshape(centers, shape), np.reshape(scales, shape)
    mean[0] -= center
    mean = np.where(valid, mean / scale, 0.0)
    std = np.where(valid, np.maximum(std / scale, FLAT), 1.0)
    normals = Normals(mean.astype(np.float32), std.astype(np.float32), valid, cycles)
    return replace(layout.scaled(np.ravel(centers).tolist(), np.ravel(scales).tolist()), normals=normals)


def _shrink_few(sums: Equations, valid: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> None:
    """Shrink the cycles, in place, at points where gaps leave few values for each wave."""
    size = sums.wx.shape[1]
    for points in np.arange(valid.size).reshape(len(valid), -1):
        points = points[valid.ravel()[points]]
        own = sums.part(points)
        few = own.count < max(2 * size, min(MANY * size, own.count.max()))
        if size > 1 and few.any():
            mean[points[few]], variance[points[few]] = shrink(own, few)


def _channel_names(layout: Layout) -> list[str]:
    return [v.name for v in layout.variables for _ in range(v.channels)]
