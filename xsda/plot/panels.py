"""What the pictures share: panels, colours, the time axis, a legend below the panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator

from xsda.plot.style import ENSEMBLE, TRUTH, axis_label

COLOURS = (ENSEMBLE, "#e08a1e", "#3a8f5c", "#8a5fb0", "#8c6d4f", "#c46aa5", "#5f9ea0")


def panels(
    rows: int, columns: int, ax: Any, *, layout: str = "constrained", **options: Any
) -> tuple[Figure, np.ndarray]:
    """A new figure of ``rows`` x ``columns`` Axes, or the caller's own Axes in that shape."""
    if ax is None:
        return plt.subplots(rows, columns, squeeze=False, layout=layout, **options)
    axes = np.ravel(np.asarray(ax, dtype=object))
    if len(axes) != rows * columns or not all(isinstance(one, Axes) for one in axes):
        raise ValueError(
            f"this picture has {rows} x {columns} panels and ax= holds {len(axes)} objects; pass {rows * columns} "
            "matplotlib Axes, choose fewer variables, or omit ax="
        )
    return axes[0].figure, axes.reshape(rows, columns)


def finish(figure: Figure, axes: np.ndarray, ax: Any, handles: Sequence[Artist], title: str | None) -> Figure:
    """Add legend and title: to the figure if it is our own, otherwise to the first of the caller's Axes."""
    if ax is None:
        if handles:
            legend_below(figure, handles)
        if title:
            title_above(figure, title)
        return figure
    first = axes.flat[0]
    if handles:
        first.legend(handles=list(handles), frameon=False, fontsize="small")
    if title:
        first.set_title("\n".join(text for text in (title, first.get_title()) if text))
    return figure


def title_above(figure: Figure, title: str) -> None:
    """Title of the figure, in a strip of its own: the compressed layout moves it into the titles of panels."""
    height, strip = figure.get_figheight(), 0.32  # inches
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, 0, 1, 1 - strip / height))
    figure.suptitle(title, y=1 - 0.06 / height, va="top")


def colours(labels: Sequence[str]) -> dict[str, str]:
    """One colour a label, the same in every picture; the truth is black."""
    others = [label for label in labels if label != "truth"]
    return {"truth": TRUTH, **{label: COLOURS[i % len(COLOURS)] for i, label in enumerate(others)}}


def label_time(axis: Any, time: xr.DataArray) -> None:
    """Name and unit of the time on a matplotlib axis; dates in their shortest form."""
    axis.set_label_text(axis_label(time))
    if time.dtype.kind == "M":
        locator = AutoDateLocator(minticks=3, maxticks=6)
        axis.set_major_locator(locator)
        axis.set_major_formatter(ConciseDateFormatter(locator))


def log_ticks(axis: Any) -> None:
    """Plain numbers on a logarithmic matplotlib axis, as many as fit."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def legend_below(figure: Figure, handles: Sequence[Artist]) -> None:
    """One legend for all panels, in as many columns as the figure has room for."""
    widths = [0.7 + 0.085 * len(str(handle.get_label())) for handle in handles]  # inches, about
    room = figure.get_figwidth()
    columns = len(widths) if sum(widths) <= room else max(1, int(room / max(widths)))
    figure.legend(handles=list(handles), loc="outside lower center", ncols=columns, frameon=False)
