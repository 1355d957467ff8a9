"""Ensembles against the same truth on one page: error and spread over time, and rank histograms."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.figure import Figure

from xsda.labels.axes import find_axes
from xsda.metrics.pairs import Ensembles, by_label, shared_variables
from xsda.plot.diagnostics import chance_patch, draw_errors, draw_ranks, error_handles
from xsda.plot.panels import colours, label_time, legend_below


def comparison(
    ensembles: Ensembles, truth: xr.Dataset, *, variables: Sequence[str] | None = None, title: str | None = None
) -> Figure:
    """A row per variable: RMSE and spread over time as in ``error_over_time``, then each ensemble's rank histogram.

    Parameters
    ----------
    ensembles, truth, variables, title
        As in ``rank_histogram``.
    """
    sets = by_label(ensembles)
    names = shared_variables({**sets, "truth": truth}, variables)
    colour = colours(list(sets))
    figure, axes = plt.subplots(
        len(names), 1 + len(sets), squeeze=False, layout="constrained", sharex="col",
        width_ratios=[2.2, *(1.0 for _ in sets)], figsize=(4.6 + 2.0 * len(sets), 1.9 * len(names) + 0.8),
    )  # fmt: skip
    for row, name in zip(axes, names, strict=True):
        draw_errors(row[0], sets, truth, name)
        for ax, (label, ens) in zip(row[1:], sets.items(), strict=True):
            draw_ranks(ax, ens[name], truth[name], colour[label])
        row[1].set_ylabel("frequency (flat = 1)")
        top = max(ax.get_ylim()[1] for ax in row[1:])
        for ax in row[1:]:
            ax.set_ylim(0, top)
            ax.tick_params(labelleft=ax is row[1])
    label_time(axes[-1, 0], truth[find_axes(truth)[0]])
    for ax, label in zip(axes[0, 1:], sets, strict=True):
        ax.set_title(label)
    for ax in axes[-1, 1:]:
        ax.set_xlabel("rank of the truth")
    legend_below(figure, [*error_handles(sets), chance_patch()])
    if title:
        figure.suptitle(title)
    return figure
