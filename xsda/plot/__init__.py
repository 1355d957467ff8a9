"""Pictures of ensembles. Importing this package imports matplotlib."""

from __future__ import annotations

from typing import Any

import xarray as xr

from xsda.labels.axes import find_axes
from xsda.plot.comparison import comparison
from xsda.plot.diagnostics import error_over_time, rank_histogram, spread_skill
from xsda.plot.fields import fields
from xsda.plot.scales import spectra
from xsda.plot.series import series


def ensemble(post: xr.Dataset, *, truth: xr.Dataset | None = None, obs: Any = None, **options: Any) -> Any:
    """Time series where states have no space, maps where they do; returns the matplotlib Figure.

    Options are those of ``series`` or ``fields``.
    """
    if "stage" in post.dims:
        raise ValueError("the ensemble has the dimension 'stage'; choose one with .sel(stage='analysis')")
    _, space = find_axes(post)
    return (fields if space else series)(post, truth=truth, obs=obs, **options)


__all__ = ["comparison", "ensemble", "error_over_time", "fields", "rank_histogram", "series", "spectra", "spread_skill"]
