"""Several ensembles and one truth on one page: error and spread over time, and rank histograms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from xsda.labels.axes import find_axes
from xsda.metrics.pairs import Ensembles, by_label, shared_variables
from xsda.plot.diagnostics import chance_patch, draw_errors, draw_ranks, error_handles
from xsda.plot.panels import colours, finish, label_time, panels


def comparison(
    ensembles: Ensembles,
    truth: xr.Dataset,
    *,
    variable: str | Sequence[str] | None = None,
    log: bool = False,
    title: str | None = None,
    ax: Any = None,
) -> Figure:
    """Draw error and spread over time, then the rank histogram of each ensemble; one row per variable.

    Parameters
    ----------
    ensembles
        Dataset with the dimension ``member``, or several by label such as ``{"LETKF": filtered, "SDA": post}``.
    truth
        Trajectory on the same axes.
    variable
        Name or names of what to draw (default: all variables that are shared).
    log
        Draw errors on a logarithmic axis.
    title
        Title of the figure.
    ax
        Matplotlib Axes to draw into, one for each panel, row by row. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    See Also
    --------
    xsda.plot.error_over_time, xsda.plot.rank_histogram : The two kinds of panels alone.

    Examples
    --------
    >>> figure = xsda.plot.comparison({"SDA": post}, truth, variable="x", log=True)
    >>> figure.axes[0].get_yscale()
    'log'
    """
    sets = by_label(ensembles)
    names = shared_variables({**sets, "truth": truth}, variable)
    colour = colours(list(sets))
    figure, axes = panels(
        len(names), 1 + len(sets), ax, sharex="col",
        width_ratios=[2.2, *(1.0 for _ in sets)], figsize=(4.6 + 2.0 * len(sets), 1.9 * len(names) + 0.8),
    )  # fmt: skip
    for row, name in zip(axes, names, strict=True):
        draw_errors(row[0], sets, truth, name, log=log)
        for panel, (label, ens) in zip(row[1:], sets.items(), strict=True):
            draw_ranks(panel, ens[name], truth[name], colour[label])
        row[1].set_ylabel("frequency (flat = 1)")
        top = max(panel.get_ylim()[1] for panel in row[1:])
        for panel in row[1:]:
            panel.set_ylim(0, top)
            panel.tick_params(labelleft=panel is row[1])
    label_time(axes[-1, 0].xaxis, truth[find_axes(truth)[0]])
    for panel, label in zip(axes[0, 1:], sets, strict=True):
        panel.set_title(label)
    for panel in axes[-1, 1:]:
        panel.set_xlabel("rank of the truth")
    return finish(figure, axes, ax, [*error_handles(sets), chance_patch()], title)
