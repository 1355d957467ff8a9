"""Several ensembles and one truth: a table of scores and a picture."""

from __future__ import annotations

import base64
import html
import importlib.util
import io
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import xarray as xr

from xsda.labels.axes import find_axes
from xsda.metrics import evaluate
from xsda.metrics.pairs import Ensembles, by_label, shared_variables


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Scores of several ensembles. A notebook shows it as a table above a picture.

    Attributes
    ----------
    table
        Scores over the dimensions ``ensemble`` and ``variable``, with the number of shared times in the attribute
        ``times``.
    ensembles, truth
        What was compared, on the shared times.
    with_figure
        Whether a notebook shows the picture.
    """

    table: xr.Dataset
    ensembles: Mapping[str, xr.Dataset]
    truth: xr.Dataset
    with_figure: bool = True

    def to_dataframe(self) -> pd.DataFrame:
        """The scores as a table with one row for each variable and ensemble.

        Returns
        -------
        pandas.DataFrame
            The table.
        """
        first = ("variable", "ensemble")
        return self.table.to_dataframe(dim_order=[*first, *(d for d in self.table.dims if d not in first)])

    def plot(self, **options: Any) -> Any:
        """Draw error and spread over time, and rank histograms.

        Parameters
        ----------
        **options
            Options of ``xsda.plot.comparison``: ``variable``, ``log``, ``title`` and ``ax``.

        Returns
        -------
        matplotlib.figure.Figure
            The figure.
        """
        from xsda.plot import comparison

        options.setdefault("variable", list(self.table["variable"].values))
        return comparison(self.ensembles, self.truth, **options)

    @property
    def _heading(self) -> str:
        units = self.table.attrs.get("variable_units")
        number = len(self.ensembles)
        text = f"{number} ensemble{'s' if number > 1 else ''} against one truth on {self.table.attrs['times']} times"
        return f"{text} (units of {units})" if units else text

    def __repr__(self) -> str:
        return f"{self._heading}\n{self.to_dataframe().to_string(float_format='{:.4g}'.format)}"

    def _repr_html_(self) -> str:
        parts = [f"<p>{html.escape(self._heading)}</p>", self.to_dataframe().to_html(float_format="{:.4g}".format)]
        if self.with_figure and importlib.util.find_spec("matplotlib"):
            import matplotlib.pyplot as plt

            picture, file = self.plot(), io.BytesIO()
            picture.savefig(file, format="png", dpi=90)
            plt.close(picture)
            parts.append(f'<img src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"/>')
        return "\n".join(parts)


def compare(
    truth: xr.Dataset,
    ensembles: Ensembles,
    *,
    obs: Any = None,
    sigma: Any = None,
    derived: Mapping[str, Any] | None = None,
    dim: str | Collection[Hashable] | None = None,
    figure: bool = True,
) -> Comparison:
    """Evaluate ensembles against the same truth, on the times and variables that all of them share.

    Parameters
    ----------
    truth
        One trajectory.
    ensembles
        One ensemble, or several by label such as ``{"LETKF": filtered, "SDA": posterior}``.
    obs, sigma, derived
        Observations for the chi-square, as in ``xsda.assimilate``. They must lie within the shared times.
    dim
        Dimensions to average over. Default: all but ``member``.
    figure
        Whether a notebook shows a picture below the table.

    Returns
    -------
    Comparison
        ``.table`` is a Dataset of the scores, ``.to_dataframe()`` a table, ``.plot()`` a picture.

    Examples
    --------
    >>> comparison = xsda.compare(truth, {"SDA": post, "mean of SDA": post.mean("member").expand_dims("member")})
    >>> comparison.table.attrs["times"]
    16
    >>> comparison.to_dataframe().index.names
    FrozenList(['variable', 'ensemble'])
    """
    if not isinstance(truth, xr.Dataset):
        raise TypeError(f"the truth, which comes first, must be a Dataset, got {type(truth).__name__}")
    truth, sets = _on_shared_times(truth, by_label(ensembles))
    names = shared_variables({"truth": truth, **sets})
    tables = []
    for label, ds in sets.items():
        try:
            if "member" not in ds.dims:
                raise ValueError("it has no dimension 'member'; give a best estimate one with .expand_dims('member')")
            scores = evaluate(ds, truth[names], obs=obs, sigma=sigma, derived=derived, dim=dim).sel(variable=names)
        except (KeyError, TypeError, ValueError) as error:
            error.add_note(f"This is about the ensemble {label!r}.")
            raise
        scores = scores.drop_vars([c for c in scores.coords if not scores[c].dims])  # such as the name of a stage
        tables.append(scores.assign(members=((), scores.attrs.pop("members"), {"long_name": "number of members"})))
    labels = xr.DataArray(list(sets), dims="ensemble", name="ensemble")
    table = xr.concat(tables, labels, combine_attrs="override")
    table.attrs["times"] = truth.sizes[find_axes(truth)[0]]
    return Comparison(table, sets, truth, figure)


def _on_shared_times(truth: xr.Dataset, sets: Mapping[str, xr.Dataset]) -> tuple[xr.Dataset, dict[str, xr.Dataset]]:
    time, _ = find_axes(truth)
    everyone = {"truth": truth, **sets}
    for label, ds in everyone.items():
        if time not in ds.indexes:
            raise ValueError(
                f"{label!r} has no coordinate {time!r}, so shared times cannot be found; it has the dimensions "
                f"{tuple(ds.sizes)}. Rename its time, or give it one with .assign_coords"
            )
    shared = truth.indexes[time]
    for ds in sets.values():
        shared = shared.intersection(ds.indexes[time], sort=False)
    if not len(shared):
        spans = "; ".join(f"{k}: {ds[time].values[0]} to {ds[time].values[-1]}" for k, ds in everyone.items())
        raise ValueError(f"truth and ensembles have no {time!r} in common: {spans}; use .sel or .interp first")
    cut = {k: ds if ds.indexes[time].equals(shared) else ds.sel({time: shared}) for k, ds in everyone.items()}
    return cut["truth"], {label: cut[label] for label in sets}
