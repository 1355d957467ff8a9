"""The correlation of observation errors, from what the user says of it: a matrix, lengths along coordinates, or an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from xsda.arguments import choose, what
from xsda.labels.axes import axis_numbers, is_datelike
from xsda.likelihood.whitening import Cholesky, Whitener

LARGEST = 8000  # values of one variable whose correlation is factored as a dense matrix
LEAST = 1e-3  # share of an error's standard deviation that the others must leave open


def whitener(da: xr.DataArray, pick: np.ndarray, correlation: Any, dtype: torch.dtype = torch.float32) -> Whitener:
    """The whitener of the observed values ``pick`` of a variable, its numbers (if they are ours) of ``dtype``.

    ``correlation``: a matrix over all values of the variable, ravelled; a mapping of coordinates to correlation lengths
    (exponential along each, independent along dimensions that none of them covers; distances do not wrap around a ring); or
    an object with a method ``whiten``.
    """
    name = str(da.name)
    if isinstance(correlation, Whitener):
        if len(pick) < da.size:
            raise ValueError(
                f"{name!r} has {da.size - len(pick)} missing values, and an object with whiten() would get the others only; drop "
                "them from the observations first, and build the object for what is left"
            )
        _check_whitener(name, correlation, len(pick))
        return correlation
    if len(pick) > LARGEST:
        raise ValueError(
            f"{name!r} has {len(pick)} observations with correlated errors; a dense correlation serves up to {LARGEST}. Thin "
            "them, average them, or pass an object with a method whiten(values) that knows its structure"
        )
    if isinstance(correlation, str) or (isinstance(correlation, Mapping) and not correlation):
        raise ValueError(f"correlation of {name!r}: say along which coordinate, such as {{{name!r}: {{'time': '6h'}}}}")
    if isinstance(correlation, Mapping):
        matrix = _exponential(da, pick, correlation)
    else:
        try:
            matrix = np.asarray(correlation, dtype=np.float64)
        except (TypeError, ValueError):
            raise TypeError(
                f"the correlation of {name!r} must be a matrix, a mapping of coordinates to lengths such as {{'time': '6h'}}, or an "
                f"object with a method whiten(values), L^-1 of values (batch, n) where C = L L'; got {what(correlation)}"
            ) from None
        if matrix.shape != (da.size, da.size):
            raise ValueError(
                f"the correlation of {name!r} has the shape {matrix.shape}; the variable has {da.size} values, so "
                f"({da.size}, {da.size}) was expected"
            )
        matrix = matrix[np.ix_(pick, pick)]
        if not np.isfinite(matrix).all():
            raise ValueError(f"the correlation of {name!r} holds values that are not finite")
        if not np.allclose(matrix, matrix.T, atol=1e-6) or not np.allclose(np.diag(matrix), 1, atol=1e-6):
            raise ValueError(
                f"the correlation of {name!r} must be symmetric with ones on its diagonal; sigma gives the standard "
                "deviations (a covariance C has the correlation C / np.outer(s, s), s = np.sqrt(np.diag(C)))"
            )
    try:
        lower = np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        lower = np.zeros((1, 1))
    if not (np.diag(lower) > LEAST).all():  # rounding may leave a little where there should be nothing
        least = float(np.linalg.eigvalsh(matrix)[0])
        if least < -LEAST:
            raise ValueError(
                f"the error covariance of {name!r} is not positive (smallest eigenvalue of the correlation {least:.2g}): no errors "
                "are correlated like that. Was it thresholded, or put together from pairs? Set negative eigenvalues to zero first"
            )
        raise ValueError(
            f"the error covariance of {name!r} is singular (smallest eigenvalue of the correlation {least:.2g}): some errors are "
            "perfectly correlated, as those of two observations at one place. Merge them, or add an uncorrelated part: "
            "0.95 * correlation + 0.05 * identity"
        )
    return Cholesky(torch.as_tensor(lower, dtype=dtype))


def _check_whitener(name: str, given: Whitener, n: int) -> None:
    """Raise unless it is linear and passes gradients."""
    with torch.enable_grad():
        x = torch.randn(3, n, generator=torch.Generator().manual_seed(0))
        x[2] = x[0] - 2 * x[1]
        x.requires_grad_()
        try:
            came = given.whiten(x)
        except RuntimeError as error:
            if "numpy" not in str(error):  # which refuses tensors that carry gradients
                raise
            came = torch.zeros(3, n)
    if not isinstance(came, Tensor) or came.shape != x.shape:
        shape = tuple(came.shape) if isinstance(came, Tensor) else type(came).__name__
        raise ValueError(f"whiten() of {name!r} must return a tensor of the shape {tuple(x.shape)} it got, not {shape}")
    if not came.requires_grad:
        raise ValueError(
            f"whiten() of {name!r} passes no gradients back; compute it with torch, without numpy or .detach()"
        )
    came = came.detach()
    if not bool(torch.isfinite(came).all()):
        raise ValueError(f"whiten() of {name!r} returned values that are not finite")
    off = float((came[2] - came[0] + 2 * came[1]).abs().max() / came.abs().max().clamp(min=1e-30))
    if off > 1e-3:
        raise ValueError(
            f"whiten() of {name!r} must be linear, L^-1 of values: whiten(a - 2 b) is off from whiten(a) - 2 whiten(b) by {off:.2g}"
        )


def _exponential(da: xr.DataArray, pick: np.ndarray, lengths: Mapping[str, Any]) -> np.ndarray:
    """exp(-distance / length), multiplied over the coordinates."""
    exponent = np.zeros((len(pick), len(pick)))
    for name, length in lengths.items():
        if name not in da.coords:
            raise KeyError(
                f"{da.name!r} has no coordinate {name!r} to correlate along; {choose(name, map(str, da.coords))}"
            )
        coord = da[name]
        scale = _length(coord, length)
        numbers = axis_numbers(coord)
        if not scale > 0:
            raise ValueError(f"the correlation length along {name!r} must be positive, got {length!r}")
        everywhere = xr.DataArray(numbers.reshape(coord.shape), dims=coord.dims).broadcast_like(da.drop_vars(da.coords))
        x = everywhere.transpose(*da.dims).values.ravel()[pick]
        exponent += np.abs(x[:, None] - x) / scale
    covered = {d for name in lengths for d in da[name].dims}
    for axis, dim in enumerate(da.dims):
        if dim not in covered:
            index = np.unravel_index(pick, da.shape)[axis]
            exponent[index[:, None] != index] = np.inf
    return np.exp(-exponent)


def _length(coord: xr.DataArray, length: Any) -> float:
    """A correlation length in the numbers of the coordinate; on dates and lags it must be a duration."""
    if is_datelike(coord) or coord.dtype.kind == "m":
        if isinstance(length, (int, float, np.number)) and not isinstance(length, np.timedelta64):
            raise ValueError(
                f"the correlation length along the dates of {coord.name!r} must be a duration such as '6h', got {length!r}"
            )
        return pd.Timedelta(length).total_seconds()
    try:
        return float(length)
    except (TypeError, ValueError):
        raise ValueError(
            f"the correlation length along {coord.name!r} must be a number in the units of that coordinate, got {length!r}"
        ) from None
