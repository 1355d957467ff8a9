"""Time steps of records: even steps, steps of calendar months, and records with gaps."""

from __future__ import annotations

import numpy as np
import xarray as xr

from xsda.arguments import warn
from xsda.labels.axes import axis_numbers, axis_text, is_datelike, uniform_step

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
    months = np.asarray(time.dt.year * 12 + time.dt.month, dtype=float)
    count, days = np.diff(months), np.diff(numbers) / 86400
    if (count < 1).any() or not ((days >= DAYS[0] * count) & (days <= DAYS[1] * count)).all():
        return numbers
    return (months - months[0]) * MONTH


def record_step(numbers: np.ndarray, name: str) -> float:
    """Return the step of a record that may have gaps of whole steps; raise if it is irregular."""
    steps = np.diff(numbers)
    step = float(np.median(steps))
    whole = np.round(steps / step) if step > 0 else np.zeros(len(steps))
    if not (step > 0 and (whole >= 1).all() and (np.abs(steps - whole * step) <= EVEN * step * whole).all()):
        return uniform_step(numbers, name)  # which says what is wrong
    return step


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
        origin = time.values[0] if is_datelike(time) else None
        numbers = axis_numbers(time)
        last, first = (axis_text(numbers[i], origin) for i in (parts[0].stop - 1, parts[1].start))
        warn(
            f"the record has {len(parts) - 1} gap{'s' if len(parts) > 2 else ''} (the first from {last} to {first}); "
            f"its {len(parts)} stretches are used, and nothing is filled",
            UserWarning,
        )
