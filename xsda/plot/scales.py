"""Pictures of spectra: which scales a field or an ensemble holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xsda.metrics.pairs import Ensembles, by_label, shared_variables
from xsda.metrics.spectra import energy_spectrum, spectrum
from xsda.plot.panels import colours, finish, log_ticks, panels
from xsda.plot.style import axis_label, unit_symbol


def spectra(
    fields: Ensembles,
    *,
    variable: str | Sequence[str] | None = None,
    kinetic: tuple[str, str] | None = None,
    dim: str | Sequence[str] | None = None,
    ensemble_mean: bool = False,
    title: str | None = None,
    ax: Any = None,
) -> Figure:
    """Draw isotropic spectra: the mean over time and members, and the band that holds 90 % of the members.

    Both axes are logarithmic, from the longest wave to the Nyquist wavenumber.

    Parameters
    ----------
    fields
        Dataset, or several by label such as ``{"truth": ds, "SDA": post}``. Each may have members and a grid of its
        own.
    variable
        Name or names of what to draw, one panel each (default: all variables that are shared).
    kinetic
        Names of the two components of a velocity, to draw the spectrum of their kinetic energy instead.
    dim
        Space dimensions; see ``xsda.metrics.spectrum``.
    ensemble_mean
        Also draw the spectrum of the mean over members, dashed. The mean lacks the scales on which the members
        disagree.
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
    >>> ring = xsda.systems.Lorenz96(n=16).simulate(8, seed=0)
    >>> figure = xsda.plot.spectra({"truth": ring})
    >>> figure.axes[0].get_xscale()
    'log'
    """
    sets = by_label(fields)
    names = shared_variables(sets, variable if kinetic is None else kinetic)
    shown = names if kinetic is None else ["energy"]
    colour = colours(list(sets))
    figure, axes = panels(1, len(shown), ax, figsize=(max(3.4 * len(shown), 4.2), 3.6))
    for label, ds in sets.items():
        kinds = {label: ds[names]}
        if ensemble_mean and "member" in ds.dims:
            kinds[f"mean of {label}"] = ds[names].mean("member", keep_attrs=True)
        for text, field in kinds.items():
            density = energy_spectrum(field, *kinetic, dim=dim).to_dataset() if kinetic else spectrum(field, dim)
            style = "-" if text == label else "--"
            for panel, name in zip(axes[0], shown, strict=True):
                _curve(panel, density[name], color=colour[label], ls=style, label=text)
    for panel, name in zip(axes[0], shown, strict=True):
        panel.set_title("kinetic energy" if kinetic else axis_label(next(iter(sets.values()))[name]))
        log_ticks(panel.xaxis)
        panel.spines[["top", "right"]].set_visible(False)
    return finish(figure, axes, ax, axes[0, 0].lines, title)


def _curve(ax: Axes, density: xr.DataArray, *, color: str, ls: str, label: str) -> None:
    k = density["wavenumber"]
    shown = density.isel(wavenumber=np.flatnonzero((k > 0) & (k <= 1.001 * k.attrs["nyquist"])))
    shown = shown.mean([d for d in shown.dims if d not in ("member", "wavenumber")], keep_attrs=True).compute()
    shown = shown.where(shown > 0)
    x = shown["wavenumber"].values
    if "member" in shown.dims:
        low, high = shown.quantile([0.05, 0.95], "member").values
        ax.fill_between(x, low, high, color=color, alpha=0.2, lw=0)
        shown = shown.mean("member", keep_attrs=True)
    ax.loglog(x, shown.values, color=color, ls=ls, lw=1.3, label=label)
    ax.set_xlabel(axis_label(k))
    units = density.attrs.get("units")
    ax.set_ylabel(f"spectral density [{unit_symbol(units)}]" if units else "spectral density")
