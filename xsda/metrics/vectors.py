"""Members as vectors: the norm that the multivariate scores and the transport distances share.

A member is the vector of all values of all variables. Its squared norm is

    |x|^2 = sum_v sum_i (w_i / mean(w)) (x_vi / scale_v)^2

with the area weights w of ``pairs`` (all 1 without latitudes or with ``weights=False``). Each variable has a scale, so
that metres and kelvins can be added.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping

import numpy as np
import xarray as xr

from xsda.arguments import choose
from xsda.metrics.pairs import Labelled, Weights, check_weights, find_weights, match

Scale = Mapping[str, float] | None


def rescale(value: xr.Dataset | xr.DataArray, scale: Scale) -> xr.Dataset:
    """Divide variables by their scales, so that they can be added.

    Parameters
    ----------
    value
        Dataset or DataArray.
    scale
        One positive number for each variable of a Dataset. It may be omitted if all variables have the same units.

    Returns
    -------
    Dataset
        The scaled variables.

    Examples
    --------
    >>> from xsda.metrics.vectors import rescale
    >>> float(rescale(xr.Dataset({"t": 6.0}), {"t": 2.0}).t)
    3.0
    """
    if isinstance(value, xr.DataArray):
        if scale is not None:
            raise TypeError("scale= is for the variables of a Dataset; divide the DataArray instead")
        return value.rename("_values").to_dataset()
    names = [str(v) for v in value.data_vars]
    if scale is None:
        units = {v: str(value[v].attrs.get("units", "?")) for v in names}
        if len(set(units.values())) > 1:
            listed = ", ".join(f"{v}: {u}" for v, u in units.items())
            raise ValueError(
                f"variables of different units ({listed}) cannot be added; pass scale={{{names[0]!r}: ..., ...}}, for "
                "example their standard deviations"
            )
        return value
    unknown = [k for k in scale if str(k) not in names]
    if unknown:
        raise KeyError(f"scale names {unknown[0]!r}, which is not among the variables; {choose(unknown[0], names)}")
    missing = [v for v in names if v not in scale]
    if missing:
        raise KeyError(f"scale lacks the variable {missing[0]!r}; give one positive number for each of {names}")
    numbers = {v: float(scale[v]) for v in names}
    bad = [v for v, s in numbers.items() if not 0 < s < np.inf]
    if bad:
        raise ValueError(f"the scale of {bad[0]!r} must be positive and finite, got {numbers[bad[0]]:g}")
    return xr.Dataset({v: value[v] / s for v, s in numbers.items()})


def vector_weights(da: xr.DataArray, dims: Collection[Hashable], weights: Weights) -> xr.DataArray:
    """Return weights with mean 1.

    Parameters
    ----------
    da
        Field with the coordinates.
    dims
        Dimensions of the weights.
    weights
        Weights of your own, False for equal weights, or None for areas where there is a latitude.

    Returns
    -------
    DataArray
        Weights over ``dims``.

    Examples
    --------
    >>> from xsda.metrics.vectors import vector_weights
    >>> da = xr.DataArray([1.0, 2.0], {"lat": [0.0, 60.0]}, "lat")
    >>> vector_weights(da, ["lat"], None).values.round(3)
    array([1.333, 0.667])
    """
    shape = xr.DataArray(np.ones([da.sizes[d] for d in dims]), {d: da[d] for d in dims if d in da.coords}, tuple(dims))
    found = find_weights(da, dims, weights)
    if found is None:
        return shape
    return (found / found.mean([d for d in found.dims if d in dims]) * shape).drop_attrs()


def matrices(a: Labelled, b: Labelled, scale: Scale, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Convert two ensembles to matrices (member, number) in double precision.

    Numbers that are NaN in any member are omitted. Lazy data are computed.

    Parameters
    ----------
    a, b
        The ensembles, with the dimension ``member``.
    scale
        One positive number for each variable; see ``rescale``.
    weights
        As for ``vector_weights``.

    Returns
    -------
    x, y : ndarray
        The two matrices.

    Examples
    --------
    >>> from xsda.metrics.vectors import matrices
    >>> ensemble = xr.DataArray([[1.0, np.nan], [3.0, 4.0]], dims=("member", "x"))
    >>> matrices(ensemble, ensemble, None, None)[0]
    array([[1.],
           [3.]])
    """
    a, b = match(a, b, ("first ensemble", "second ensemble"))
    check_weights(a, weights)
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for ensemble, columns in zip((rescale(a, scale), rescale(b, scale)), parts, strict=True):
        for name, da in ensemble.data_vars.items():
            if "member" not in da.dims:
                raise ValueError(f"{name!r} has no dimension 'member', only {da.dims}; drop it or expand it")
            dims = sorted((d for d in da.dims if d != "member"), key=str)
            root = vector_weights(da, dims, weights) ** 0.5
            values = np.asarray((da * root).transpose("member", *dims).values, dtype=float)
            columns.append(values.reshape(len(values), -1))
    x, y = (np.concatenate(columns, axis=1) for columns in parts)
    valid = ~(np.isnan(x).any(0) | np.isnan(y).any(0))
    if not valid.any():
        raise ValueError("no value is present in every member of both ensembles, so there is nothing to compare")
    return x[:, valid], y[:, valid]


def squared_distances(points: np.ndarray) -> np.ndarray:
    """Compute |x_i - x_j|^2 from the Gram matrix of the centred points.

    Parameters
    ----------
    points
        (..., n, k).

    Returns
    -------
    ndarray
        Squared distances (..., n, n).

    Examples
    --------
    >>> from xsda.metrics.vectors import squared_distances
    >>> squared_distances(np.array([[0.0, 0.0], [3.0, 4.0]]))
    array([[ 0., 25.],
           [25.,  0.]])
    """
    x = points - points.mean(axis=-2, keepdims=True)
    gram = x @ x.swapaxes(-1, -2)
    square = np.einsum("...ii->...i", gram)
    return np.maximum(square[..., :, None] + square[..., None, :] - 2 * gram, 0)
