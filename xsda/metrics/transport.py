"""Distances between two ensembles, each seen as a cloud of points.

A member is one point, with the norm of ``vectors``. For the ensembles a of m members and b of n members:

    earth mover's:  W_1 = min over P of sum_ij P_ij |a_i - b_j|,   P >= 0, sum_j P_ij = 1/m, sum_i P_ij = 1/n
    MMD^2:          mean k(a, a') + mean k(b, b') - 2 mean k(a, b),   k(x, y) = exp(-|x - y|^2 / 2 h^2)
    Gaussian W_2:   W_2^2 = |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2)

(Gretton et al. 2012, JMLR 13, 723; Dowson and Landau 1982, doi:10.1016/0047-259X(82)90077-X). All are computed at once.
W_1 and W_2 between two ensembles of the same distribution are not 0: compare them with the distance between two halves
of one ensemble.
"""

from __future__ import annotations

import numpy as np

from xsda.metrics.pairs import Labelled, Weights, scipy_module
from xsda.metrics.vectors import Scale, matrices, squared_distances

LARGEST = 1_000_000
"""Largest number of pairs of members for ensembles of unequal size; the linear program then takes about 10 s."""


def earth_movers_distance(a: Labelled, b: Labelled, *, scale: Scale = None, weights: Weights = None) -> float:
    """Earth mover's distance (1-Wasserstein distance) between two ensembles, exact. Needs scipy.

    Ensembles of equal size are matched member by member. Unequal sizes need a linear program, which is slower.

    Parameters
    ----------
    a, b
        Ensembles with the dimension ``member`` on the same coordinates.
    scale
        Number by which each variable is divided, such as its standard deviation. Needed if units differ.
    weights
        DataArray of weights in the norm, or False for none. Default: areas, where there is a latitude.

    Returns
    -------
    float
        Distance in the units of the variables.

    Examples
    --------
    >>> a = xr.DataArray([0.0, 1.0, 2.0], dims="member")
    >>> xsda.metrics.earth_movers_distance(a, a + 3)
    3.0
    """
    x, y = matrices(a, b, scale, weights)
    cost = squared_distances(np.concatenate([x, y]))[: len(x), len(x) :] ** 0.5
    if len(x) == len(y):
        return float(cost[scipy_module("optimize").linear_sum_assignment(cost)].mean())
    return _linear_program(cost)


def _linear_program(cost: np.ndarray) -> float:
    m, n = cost.shape
    if cost.size > LARGEST:
        raise ValueError(
            f"{m} and {n} members make {cost.size} pairs, more than the {LARGEST} that the linear program for "
            f"unequal ensembles can take; use equal sizes, for example .isel(member=slice({min(m, n)}))"
        )
    sparse, optimize = scipy_module("sparse"), scipy_module("optimize")
    rows = sparse.kron(sparse.eye_array(m), np.ones((1, n)))
    columns = sparse.kron(np.ones((1, m)), sparse.eye_array(n))
    marginals = np.concatenate([np.full(m, 1 / m), np.full(n, 1 / n)])
    result = optimize.linprog(cost.ravel(), A_eq=sparse.vstack([rows, columns]), b_eq=marginals, method="highs")
    if not result.success:
        raise RuntimeError(f"the linear program of the earth mover's distance failed: {result.message}")
    return float(result.fun)


def mmd(
    a: Labelled,
    b: Labelled,
    *,
    bandwidth: float | None = None,
    unbiased: bool = True,
    scale: Scale = None,
    weights: Weights = None,
) -> float:
    """Squared maximum mean discrepancy between two ensembles, with a Gaussian kernel.

    Parameters
    ----------
    a, b
        Ensembles with the dimension ``member`` on the same coordinates.
    bandwidth
        Width h of the kernel in the units of the norm. Default: the median of all distances. Give it if several values
        are to be compared.
    unbiased
        Leave out each member against itself. The mean is then 0 for equal distributions, and single values may be
        negative.
    scale
        Number by which each variable is divided. Needed if units differ.
    weights
        DataArray of weights in the norm, or False for none. Default: areas, where there is a latitude.

    Returns
    -------
    float
        Squared discrepancy, between 0 and 2 if not ``unbiased``.

    Examples
    --------
    >>> a = xr.DataArray([0.0, 1.0, 2.0], dims="member")
    >>> xsda.metrics.mmd(a, a, unbiased=False)
    0.0
    >>> xsda.metrics.mmd(a, a + 5, bandwidth=1.0) > 0.5
    True
    """
    x, y = matrices(a, b, scale, weights)
    m, n = len(x), len(y)
    if unbiased and min(m, n) < 2:
        raise ValueError(f"the unbiased MMD needs at least 2 members on both sides, got {m} and {n}")
    square = squared_distances(np.concatenate([x, y]))
    if bandwidth is None:
        bandwidth = float(np.median(square[np.triu_indices(m + n, 1)])) ** 0.5
    if not bandwidth > 0:
        raise ValueError(f"the bandwidth must be positive, got {bandwidth:g}; pass one in the units of the values")
    k = np.exp(-square / (2 * bandwidth**2))
    own = 1 if unbiased else 0  # leave out each member against itself
    within = sum((k[s, s].sum() - own * c) / (c * (c - own)) for s, c in ((slice(m), m), (slice(m, None), n)))
    return float(within - 2 * k[:m, m:].mean())


def gaussian_w2(a: Labelled, b: Labelled, *, scale: Scale = None, weights: Weights = None) -> float:
    """2-Wasserstein distance between the Gaussians that have the means and covariances of two ensembles.

    No matrix larger than the ensembles is needed: with C_a = A'A for the scaled anomalies A (members, numbers), the
    last trace is the sum of the singular values of A B'.

    Parameters
    ----------
    a, b
        Ensembles with the dimension ``member`` on the same coordinates.
    scale
        Number by which each variable is divided. Needed if units differ.
    weights
        DataArray of weights in the norm, or False for none. Default: areas, where there is a latitude.

    Returns
    -------
    float
        Distance in the units of the variables.

    Examples
    --------
    >>> a = xr.DataArray([-1.0, 0.0, 1.0], dims="member")
    >>> round(xsda.metrics.gaussian_w2(a, 2 * a + 3), 3)  # sqrt(3^2 + (2 - 1)^2)
    3.162
    """
    x, y = matrices(a, b, scale, weights)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a covariance needs at least 2 members on both sides, got {len(x)} and {len(y)}")
    dx, dy = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y))
    cross = np.linalg.svd(dx @ dy.T, compute_uv=False).sum()
    square = ((x.mean(0) - y.mean(0)) ** 2).sum() + (dx**2).sum() + (dy**2).sum() - 2 * cross
    return float(max(square, 0.0) ** 0.5)
