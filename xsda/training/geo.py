"""What ``context="geo"`` stands for: position, orography, hour and season, as far as the data have them.

The word is expanded before the training. The layout of the prior then holds what any other layout may hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import xarray as xr

from xsda.labels.axes import find_axes
from xsda.labels.layout import Layout
from xsda.labels.static import find_orography
from xsda.priors.normals import chosen_cycles

GEO = "geo"


def static_names(ds: xr.Dataset, context: Sequence[str], space: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the names of static fields, with those of the orography in place of "geo".

    Parameters
    ----------
    ds
        The data.
    context
        Names of static fields, and possibly "geo".
    space
        Names of the space dimensions. Default: found by attributes and names.

    Returns
    -------
    tuple of str
        The names.

    Examples
    --------
    >>> from xsda.training.geo import static_names
    >>> land = xr.Dataset({"orog": ("x", [0.0, 120.0])}, {"time": ("time", [0.0])})
    >>> static_names(land, ["geo", "soil"], space=["x"])
    ('orog', 'soil')
    """
    if GEO not in context:
        return tuple(context)
    dims = find_axes(ds)[1] if space is None else space
    parts = (find_orography(ds, dims) if name == GEO else (name,) for name in context)
    return tuple(dict.fromkeys(name for part in parts for name in part))


def training_layout(
    ds: xr.Dataset,
    *,
    periodic: Sequence[str] = (),
    space: Sequence[str] | None = None,
    context: Sequence[str] = (),
    time_features: Sequence[str] = (),
) -> Layout:
    """Derive the layout of training data, as ``Layout.of`` does, with "geo" allowed as context.

    Parameters
    ----------
    ds
        The data.
    periodic, space, context, time_features
        As for ``xsda.train``.

    Returns
    -------
    Layout
        The layout, not yet scaled.

    Examples
    --------
    >>> from xsda.training.geo import training_layout
    >>> [v.name for v in training_layout(weather, context=["geo"]).position]
    ['globe_x', 'globe_y', 'globe_z']
    """
    geo = GEO in context
    names = static_names(ds, context, space)
    layout = Layout.of(ds, periodic=periodic, space=space, context=names, time_features=time_features, position=geo)
    if not geo:
        return layout
    return replace(layout, time_features=tuple(dict.fromkeys((*time_features, *chosen_cycles(ds, layout, "auto")))))
