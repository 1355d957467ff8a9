"""Covariances that users give: whether they can be covariances, and their order on a grid."""

from __future__ import annotations

import numpy as np
import xarray as xr

from xsda.labels.grid import Grid


def check_cov(cov: np.ndarray, n: int, name: str, sizes: str) -> np.ndarray:
    """Check a covariance of ``n`` numbers; ``name`` and ``sizes`` (which explains ``n``) appear in the error."""
    cov = np.asarray(cov, dtype=np.float64)
    if cov.shape != (n, n):
        raise ValueError(f"{name} has the shape {cov.shape}, {sizes.format(n)}; expected ({n}, {n})")
    if not np.isfinite(cov).all():
        raise ValueError(f"{name} holds NaN or infinite values")
    if not np.allclose(cov, cov.T, atol=1e-8 * np.abs(cov).max()):
        raise ValueError(f"{name} is not symmetric; use (cov + cov.T) / 2")
    smallest = np.linalg.eigvalsh(cov)[0]
    if smallest < -1e-8 * np.abs(cov).max():
        raise ValueError(f"{name} is not positive semi-definite: its smallest eigenvalue is {smallest:g}")
    return cov


def space_factors(grid: Grid, y_cov: np.ndarray | None, x_cov: np.ndarray | None) -> list[np.ndarray]:
    """Return the covariances of the space axes, reversed where an axis descends."""
    dims = grid.core_dims[1:]
    given = {n: cov for n, cov in (("y_cov", y_cov), ("x_cov", x_cov)) if cov is not None}
    if len(given) != len(dims):
        raise ValueError(
            f"got {list(given) or 'no covariance'} for the space dimensions {list(dims)}; need "
            + ("neither y_cov nor x_cov", f"y_cov or x_cov for {dims[:1]}", f"y_cov and x_cov for {dims}")[len(dims)]
        )
    factors = []
    for dim, (name, cov) in zip(dims, given.items(), strict=True):
        cov = check_cov(cov, grid.template.sizes[dim], name, f"{dim!r} has {{}} points")
        factors.append(cov[::-1, ::-1].copy() if grid.descends(dim) else cov)
    return factors


def tensor_order(grid: Grid) -> np.ndarray:
    """For each number of a state tensor, its position among the ravelled variables."""
    numbered, start = {}, 0
    for v in grid.layout.names:
        da = grid.template[v]
        numbered[v] = da.copy(data=np.arange(start, start + da.size, dtype=np.float64).reshape(da.shape))
        start += da.size
    return grid.stack(xr.Dataset(numbered)).ravel().astype(int)
