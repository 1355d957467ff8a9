"""Spectra of fields and ensembles: which scales are there, and which are lost?"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from xsda.metrics.pairs import Ensembles, by_label, shared_variables
from xsda.metrics.spectra import energy_spectrum, spectrum
from xsda.plot.panels import colours, legend_below
from xsda.plot.style import axis_label


def spectra(
    fields: Ensembles,
    *,
    variables: Sequence[str] | None = None,
    kinetic: tuple[str, str] | None = None,
    dim: str | Sequence[str] | None = None,
    ensemble_mean: bool = False,
    title: str | None = None,
) -> Figure:
    """Isotropic spectra, averaged over time and all else but members: their mean, and the band of 90 % of them.

    Shells are drawn from the longest wave to the Nyquist wavenumber.

    Parameters
    ----------
    fields
        Datasets by label, such as ``{"truth": ds, "SDA": post}``, with or without ``member``; on grids of their own.
    variables
        Which ones, a panel each (default: all that are shared).
    kinetic
        Names of the two components of a velocity: draw the spectrum of their kinetic energy instead.
    dim
        Space dimensions; see ``xsda.metrics.spectrum``.
    ensemble_mean
        Also draw the spectrum of the mean over members, dashed: it lacks the scales that the members disagree upon.
    title
        Title of the figure.
    """
    sets = by_label(fields)
    names = shared_variables(sets, variables if kinetic is None else kinetic)
    panels = names if kinetic is None else ["energy"]
    colour = colours(list(sets))
    figure, axes = plt.subplots(
        1, len(panels), squeeze=False, layout="constrained", figsize=(max(3.4 * len(panels), 4.2), 3.6)
    )
    for label, ds in sets.items():
        kinds = {label: ds[names]}
        if ensemble_mean and "member" in ds.dims:
            kinds[f"mean of {label}"] = ds[names].mean("member", keep_attrs=True)
        for text, field in kinds.items():
            density = energy_spectrum(field, *kinetic, dim=dim).to_dataset() if kinetic else spectrum(field, dim)
            style = "-" if text == label else "--"
            for ax, name in zip(axes[0], panels, strict=True):
                _curve(ax, density[name], color=colour[label], ls=style, label=text)
    for ax, name in zip(axes[0], panels, strict=True):
        ax.set_title("kinetic energy" if kinetic else axis_label(next(iter(sets.values()))[name]))
        low, high = ax.get_xlim()
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
        ax.spines[["top", "right"]].set_visible(False)
    legend_below(figure, axes[0, 0].lines)
    if title:
        figure.suptitle(title)
    return figure


def _curve(ax: plt.Axes, density: xr.DataArray, *, color: str, ls: str, label: str) -> None:
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
    ax.set_ylabel(f"spectral density [{units}]" if units else "spectral density")
