"""Turns the user's description of correlated observation errors into a whitener.

The description is a correlation matrix, a mapping of coordinates to correlation lengths, or an object with ``whiten``.
"""

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

LARGEST = 8000  # most values of one variable for a dense Cholesky factor
LEAST = 1e-3  # smallest diagonal entry of that factor; below it the correlation counts as singular


def whitener(da: xr.DataArray, pick: np.ndarray, correlation: Any, dtype: torch.dtype = torch.float32) -> Whitener:
    """Build the whitener of the values ``pick`` of a variable.

    Parameters
    ----------
    da
        The observed variable.
    pick
        Ravelled positions of its values that are not missing.
    correlation
        A matrix over all values of the variable (ravelled), an object with a method ``whiten``, or a mapping of
        coordinates to correlation lengths. With lengths the correlation is exponential along each coordinate. Errors
        are independent along dimensions without a length. Distances do not wrap around a ring.
    dtype
        Precision of the Cholesky factor.
    """
    name = str(da.name)
    if isinstance(correlation, Whitener):
        if len(pick) < da.size:
            raise ValueError(
                f"{name!r} has {da.size - len(pick)} missing values, which an object with whiten() does not know of; "
                "drop them from the observations, and build the object for the remaining values"
            )
        _check_whitener(name, correlation, len(pick))
        return correlation
    if len(pick) > LARGEST:
        raise ValueError(
            f"{name!r} has {len(pick)} observations with correlated errors, more than the {LARGEST} that a dense "
            "correlation allows; thin them, average them, or pass an object with a method whiten(values) that uses "
            "its structure"
        )
    if isinstance(correlation, (str, int, float)) or (isinstance(correlation, Mapping) and not correlation):
        raise ValueError(
            f"the correlation of {name!r} names no coordinate; give one with its length, such as "
            f"correlation={{{name!r}: {{'time': '6h'}}}}"
        )
    given = isinstance(correlation, Mapping)
    matrix = _exponential(da, pick, correlation) if given else _matrix(da, pick, correlation)
    return Cholesky(torch.as_tensor(_factor(name, matrix), dtype=dtype))


def _matrix(da: xr.DataArray, pick: np.ndarray, correlation: Any) -> np.ndarray:
    """The user's correlation matrix for the values ``pick``, checked."""
    name = str(da.name)
    try:
        matrix = np.asarray(correlation, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"the correlation of {name!r} must be a matrix, a mapping of coordinates to lengths such as "
            f"{{'time': '6h'}}, or an object with a method whiten(values), L^-1 of values (batch, n) where C = L L'; "
            f"got {what(correlation)}"
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
    return matrix


def _factor(name: str, matrix: np.ndarray) -> np.ndarray:
    """The lower Cholesky factor of a correlation matrix; raises if the matrix is singular or not positive."""
    try:
        lower = np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        lower = np.zeros((1, 1))
    if (np.diag(lower) > LEAST).all():  # rounding leaves small numbers in place of zeros
        return lower
    least = float(np.linalg.eigvalsh(matrix)[0])
    if least < -LEAST:
        raise ValueError(
            f"the error covariance of {name!r} is not positive (smallest eigenvalue of the correlation {least:.2g}), "
            "perhaps because it was thresholded or assembled from pairs; set its negative eigenvalues to zero first"
        )
    raise ValueError(
        f"the error covariance of {name!r} is singular (smallest eigenvalue of the correlation {least:.2g}): some "
        "errors are perfectly correlated, such as those of two observations at one place. Merge them, or add an "
        "uncorrelated part: 0.95 * correlation + 0.05 * identity"
    )


def _check_whitener(name: str, given: Whitener, n: int) -> None:
    """Raise unless the user's whitener is linear and passes gradients."""
    with torch.enable_grad():
        x = torch.randn(3, n, generator=torch.Generator().manual_seed(0))
        x[2] = x[0] - 2 * x[1]
        x.requires_grad_()
        try:
            came = given.whiten(x)
        except RuntimeError as error:
            if "numpy" not in str(error):  # numpy refuses tensors that need gradients
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
            f"whiten() of {name!r} must be linear (L^-1 of values): whiten(a - 2 b) and whiten(a) - 2 whiten(b) "
            f"differ by {off:.2g}, relative to the largest value"
        )


def _exponential(da: xr.DataArray, pick: np.ndarray, lengths: Mapping[str, Any]) -> np.ndarray:
    """exp(-distance / length), multiplied over the coordinates."""
    exponent = np.zeros((len(pick), len(pick)))
    for name, length in lengths.items():
        if name not in da.coords:
            raise KeyError(
                f"{da.name!r} has no coordinate {name!r} for a correlation length; {choose(name, map(str, da.coords))}"
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
    """The correlation length as a number; along dates and lags it must be a duration, and the number is in seconds."""
    if is_datelike(coord) or coord.dtype.kind == "m":
        try:
            number = isinstance(length, (int, float, np.number)) and not isinstance(length, np.timedelta64)
            if number or (isinstance(length, str) and not any(c.isalpha() or c == ":" for c in length)):
                raise TypeError("a number has no unit")  # pandas reads nanoseconds
            return pd.Timedelta(length).total_seconds()
        except (TypeError, ValueError):
            raise ValueError(
                f"the correlation length along the dates of {coord.name!r} must be a duration such as '6h', got "
                f"{length!r}"
            ) from None
    try:
        return float(length)
    except (TypeError, ValueError):
        raise ValueError(
            f"the correlation length along {coord.name!r} must be a number in the units of that coordinate, got "
            f"{length!r}"
        ) from None
