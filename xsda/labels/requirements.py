"""What a prior requires of a grid: its region and spacing, whole rings, a time step, the places of its climatology."""

from __future__ import annotations

import numpy as np

from xsda.labels.axes import check_calendar, is_datelike, own_period, uniform_step
from xsda.labels.cf import is_latitude, is_longitude
from xsda.labels.layout import Axis
from xsda.labels.points import Points
from xsda.labels.sphere import find_poles
from xsda.labels.steps import step_numbers

SAME = 1e-2  # points closer than this, in units of the spacing, are the same


def places(points: Points) -> list[np.ndarray]:
    """Return, for each space axis, the position of the user's points among those of the prior."""
    found = []
    for axis, dim in zip(points.layout.space, points.core_dims[1:], strict=True):
        own, size = np.asarray(axis.points), points.template.sizes[dim]
        if not len(own) or dim not in points.template.coords:
            if size != axis.size:
                raise ValueError(
                    f"{dim!r} has {size} points and no coordinate that both know; the prior has {axis.size}"
                )
            found.append(np.arange(size))
            continue
        apart = _apart(points, axis, dim)
        if (apart.min(1) > SAME * axis.spacing).any():
            raise ValueError(
                f"{_region(points, axis, dim)}; its climatology holds at its points, so put the grid on them"
            )
        found.append(apart.argmin(1))
    return found


def check_order(points: Points) -> None:
    """Raise if the points along an axis are those of the prior in another order, as a ring in another convention is."""
    for axis, dim in zip(points.layout.space, points.core_dims[1:], strict=True):
        own, size = np.asarray(axis.points), points.template.sizes[dim]
        if len(own) != size or dim not in points.template.coords:
            continue
        apart = _apart(points, axis, dim)
        found = apart.argmin(1)
        if (apart.min(1) <= SAME * axis.spacing).all() and not np.array_equal(found, np.arange(size)):
            raise ValueError(
                f"{dim!r} has the points of this prior in another order: the prior begins at {own[0]:g} and ends at "
                f"{own[-1]:g}; write it so, with ds.assign_coords({dim}=...).sortby({dim!r})"
            )


def check_positions(points: Points, theirs: np.ndarray | None) -> None:
    """Raise if the points of a grid are not at the two-dimensional coordinates ``theirs`` of a climatology."""
    if theirs is None:
        return
    own = points.positions()
    if own is None:
        raise ValueError("the climatology of this prior has two-dimensional latitudes and longitudes; add them")
    turned = (own[1] - theirs[1] + 180) % 360 - 180
    apart = np.hypot(own[0] - theirs[0], turned * np.cos(np.radians(theirs[0])))
    spacing = np.nanmedian(np.abs(np.diff(theirs[0], axis=0))) + np.nanmedian(np.abs(np.diff(theirs[0], axis=1)))
    if np.nanmax(apart) > 0.1 * spacing:
        raise ValueError(
            f"the points of the grid are up to {np.nanmax(apart):.3g} degrees away from those of the prior, whose "
            "climatology holds at its points; use its grid, in the same order"
        )


def check_region(points: Points) -> list[str]:
    """Describe where the grid leaves the region of a prior that knows its latitudes, longitudes or positions."""
    notes, read = [], {v.name for v in points.layout.position}
    for axis, dim in zip(points.layout.space, points.core_dims[1:], strict=True):
        known = axis.points and dim in points.template.coords
        coord = points.template[dim]
        if known and (axis.name in read or is_latitude(coord) or is_longitude(coord)):
            own = np.asarray(axis.points)
            near = np.diff(own).max() if len(own) > 1 else axis.spacing
            if (_apart(points, axis, dim).min(1) > near).any():
                notes.append(_region(points, axis, dim))
    return notes


def check_spacing(points: Points) -> list[str]:
    """Describe differences from the training grid that may make the network inaccurate."""
    notes = []
    for axis, dim in zip(points.layout.space, points.core_dims[1:], strict=True):
        size = points.template.sizes[dim]
        spacing = points.spacing(dim) if size > 1 else axis.spacing
        if dim in points.template.coords and abs(spacing - axis.spacing) > 1e-3 * abs(axis.spacing):
            notes.append(f"spacing {spacing:g} along {dim!r} where the prior was trained with {axis.spacing:g}")
        if size != axis.size:
            notes.append(f"{size} points along {dim!r} where the prior was trained with {axis.size}")
    return notes


def check_rings(points: Points) -> None:
    """Raise if the grid covers only part of a ring: the network would join its ends."""
    for axis, dim in zip(points.layout.space, points.core_dims[1:], strict=True):
        if axis.period is None or dim not in points.template.coords or points.template.sizes[dim] < 2:
            continue
        spacing = points.spacing(dim)
        covered = spacing * points.template.sizes[dim]
        period = own_period(points.template, dim, spacing) or axis.period
        if covered < period - 0.5 * spacing:
            raise ValueError(
                f"{dim!r} covers {covered:.4g} of a ring of length {period:.4g}, but this prior needs the whole "
                "ring; sample or assimilate on all of it (observations may lie anywhere), and select a part of "
                "the result"
            )
    _check_poles(points)


def _check_poles(points: Points) -> None:
    """Raise if a prior of the globe meets rows that do not reach the poles as those of its training did."""
    for axis, dim in zip(points.layout.space, points.core_dims[1:], strict=True):
        if axis.poles is None or dim not in points.template.coords:
            continue
        other = next(d for d in points.core_dims[1:] if d != dim)
        if other in points.template.coords and find_poles(points.template, dim, other) != axis.poles:
            rows = points.numbers(dim)
            where = "on the poles" if axis.poles == "on_poles" else "about half a spacing before the poles"
            raise ValueError(
                f"{dim!r} runs from {rows[0]:g} to {rows[-1]:g}, but this prior needs the whole globe, with an "
                f"even number of longitudes and the first and last latitude {where}; sample or assimilate on "
                "such a grid, and select a part of the result"
            )


def check_time(points: Points) -> None:
    """Raise unless the grid has the time step of the prior, and dates if the prior needs them."""
    dim = points.core_dims[0]
    time = points.template[dim]
    if points.layout.time_features and not (dim in points.template.coords and is_datelike(time)):
        raise ValueError(
            f"this prior reads the date ({', '.join(points.layout.time_features)}), so {dim!r} must hold dates"
        )
    if points.layout.dt is None or points.template.sizes[dim] < 2 or dim not in points.template.coords:
        return
    check_calendar(time, points.layout.dates, "the prior's time axis")
    step = uniform_step(step_numbers(time), dim)
    if abs(step - points.layout.dt) > 1e-3 * points.layout.dt:
        unit = " s" if points.layout.dates else ""
        raise ValueError(
            f"the time step of the grid is {step:g}{unit}, the prior was trained with {points.layout.dt:g}{unit}; "
            "use that step (observations may lie at any time)"
        )


def _apart(points: Points, axis: Axis, dim: str) -> np.ndarray:
    """Distances of the user's points from those of the prior along one axis, (point, point of the prior)."""
    apart = points.numbers(dim)[:, None] - np.asarray(axis.points)
    return np.abs((apart + 180) % 360 - 180 if is_longitude(points.template[dim]) else apart)


def _region(points: Points, axis: Axis, dim: str) -> str:
    """Describe where the grid and the prior lie along one axis."""
    x, own = points.numbers(dim), axis.points
    return f"the grid has {dim} {x[0]:g} to {x[-1]:g}, the prior {own[0]:g} to {own[-1]:g} by {axis.spacing:g}"
