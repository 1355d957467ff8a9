"""What the pictures of several ensembles share: colours, the time axis, a legend below the panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xarray as xr
from matplotlib.artist import Artist
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure

from xsda.plot.style import ENSEMBLE, TRUTH, axis_label

COLOURS = (ENSEMBLE, "#e08a1e", "#3a8f5c", "#8a5fb0", "#8c6d4f", "#c46aa5", "#5f9ea0")


def colours(labels: Sequence[str]) -> dict[str, str]:
    """One colour a label, the same in every picture; the truth is black."""
    others = [label for label in labels if label != "truth"]
    return {"truth": TRUTH, **{label: COLOURS[i % len(COLOURS)] for i, label in enumerate(others)}}


def label_time(ax: Any, time: xr.DataArray) -> None:
    """Name and unit of the time axis; dates without repeating themselves."""
    ax.set_xlabel(axis_label(time))
    if time.dtype.kind == "M":
        ax.xaxis.set_major_formatter(ConciseDateFormatter(ax.xaxis.get_major_locator()))


def legend_below(figure: Figure, handles: Sequence[Artist]) -> None:
    """One legend for all panels, in as many columns as the figure has room for."""
    widths = [0.7 + 0.085 * len(str(handle.get_label())) for handle in handles]  # inches, about
    room = figure.get_figwidth()
    columns = len(widths) if sum(widths) <= room else max(1, int(room / max(widths)))
    figure.legend(handles=list(handles), loc="outside lower center", ncols=columns, frameon=False)
