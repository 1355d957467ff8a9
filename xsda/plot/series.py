"""Ensembles over time: a fan of quantiles, a few members, truth and observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from xsda.arguments import choose
from xsda.labels.axes import find_axes
from xsda.observations.sources import as_sources
from xsda.plot.style import ENSEMBLE, OBSERVED, TRUTH, axis_label


def series(
    post: xr.Dataset,
    *,
    truth: xr.Dataset | None = None,
    obs: Any = None,
    variables: Sequence[str] | None = None,
    members: int = 5,
    title: str | None = None,
) -> Figure:
    """One panel per variable: median, 50 and 90 % of the members, some members, truth, observations with their error.

    Parameters
    ----------
    post
        Ensemble over (member, time).
    truth, obs
        Drawn if given.
    variables
        Which ones (default: all).
    members
        How many members to draw as lines.
    title
        Title of the figure.
    """
    names = [str(v) for v in post.data_vars] if variables is None else list(variables)
    for name in names:
        if name not in post:
            raise KeyError(f"no variable {name!r} in the ensemble; {choose(name, post.data_vars)}")
        if post[name].ndim != 2:
            raise ValueError(f"{name!r} has the dimensions {post[name].dims}; select one place first, e.g. .isel(x=0)")
    time, _ = find_axes(post)
    figure, axes = plt.subplots(
        len(names), 1, sharex=True, figsize=(8, 1.9 * len(names) + 0.6), squeeze=False, layout="constrained"
    )
    for ax, name in zip(axes[:, 0], names, strict=True):
        _fan(ax, post[time].values, post[name].transpose("member", time).values, members)
        if truth is not None and name in truth:
            ax.plot(truth[time].values, truth[name].values, color=TRUTH, lw=1.3, label="truth")
        for ds in as_sources(obs).values() if obs is not None else ():
            if name in ds and time in ds[name].coords and ds[name].ndim <= 1:
                error = ds[name].attrs.get("error_std")
                ax.errorbar(
                    np.atleast_1d(ds[time].values), np.atleast_1d(ds[name].values), yerr=error, fmt="o", ms=4,
                    color=OBSERVED, ecolor=OBSERVED, elinewidth=1, label="observations", zorder=5,
                )  # fmt: skip
        ax.set_ylabel(axis_label(post[name]))
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel(axis_label(post[time]))
    handles: dict[str, Any] = {}
    for ax in axes[:, 0]:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    if title:
        figure.suptitle(title)
    return figure


def _fan(ax: Any, time: np.ndarray, values: np.ndarray, members: int) -> None:
    q05, q25, q50, q75, q95 = np.nanquantile(values, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    ax.fill_between(time, q05, q95, color=ENSEMBLE, alpha=0.2, lw=0, label="90 % of members")
    ax.fill_between(time, q25, q75, color=ENSEMBLE, alpha=0.35, lw=0, label="50 %")
    ax.plot(time, q50, color=ENSEMBLE, lw=1.3, label="median")
    if members:
        lines = ax.plot(time, values[:members].T, color=ENSEMBLE, lw=0.5, alpha=0.6)
        lines[0].set_label("members")
