"""Pictures that compare ensembles with a truth: rank histogram, spread and error.

Each picture takes one ensemble, or several by label: ``{"LETKF": a, "SDA": b}``. A calibrated ensemble has a flat rank
histogram, points on the diagonal, and a spread as large as its error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from xsda import metrics
from xsda.arguments import whole_number
from xsda.labels.axes import find_axes, is_datelike
from xsda.metrics.pairs import Ensembles, by_label, shared_variables
from xsda.plot.panels import colours, finish, label_time, log_ticks, panels
from xsda.plot.style import TRUTH, axis_label, axis_values

BAND: dict[str, Any] = {"facecolor": "#444444", "alpha": 0.25, "lw": 0, "zorder": 3}


def rank_histogram(
    ensembles: Ensembles,
    truth: xr.Dataset,
    *,
    variable: str | Sequence[str] | None = None,
    title: str | None = None,
    ax: Any = None,
) -> Figure:
    """Draw how often the truth has each rank among the members; one column per variable, one row per ensemble.

    Frequencies are divided by their value for a calibrated ensemble, so 1 is flat. The band holds 90 % of the bars that
    chance makes if all cases are independent. Neighbours in time and space are not independent: then more bars leave
    the band.

    Parameters
    ----------
    ensembles
        Dataset with the dimension ``member``, or several by label such as ``{"LETKF": filtered, "SDA": post}``.
    truth
        Trajectory on the same axes.
    variable
        Name or names of what to draw (default: all variables that are shared).
    title
        Title of the figure.
    ax
        Matplotlib Axes to draw into, one for each panel, row by row. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Examples
    --------
    >>> figure = xsda.plot.rank_histogram(post, truth, variable=["x", "y"])
    >>> [axes.get_title() for axes in figure.axes]
    ['x', 'y']
    """
    sets = by_label(ensembles)
    names = shared_variables({**sets, "truth": truth}, variable)
    colour = colours(list(sets))
    figure, axes = panels(
        len(sets), len(names), ax, sharey=True, figsize=(max(2.6 * len(names), 4), 2.1 * len(sets) + 0.5)
    )
    for row, (label, ens) in zip(axes, sets.items(), strict=True):
        for panel, name in zip(row, names, strict=True):
            draw_ranks(panel, ens[name], truth[name], colour[label])
        row[0].set_ylabel("frequency (flat = 1)" if len(sets) == 1 else f"{label}\nfrequency (flat = 1)")
    for panel, name in zip(axes[0], names, strict=True):
        panel.set_title(axis_label(truth[name]))
    for panel in axes[-1]:
        panel.set_xlabel("rank of the truth")
    return finish(figure, axes, ax, [chance_patch()], title)


def spread_skill(
    ensembles: Ensembles,
    truth: xr.Dataset,
    *,
    variable: str | Sequence[str] | None = None,
    bins: int = 10,
    log: bool = False,
    title: str | None = None,
    ax: Any = None,
) -> Figure:
    """Draw the error of the ensemble mean against the spread; one panel per variable.

    All cases (times and places) are sorted by spread and cut into bins of equal size. A point is the root mean square
    error of a bin against its root mean square spread, multiplied by sqrt((M + 1) / M) for M members. A calibrated
    ensemble lies on the diagonal. Below the diagonal the spread is too large, above it too small.

    Parameters
    ----------
    ensembles
        Dataset with the dimension ``member``, or several by label such as ``{"LETKF": filtered, "SDA": post}``.
    truth
        Trajectory on the same axes.
    variable
        Name or names of what to draw (default: all variables that are shared).
    bins
        Number of points per ensemble.
    log
        Draw both axes with logarithms.
    title
        Title of the figure.
    ax
        Matplotlib Axes to draw into, one for each panel. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Examples
    --------
    >>> figure = xsda.plot.spread_skill(post, truth, variable="x", bins=4)
    >>> figure.axes[0].get_xlabel()
    'spread of x'
    """
    whole_number("bins", bins, least=1)
    sets = by_label(ensembles)
    names = shared_variables({**sets, "truth": truth}, variable)
    colour = colours(list(sets))
    figure, axes = panels(1, len(names), ax, figsize=(max(3.1 * len(names), 3.6), 3.8))
    for panel, name in zip(axes[0], names, strict=True):
        sizes: list[int] = []
        for label, ens in sets.items():
            spread, error, counts = binned_spread_skill(ens[[name]], truth[[name]], bins)
            panel.plot(spread, error, "o-", ms=4, lw=1.2, color=colour[label], label=label)
            sizes += counts
        least = "" if min(sizes) == max(sizes) else "at least "
        panel.set_title(f"{least}{min(sizes)} cases per point", fontsize="medium")
        _diagonal(panel, log)
        panel.set_xlabel(f"spread of {axis_label(truth[name])}")
        panel.set_ylabel(f"RMSE of {axis_label(truth[name])}")
        panel.spines[["top", "right"]].set_visible(False)
    return finish(figure, axes, ax, axes[0, 0].lines, title)


def _diagonal(panel: Any, log: bool) -> None:
    """The line of calibrated ensembles, and equal limits on both axes."""
    numbers = np.concatenate([np.ravel(line.get_data()) for line in panel.lines])
    low, high = numbers[numbers > 0].min(initial=np.inf), numbers.max()
    if log and np.isfinite(low):
        limits = (low / 1.2, high * 1.2)
        panel.set(xscale="log", yscale="log")
    else:
        limits = (0, 1.06 * high or 1.0)
    end = {"xy2": (limits[1], limits[1])} if log else {"slope": 1}
    panel.axline((limits[0], limits[0]), **end, color=TRUTH, lw=0.8, ls=":", label="spread = error")
    panel.set(xlim=limits, ylim=limits, aspect="equal")
    for axis in (panel.xaxis, panel.yaxis) if log else ():
        log_ticks(axis)


def error_over_time(
    ensembles: Ensembles,
    truth: xr.Dataset,
    *,
    variable: str | Sequence[str] | None = None,
    log: bool = False,
    title: str | None = None,
    ax: Any = None,
) -> Figure:
    """Draw the RMSE of the ensemble mean (solid) and the spread (dashed) at each time; one panel per variable.

    Both are averaged over all of space.

    Parameters
    ----------
    ensembles
        Dataset with the dimension ``member``, or several by label such as ``{"LETKF": filtered, "SDA": post}``.
    truth
        Trajectory on the same axes.
    variable
        Name or names of what to draw (default: all variables that are shared).
    log
        Draw the errors on a logarithmic axis.
    title
        Title of the figure.
    ax
        Matplotlib Axes to draw into, one for each panel. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Examples
    --------
    >>> figure = xsda.plot.error_over_time(post, truth, variable="x")
    >>> len(figure.axes[0].lines)
    2
    """
    sets = by_label(ensembles)
    names = shared_variables({**sets, "truth": truth}, variable)
    figure, axes = panels(len(names), 1, ax, sharex=True, figsize=(8, 1.9 * len(names) + 0.6))
    for panel, name in zip(axes[:, 0], names, strict=True):
        draw_errors(panel, sets, truth, name, log=log)
    label_time(axes[-1, 0].xaxis, truth[find_axes(truth)[0]])
    return finish(figure, axes, ax, error_handles(sets), title)


def draw_ranks(ax: Any, ens: xr.DataArray, truth: xr.DataArray, colour: str) -> None:
    """Bars of a rank histogram divided by its flat value, and the band of chance."""
    counts = metrics.rank_histogram(ens, truth)
    number, ranks = int(counts.sum()), counts.sizes["rank"]
    if number == 0:
        raise ValueError(f"no case of {ens.name!r} has both a truth and all members; there is nothing to rank")
    flat = number / ranks
    chance = np.random.default_rng(0).binomial(number, 1 / ranks, 20_000) / flat
    ax.bar(counts["rank"], counts / flat, width=0.9 if ranks < 40 else 1.0, color=colour, alpha=0.8)
    ax.axhspan(*np.quantile(chance, [0.05, 0.95]), **BAND)
    ax.axhline(1, color=TRUTH, lw=0.8, ls=":")
    ax.set_xlim(-0.6, ranks - 0.4)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.spines[["top", "right"]].set_visible(False)


def chance_patch() -> Patch:
    """Legend of the band."""
    return Patch(**BAND, label="flat by chance (90 %)")


def draw_errors(ax: Any, sets: Mapping[str, xr.Dataset], truth: xr.Dataset, name: str, *, log: bool) -> None:
    """RMSE and spread of one variable over time."""
    time, _ = find_axes(truth)
    over = [d for d in truth[name].dims if d != time]
    colour = colours(list(sets))
    x = axis_values(truth[time], truth[time].values[0] if is_datelike(truth[time]) else None)
    for label, ens in sets.items():
        da, reference = ens[name], truth[name]
        error = metrics.rmse(da, reference, over)
        valid = reference.notnull() & da.notnull().all("member")  # the same cases in both
        spread = metrics.spread(da.where(valid), over)
        ax.plot(x, error.values, color=colour[label], lw=1.3)
        ax.plot(x, spread.values, color=colour[label], lw=1.3, ls="--")
    ax.set_ylabel(axis_label(truth[name]))
    if log:
        ax.set_yscale("log")
        log_ticks(ax.yaxis)
    else:
        ax.set_ylim(bottom=0)
    ax.spines[["top", "right"]].set_visible(False)


def error_handles(sets: Mapping[str, xr.Dataset]) -> list[Line2D]:
    """Legend of colours and line styles."""
    colour = colours(list(sets))
    solid = [Line2D([], [], color=colour[label], lw=1.3, label=label) for label in sets]
    styles = (("RMSE of the mean", "-"), ("spread", "--"))
    return [*solid, *(Line2D([], [], color=TRUTH, lw=1.3, ls=ls, label=label) for label, ls in styles)]


def binned_spread_skill(ens: xr.Dataset, truth: xr.Dataset, bins: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Root mean square of spread and of error, and number of cases, in bins of cases sorted by spread."""
    (name,) = ens.data_vars
    error = metrics.rmse(ens, truth, [])[name]
    m = ens.sizes["member"]
    spread = ((m + 1) / m) ** 0.5 * metrics.spread(ens, [])[name].transpose(*error.dims)
    pairs = np.stack([np.ravel(spread), np.ravel(error)])
    pairs = pairs[:, np.isfinite(pairs).all(0)]
    if not pairs.shape[1]:
        raise ValueError(f"no case of {name!r} has both a truth and all members; there is nothing to draw")
    order = np.argsort(pairs[0], kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    points = np.array([np.sqrt((pairs[:, part] ** 2).mean(1)) for part in parts])
    return points[:, 0], points[:, 1], [len(part) for part in parts]
