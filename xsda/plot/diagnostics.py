"""Is an ensemble as far from the truth as it says, and for how long? Rank histogram, spread and error.

Each picture takes one ensemble, or several by label: ``{"LETKF": a, "SDA": b}``. A calibrated ensemble has a flat rank
histogram, points on the diagonal, and spread and error side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from xsda import metrics
from xsda.labels.axes import find_axes
from xsda.metrics.pairs import Ensembles, by_label, shared_variables
from xsda.plot.panels import colours, label_time, legend_below
from xsda.plot.style import TRUTH, axis_label

BAND: dict[str, Any] = {"facecolor": "#444444", "alpha": 0.25, "lw": 0, "zorder": 3}


def rank_histogram(
    ensembles: Ensembles,
    truth: xr.Dataset,
    *,
    variables: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """How often the truth has each rank among the members, over what it would be if truth and members were alike.

    One column per variable, one row per ensemble. The band holds 90 % of what chance makes of a flat histogram, were the
    cases independent of each other; neighbours in time and space are not, and then it is too narrow.

    Parameters
    ----------
    ensembles
        Dataset with the dimension ``member``, or several by label.
    truth
        On the same axes.
    variables
        Which ones (default: all that are shared).
    title
        Title of the figure.
    """
    sets = by_label(ensembles)
    names = shared_variables({**sets, "truth": truth}, variables)
    colour = colours(list(sets))
    figure, axes = plt.subplots(
        len(sets), len(names), sharey=True, squeeze=False, layout="constrained",
        figsize=(max(2.6 * len(names), 4), 2.1 * len(sets) + 0.5),
    )  # fmt: skip
    for row, (label, ens) in zip(axes, sets.items(), strict=True):
        for ax, name in zip(row, names, strict=True):
            draw_ranks(ax, ens[name], truth[name], colour[label])
        row[0].set_ylabel("frequency (flat = 1)" if len(sets) == 1 else f"{label}\nfrequency (flat = 1)")
    for ax, name in zip(axes[0], names, strict=True):
        ax.set_title(axis_label(truth[name]))
    for ax in axes[-1]:
        ax.set_xlabel("rank of the truth")
    legend_below(figure, [chance_patch()])
    if title:
        figure.suptitle(title)
    return figure


def spread_skill(
    ensembles: Ensembles,
    truth: xr.Dataset,
    *,
    variables: Sequence[str] | None = None,
    bins: int = 10,
    title: str | None = None,
) -> Figure:
    """Error of the ensemble mean against spread: does a case of wide spread have a large error? One panel per variable.

    All cases (times, places) are sorted by spread and cut into bins of as many cases. A point is the root mean square of
    the spread of its bin, corrected for the number of members by sqrt((M + 1) / M), and that of the error. A calibrated
    ensemble lies on the diagonal.

    Parameters
    ----------
    ensembles, truth, variables, title
        As in ``rank_histogram``.
    bins
        Number of points per ensemble.
    """
    if bins < 1:
        raise ValueError(f"bins={bins} must be at least 1")
    sets = by_label(ensembles)
    names = shared_variables({**sets, "truth": truth}, variables)
    colour = colours(list(sets))
    figure, axes = plt.subplots(
        1, len(names), squeeze=False, layout="constrained", figsize=(max(3.1 * len(names), 3.6), 3.8)
    )
    for ax, name in zip(axes[0], names, strict=True):
        sizes: list[int] = []
        for label, ens in sets.items():
            spread, error, counts = binned_spread_skill(ens[[name]], truth[[name]], bins)
            ax.plot(spread, error, "o-", ms=4, lw=1.2, color=colour[label], label=label)
            sizes += counts
        top = 1.06 * max(np.max(line.get_data()) for line in ax.lines)
        ax.axline((0, 0), slope=1, color=TRUTH, lw=0.8, ls=":", label="spread = error")
        least = "" if min(sizes) == max(sizes) else "at least "
        ax.set(xlim=(0, top), ylim=(0, top), aspect="equal", title=f"{least}{min(sizes)} cases per point")
        ax.set_xlabel(f"spread of {axis_label(truth[name])}")
        ax.set_ylabel(f"RMSE of {axis_label(truth[name])}")
        ax.spines[["top", "right"]].set_visible(False)
    legend_below(figure, axes[0, 0].lines)
    if title:
        figure.suptitle(title)
    return figure


def error_over_time(
    ensembles: Ensembles,
    truth: xr.Dataset,
    *,
    variables: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """RMSE of the ensemble mean (solid) and spread (dashed) at each time, over all of space; one panel per variable.

    Parameters
    ----------
    ensembles, truth, variables, title
        As in ``rank_histogram``.
    """
    sets = by_label(ensembles)
    names = shared_variables({**sets, "truth": truth}, variables)
    figure, axes = plt.subplots(
        len(names), 1, sharex=True, figsize=(8, 1.9 * len(names) + 0.6), squeeze=False, layout="constrained"
    )
    for ax, name in zip(axes[:, 0], names, strict=True):
        draw_errors(ax, sets, truth, name)
    label_time(axes[-1, 0], truth[find_axes(truth)[0]])
    legend_below(figure, error_handles(sets))
    if title:
        figure.suptitle(title)
    return figure


def draw_ranks(ax: Any, ens: xr.DataArray, truth: xr.DataArray, colour: str) -> None:
    """Bars of the rank histogram over its flat expectation, on the band of chance."""
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


def draw_errors(ax: Any, sets: Mapping[str, xr.Dataset], truth: xr.Dataset, name: str) -> None:
    """RMSE and spread of one variable over time."""
    time, _ = find_axes(truth)
    over = [d for d in truth[name].dims if d != time]
    colour = colours(list(sets))
    for label, ens in sets.items():
        da, reference = ens[name], truth[name]
        error = metrics.rmse(da, reference, over)
        valid = reference.notnull() & da.notnull().all("member")  # the same cases in both
        spread = metrics.spread(da.where(valid), over)
        ax.plot(truth[time].values, error.values, color=colour[label], lw=1.3)
        ax.plot(truth[time].values, spread.values, color=colour[label], lw=1.3, ls="--")
    ax.set_ylabel(axis_label(truth[name]))
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
