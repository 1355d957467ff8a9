"""Selects levels of a variable, or interpolates between them.

Interpolation is linear in the logarithm of the coordinate if that is a pressure, which is nearly linear in height, and
otherwise linear in the coordinate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from xsda.labels.cf import find_scale, unit_scale
from xsda.observations.stencils import GridAxis, Stencil


def between_levels(coord: xr.DataArray, labels: Sequence[Any], units: str | None) -> Stencil:
    """Return the weights of levels for each ravelled position.

    Parameters
    ----------
    coord
        Positions of the observations.
    labels
        The levels of the grid, in any order. Levels that are not numbers can only be selected.
    units
        Units of the levels. Default: those of ``coord``.

    Returns
    -------
    Stencil
        Weights of at most two levels for each position. Positions outside the range of the levels raise an error.

    Examples
    --------
    >>> from xsda.observations.levels import between_levels
    >>> level = xr.DataArray([850.0, 650.0], dims="obs", name="level", attrs={"units": "hPa"})
    >>> stencil = between_levels(level, [1000, 850, 500], "hPa")
    >>> stencil.index.tolist(), stencil.weight.round(3).tolist()
    ([[1, 1], [2, 1]], [[1.0, 0.0], [0.506, 0.494]])
    """
    wanted, levels = np.ravel(coord.values), np.asarray(labels)
    if levels.dtype.kind not in "iuf" or wanted.dtype.kind not in "iuf":
        unknown = [w for w in wanted.tolist() if w not in labels]
        if unknown:
            raise ValueError(f"{coord.name}={unknown[0]!r} is not among the prior's {list(labels)}")
        index = np.array([list(labels).index(w) for w in wanted.tolist()], dtype=int)[:, None]
        return Stencil(index, np.ones(index.shape), len(labels))
    wanted, order = _in_units(coord, units), np.argsort(levels)
    outside = beyond_levels(coord, labels, units)
    if outside.any():
        shown = ", ".join(f"{w:g}" for w in np.unique(wanted[outside])[:5])
        raise ValueError(
            f"observations lie outside the levels of the grid along {str(coord.name)!r}: {shown}; the grid has "
            f"{list(labels)}. Use outside='drop', or extend the grid"
        )
    levels = levels[order].astype(float)
    pressure = levels[0] > 0 and unit_scale(str(units or coord.attrs.get("units") or "1"), "Pa") is not None
    scale = np.log if pressure else np.asarray
    stencil = GridAxis(str(coord.name), scale(levels)).locate(scale(wanted).clip(scale(levels[0]), scale(levels[-1])))
    return Stencil(order[stencil.index], stencil.weight, stencil.size)


def beyond_levels(coord: xr.DataArray, labels: Sequence[Any], units: str | None) -> np.ndarray:
    """Whether each ravelled position lies outside the range of the levels; levels with names have no range.

    Parameters
    ----------
    coord, labels, units
        As in ``between_levels``.

    Examples
    --------
    >>> from xsda.observations.levels import beyond_levels
    >>> beyond_levels(xr.DataArray([1013.0, 850.0], dims="obs", name="level"), [1000, 850, 500], "hPa")
    array([ True, False])
    """
    levels = np.asarray(labels)
    if levels.dtype.kind not in "iuf" or coord.dtype.kind not in "iuf":
        return np.zeros(coord.size, bool)
    wanted, slack = _in_units(coord, units), 1e-6 * np.abs(levels).max()
    return (wanted < levels.min() - slack) | (wanted > levels.max() + slack)


def _in_units(coord: xr.DataArray, units: str | None) -> np.ndarray:
    """Ravelled positions in the units of the levels."""
    factor, offset = find_scale(str(coord.name), coord.attrs.get("units"), units, "the grid")
    return np.ravel(coord.values) * factor + offset
