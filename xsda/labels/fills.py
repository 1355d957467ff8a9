"""Finds numbers that stand for missing values, such as -9999, among data that do not mark them."""

from __future__ import annotations

import numpy as np

FILL_VALUES = (-9999.0, 9999.0, -999.0, -99999.0, -32767.0, -32768.0, 1e20, -1e20, 9.96921e36, 1e36)


def find_fill_value(x: np.ndarray, *, others: int = 1) -> tuple[float, int] | None:
    """Find a number that usually stands for a missing value, and lies far from all other values.

    Parameters
    ----------
    x
        Values. NaN are left out.
    others
        How many other values there must be to compare with.

    Returns
    -------
    tuple or None
        The number, and how many values have it; None if there is none.

    Examples
    --------
    >>> from xsda.labels.fills import find_fill_value
    >>> find_fill_value(np.array([281.0, -9999.0, 279.5, -9999.0]))
    (-9999.0, 2)
    >>> find_fill_value(np.array([-9950.0, -9999.0, -9970.0])) is None
    True
    """
    ends = [np.fmin.reduce(x, axis=None, initial=np.inf), np.fmax.reduce(x, axis=None, initial=-np.inf)]
    for code in FILL_VALUES:
        if not np.isclose(ends, code, rtol=1e-6).any():
            continue
        values = x[np.isfinite(x)]
        rest = values[~np.isclose(values, code, rtol=1e-6)]
        if len(rest) < others or len(rest) == len(values):
            continue
        span = max(np.ptp(rest), 1e-9 * np.abs(rest).max())
        if code < rest.min() - 3 * span or code > rest.max() + 3 * span:
            return code, len(values) - len(rest)
    return None
