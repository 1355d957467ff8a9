"""States as lines: a fan of quantiles, a few members, truth and observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xsda.labels.axes import is_datelike
from xsda.plot.panels import finish, label_time, panels
from xsda.plot.selection import (
    Drawn,
    at_place_of,
    check_obs,
    drawable,
    drawn_variables,
    find_drawn_axes,
    observed_points,
    one_state,
)
from xsda.plot.style import ENSEMBLE, OBSERVED, TRUTH, axis_label, axis_values


def series(
    post: xr.Dataset,
    *,
    truth: xr.Dataset | None = None,
    obs: Any = None,
    variable: str | Sequence[str] | None = None,
    time: Any = None,
    members: int = 5,
    title: str | None = None,
    ax: Any = None,
) -> Figure:
    """Draw states as lines over time, or along their one space dimension at one time; one panel per variable.

    An ensemble is drawn as its median, the ranges that hold 50 and 90 % of the members, and some members. A trajectory
    without members is one line. Observations are drawn with their error if it is known.

    Parameters
    ----------
    post
        Ensemble over ``(member, time)``, or a trajectory over ``time``. With ``time=``, also with one space dimension.
    truth
        Trajectory to compare with.
    obs
        Observations, in any form that ``assimilate`` takes. NaN are not marked.
    variable
        Name or names of what to draw (default: all variables).
    time
        For states with one space dimension: the state to draw, as in ``xsda.plot.ensemble``.
    members
        How many members to draw as lines.
    title
        Title of the figure.
    ax
        Matplotlib Axes to draw into, one for each variable. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Examples
    --------
    >>> figure = xsda.plot.series(post, truth=truth, obs=obs, members=3, title="Lorenz-63")
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['x', 'y', 'z']
    """
    post, truth = drawable(post, truth, variable)
    names = drawn_variables(post, variable)
    check_obs(obs, post)
    drawn = _choose(post, truth, time)
    along = _one_dimension(drawn.states, names)
    figure, axes = panels(len(names), 1, ax, sharex=True, figsize=(8, 1.9 * len(names) + 0.6))
    coord = drawn.states[along]
    origin = coord.values[0] if is_datelike(coord) else None
    for panel, name in zip(axes[:, 0], names, strict=True):
        draw_states(panel, axis_values(coord, origin), drawn.states[name].transpose(..., along).values, members)
        if drawn.truth is not None and name in drawn.truth:
            draw_truth(panel, drawn.truth[name], along, origin)
        for points in observed_points(obs, name, post, [along], state=drawn.window):
            draw_observed(panel, points, along, origin)
        panel.set_ylabel(axis_label(post[name]))
        panel.spines[["top", "right"]].set_visible(False)
    label_time(axes[-1, 0].xaxis, coord)
    text = ", ".join(part for part in (title, drawn.label) if part)
    entries = handles(axes)
    return finish(figure, axes, ax, entries if len(entries) > 1 else [], text)


def _choose(post: xr.Dataset, truth: xr.Dataset | None, time: Any) -> Drawn:
    if time is None:
        return Drawn(post, None if truth is None else at_place_of(post, truth))
    axis, space = find_drawn_axes(post)
    if not space:
        raise ValueError(
            "time= selects a state in space, but these states are drawn over all times; omit it, or select a period "
            "with .sel(time=slice(...))"
        )
    return one_state(post, truth, axis, time)


def _one_dimension(ds: xr.Dataset, names: Sequence[str]) -> str:
    """The dimension that all variables have besides ``member``."""
    for name in names:
        dims = [str(d) for d in ds[name].dims if d != "member"]
        if len(dims) != 1:
            raise ValueError(
                f"{name!r} has the dimensions {ds[name].dims}; a line needs one besides 'member'. Select one place "
                "first, e.g. .isel(x=0), or one trajectory"
            )
    found = {str(d) for name in names for d in ds[name].dims} - {"member"}
    if len(found) > 1:
        raise ValueError(f"the variables lie along different dimensions, {sorted(found)}; choose with variable=")
    return found.pop()


def draw_states(panel: Axes, x: np.ndarray, values: np.ndarray, members: int) -> None:
    """An ensemble, (member, along), as a fan and some lines; a trajectory, (along,), as one line."""
    if values.ndim == 1:
        panel.plot(x, values, color=ENSEMBLE, lw=1.3, label="trajectory")
        return
    q05, q25, q50, q75, q95 = np.nanquantile(values, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    panel.fill_between(x, q05, q95, color=ENSEMBLE, alpha=0.2, lw=0, label="90 % of members")
    panel.fill_between(x, q25, q75, color=ENSEMBLE, alpha=0.35, lw=0, label="50 %")
    panel.plot(x, q50, color=ENSEMBLE, lw=1.3, label="median")
    if members:
        lines = panel.plot(x, values[:members].T, color=ENSEMBLE, lw=0.5, alpha=0.6)
        lines[0].set_label("members")


def draw_truth(panel: Axes, truth: xr.DataArray, along: str, origin: Any) -> None:
    """The truth as a black line."""
    if truth.dims != (along,):
        raise ValueError(
            f"{truth.name!r} of the truth has the dimensions {truth.dims}, the picture only {along!r}; select the same "
            "place in both"
        )
    panel.plot(axis_values(truth[along], origin), truth.values, color=TRUTH, lw=1.3, label="truth")


def draw_observed(panel: Axes, points: xr.Dataset, along: str, origin: Any) -> None:
    """Observations as points, with bars of one standard deviation where it is known."""
    error = None if points["error"].isnull().all() else points["error"].values
    panel.errorbar(
        axis_values(points[along], origin), points["value"].values, yerr=error, fmt="o", ms=4, color=OBSERVED,
        ecolor=OBSERVED, elinewidth=1, label="observations", zorder=5,
    )  # fmt: skip


def handles(axes: np.ndarray) -> list[Artist]:
    """One legend entry for each label."""
    found: Mapping[str, Any] = {}
    for panel in axes.flat:
        handles, labels = panel.get_legend_handles_labels()
        found = {**dict(zip(labels, handles, strict=True)), **found}
    order = ["90 % of members", "50 %", "median", "members", "trajectory", "truth", "observations"]
    return [found[label] for label in order if label in found]
