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
    own = coord.attrs.get("units")
    factor, offset = find_scale(str(coord.name), own, units, "the grid")
    wanted, order = wanted * factor + offset, np.argsort(levels)
    levels = levels[order].astype(float)
    slack = 1e-6 * np.abs(levels).max()
    outside = (wanted < levels[0] - slack) | (wanted > levels[-1] + slack)
    if outside.any():
        shown = ", ".join(f"{w:g}" for w in np.unique(wanted[outside])[:5])
        raise ValueError(
            f"observations lie outside the levels of the grid along {str(coord.name)!r}: {shown}; the grid has "
            f"{list(labels)}. Drop them, or extend the grid"
        )
    pressure = levels[0] > 0 and unit_scale(str(units or own or "1"), "Pa") is not None
    scale = np.log if pressure else np.asarray
    stencil = GridAxis(str(coord.name), scale(levels)).locate(scale(wanted).clip(scale(levels[0]), scale(levels[-1])))
    return Stencil(order[stencil.index], stencil.weight, stencil.size)
