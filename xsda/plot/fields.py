"""Ensembles of fields at one time: truth, mean, one member, spread; one or two space dimensions."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from xsda.arguments import choose
from xsda.labels.axes import find_axes
from xsda.observations.sources import as_sources
from xsda.plot.style import OBSERVED, axis_label


def fields(
    post: xr.Dataset,
    *,
    truth: xr.Dataset | None = None,
    obs: Any = None,
    variable: str | None = None,
    time: int = -1,
    title: str | None = None,
) -> Figure:
    """Maps (two space dimensions), or time-space diagrams (one): truth, ensemble mean, a member, spread.

    Parameters
    ----------
    post
        Ensemble over ``(member, time, *space)``.
    truth, obs
        Drawn if given; positions of observations are marked on the mean.
    variable
        Which one (default: the first).
    time
        Index of the time shown, for maps.
    title
        Title of the figure.
    """
    name = variable or str(next(iter(post.data_vars)))
    if name not in post:
        raise KeyError(f"no variable {name!r} in the ensemble; {choose(name, post.data_vars)}")
    axis, space = find_axes(post)
    da = post[name]
    if len(space) == 2:
        da = da.isel({axis: time})
        dims: tuple[str, ...] = space
    else:
        dims = (axis, *space)
    panels = {"ensemble mean": da.mean("member"), "one member": da.isel(member=0), "spread": da.std("member", ddof=1)}
    if truth is not None and name in truth:
        truth = truth.reindex_like(post[[name]])  # by coordinates, not by position
        field = truth[name].isel({axis: time}) if len(space) == 2 else truth[name]
        panels = {"truth": field, **panels}
    values = np.concatenate([np.ravel(p) for k, p in panels.items() if k != "spread"])
    low, high = np.nanquantile(values, [0.005, 0.995])
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 3.4), sharey=True, layout="constrained")
    for ax, (label, panel) in zip(axes, panels.items(), strict=True):
        panel = panel.transpose(*dims)
        coords = [post[d].values if d in post.coords else np.arange(post.sizes[d]) for d in dims]
        limits = {} if label == "spread" else {"vmin": low, "vmax": high}
        cmap = "magma" if label == "spread" else "viridis"
        mesh = ax.pcolormesh(
            coords[1], coords[0], panel.values, shading="nearest", cmap=cmap, rasterized=True, **limits
        )
        ax.set_title(label)
        ax.set_xlabel(axis_label(post[dims[1]]))
        if label == "spread":
            figure.colorbar(mesh, ax=ax, label=f"spread of {axis_label(da)}")
        else:
            shared = mesh  # the last of those that share their limits
    axes[0].set_ylabel(axis_label(post[dims[0]]))
    figure.colorbar(shared, ax=axes[: len(panels) - 1].tolist(), label=axis_label(post[name]))
    for ds in as_sources(obs).values() if obs is not None else ():
        if name in ds and all(d in ds[name].coords for d in dims):
            y, x = xr.broadcast(ds[name][dims[0]], ds[name][dims[1]])
            axes[list(panels).index("ensemble mean")].plot(
                np.ravel(x), np.ravel(y), "o", ms=3.5, color=OBSERVED, mec="white", mew=0.5
            )
    if title is None and len(space) == 2 and axis in post.coords:
        title = f"{axis_label(post[axis])} = {str(post[axis].values[time])[:19]}"
    if title:
        figure.suptitle(title)
    return figure
