"""Time steps of records: even steps, steps of calendar months, and records with gaps."""

from __future__ import annotations

import numpy as np
import xarray as xr

from xsda.arguments import warn
from xsda.labels.axes import axis_numbers, axis_text, is_datelike

MONTH = 365.2425 * 86400.0 / 12  # mean length in seconds
EVEN = 1e-3  # tolerance, relative to the step
DAYS = (27.5, 31.5)  # shortest and longest step of a month, in days


def step_numbers(time: xr.DataArray) -> np.ndarray:
    """Return times as numbers whose steps can be compared.

    These are the numbers of ``axis_numbers``. For dates that step by calendar months, months count as equally long.
    """
    numbers = axis_numbers(time)
    if not is_datelike(time) or time.size < 2:
        return numbers
    count, monthly = _month_steps(time)
    return np.append(0.0, np.cumsum(count)) * MONTH if monthly.all() else numbers


def _month_steps(time: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many months each step of dates goes on, and whether it is as long as so many months."""
    count = np.diff(np.asarray(time.dt.year * 12 + time.dt.month, dtype=float))
    days = np.diff(axis_numbers(time)) / 86400
    return count, (count >= 1) & (days >= DAYS[0] * count) & (days <= DAYS[1] * count)


def record_step(time: xr.DataArray) -> float:
    """Return the step of a record that may have gaps of whole steps; raise if it is irregular or descends."""
    numbers = step_numbers(time)
    steps = np.diff(numbers)
    if len(steps) and (steps < 0).all():
        first, last = _texts(time, 0, -1)
        raise ValueError(
            f"the times of the record descend, from {first} to {last}; sort it with ds.sortby({str(time.name)!r})"
        )
    step = _usual(steps)
    if not _whole(steps, step).all():
        raise ValueError(_irregular(time))
    return step


def _usual(steps: np.ndarray) -> float:
    """The median of the steps; of the two in the middle the shorter one, since the other may be a gap."""
    return float(np.sort(steps)[(len(steps) - 1) // 2])


def _whole(steps: np.ndarray, step: float) -> np.ndarray:
    """Whether each step is a multiple of the usual one."""
    count = np.round(steps / step)
    return (count >= 1) & (np.abs(steps - count * step) <= EVEN * step * count)


def _irregular(time: xr.DataArray) -> str:
    """Name the first step of a record that is no multiple of the usual step."""
    steps = np.diff(axis_numbers(time))
    step = _usual(steps)
    fits, usual = _whole(steps, step), duration(step) if is_datelike(time) else f"{step:g}"
    if is_datelike(time):
        count, monthly = _month_steps(time)
        if monthly.sum() > fits.sum():
            months = int(_usual(count))
            fits, usual = monthly, f"{months} month{'s' if months > 1 else ''}"
    bad = int(np.argmin(fits))
    first, last = _texts(time, bad, bad + 1)
    length = duration(steps[bad]) if is_datelike(time) else f"{steps[bad]:g}"
    return (
        f"the axis {str(time.name)!r} must be evenly spaced, but goes from {first} to {last} in one step of {length}, "
        f"where its usual step is {usual}; correct or drop such times (gaps of whole steps are allowed), or "
        f"interpolate with ds.interp({time.name}=...)"
    )


def _texts(time: xr.DataArray, *indices: int) -> list[str]:
    """Write some times of an axis."""
    numbers, origin = axis_numbers(time), time.values[0] if is_datelike(time) else None
    return [axis_text(numbers[i], origin) for i in indices]


def duration(seconds: float) -> str:
    """Write a length of time in the largest unit that fits.

    Parameters
    ----------
    seconds
        The length in seconds.

    Examples
    --------
    >>> from xsda.labels.steps import duration
    >>> duration(10800.0), duration(129600.0), duration(20.0)
    ('3 h', '1.5 days', '20 s')
    """
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            count = f"{seconds / size:.4g}"
            return f"{count} {'day' if (count, unit) == ('1', 'days') else unit}"
    return f"{seconds:.4g} s"


def stretches(numbers: np.ndarray, step: float | None) -> list[slice]:
    """Return the stretches of a record without gaps."""
    breaks = [] if step is None else (np.flatnonzero(np.diff(numbers) > (1 + EVEN) * step) + 1).tolist()
    return [slice(a, b) for a, b in zip([0, *breaks], [*breaks, len(numbers)], strict=True)]


def tell_of_gaps(time: xr.DataArray, step: float | None) -> None:
    """Say once that a record has gaps, and where the first is."""
    if step is None or time.size < 2:
        return
    parts = stretches(step_numbers(time), step)
    if len(parts) > 1:
        last, first = _texts(time, parts[0].stop - 1, parts[1].start)
        warn(
            f"the record has {len(parts) - 1} gap{'s' if len(parts) > 2 else ''} (the first from {last} to {first}); "
            f"its {len(parts)} stretches are used, and nothing is filled",
            UserWarning,
        )
