"""Cross-validation: withholds observations in turn, assimilates the others, and compares with those withheld."""

from __future__ import annotations

import html
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from tqdm.auto import tqdm

from xsda.arguments import choose, whole_number
from xsda.assimilation import assimilate
from xsda.baselines.inverse_distance import InverseDistance
from xsda.labels.grid import Grid
from xsda.metrics import crps, rank_histogram
from xsda.observations.folds import fold_numbers, labels
from xsda.observations.observe import observe
from xsda.observations.operator import Derived
from xsda.observations.read import Observed, dims_of, read, units_of
from xsda.observations.select import select
from xsda.observations.sources import Sources, as_sources, observed_variables
from xsda.priors.pool import Pool
from xsda.priors.prior import Prior
from xsda.priors.registry import Model, Models, load_model
from xsda.sampling.draw import sample
from xsda.sampling.fitted import gaussian_of

Sets = dict[str, xr.Dataset]
Method = Callable[[Sets, Sets], Sets]  # (observations to use, withheld ones) -> predictions, all by source
Yardsticks = str | Sequence[str] | Mapping[str, Any]

BY = ("station", "time", "source")
MODEL = "model"  # its name among the methods
NAMED = ("climatology", "interpolation", "gaussian")
SHARED = (
    "members", "seed", "likelihood", "correlation", "background", "background_sigma", "batch", "device", "superobs",
)  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class CrossValidation:
    """Predictions of withheld observations, with scores. A notebook shows the scores as a table.

    Attributes
    ----------
    predictions
        For each method ("model" and the yardsticks) and source a Dataset on the coordinates of the observations. For a
        variable x it holds ``x`` over (member, ...), ``x_observed``, ``x_sigma`` and ``x_fold``, the number of the
        fold that withheld the value.
    by, folds
        What was withheld, and in how many folds.
    seed
        Seed of the folds, and of the observation errors that ``ranks`` adds.
    """

    predictions: Mapping[str, Mapping[str, xr.Dataset]]
    by: str
    folds: int
    seed: int

    @cached_property
    def _values(self) -> dict[tuple[str, str], tuple[xr.DataArray, xr.DataArray, xr.DataArray]]:
        """Members, observed values and sigma of each method and variable, where all methods have predictions."""
        variables = dict.fromkeys(
            str(v) for ds in next(iter(self.predictions.values())).values() for v in ds if f"{v}_fold" in ds
        )
        out = {}
        for name in variables:
            each = {method: _stacked(sets, name) for method, sets in self.predictions.items()}
            valid = np.logical_and.reduce([np.isfinite(x).all(0) & np.isfinite(y) for x, y, _ in each.values()])
            for method, (x, y, s) in each.items():
                members, value = ("member", "value"), ("value",)
                out[method, name] = (
                    xr.DataArray(x[:, valid], dims=members), xr.DataArray(y[valid], dims=value),
                    xr.DataArray(s[valid], dims=value),
                )  # fmt: skip
        return out

    @cached_property
    def scores(self) -> xr.Dataset:
        """Scores over the dimensions ``ensemble`` (the model and the yardsticks) and ``variable``.

        ``rmse`` of the ensemble mean, ``crps`` (fair; the mean absolute error of a single member), ``spread``,
        ``spread_skill`` and ``values``, the number of values. The ratio ``spread_skill`` compares the error with
        the spread and the error of the observations together; 1 is calibrated.
        """
        methods, variables = list(self.predictions), list(dict.fromkeys(v for _, v in self._values))
        table = np.array([[_scores(*self._values[m, v]) for v in variables] for m in methods])
        coords = {"ensemble": methods, "variable": variables}
        data = {name: (("ensemble", "variable"), table[..., i]) for i, name in enumerate(SCORES)}
        return xr.Dataset(data, coords).assign(values=lambda ds: ds["values"].astype(int))

    def ranks(self, ensemble: str | None = None, variable: str | None = None) -> xr.DataArray:
        """Count the ranks of the observed values among the members, to which observation errors are added.

        Parameters
        ----------
        ensemble, variable
            Which. Default: the first.

        Returns
        -------
        xarray.DataArray
            Number of values over the dimension ``rank``. It is flat for a calibrated ensemble.
        """
        known = list(self._values)
        ensemble, variable = ensemble or known[0][0], variable or known[0][1]
        if (ensemble, variable) not in known:
            raise KeyError(f"no predictions of {variable!r} by {ensemble!r}; choose among {known}")
        members, observed, sigma = self._values[ensemble, variable]
        noise = np.random.default_rng(self.seed).standard_normal(members.shape)
        return rank_histogram(members + sigma * xr.DataArray(noise, dims=members.dims), observed, seed=self.seed)

    def to_dataframe(self) -> pd.DataFrame:
        """The scores as a table with one row for each variable and ensemble.

        Returns
        -------
        pandas.DataFrame
            The table.
        """
        return self.scores.to_dataframe(dim_order=["variable", "ensemble"])

    @property
    def _heading(self) -> str:
        return f"predictions of observations withheld by {self.by}, in {self.folds} folds"

    def __repr__(self) -> str:
        return f"{self._heading}\n{self.to_dataframe().to_string(float_format='{:.4g}'.format)}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self._heading)}</p>\n{self.to_dataframe().to_html(float_format='{:.4g}'.format)}"


SCORES = ("rmse", "crps", "spread", "spread_skill", "values")


def _scores(members: xr.DataArray, observed: xr.DataArray, sigma: xr.DataArray) -> tuple[float, ...]:
    """The scores of one method and variable, in the order of ``SCORES``."""
    m, n = members.sizes["member"], observed.size
    if not n:
        return np.nan, np.nan, np.nan, np.nan, 0
    rmse = float(((members.mean("member") - observed) ** 2).mean()) ** 0.5
    score = float(crps(members, observed, fair=m > 1, weights=False))
    if m == 1:
        return rmse, score, np.nan, np.nan, n
    variance = members.var("member", ddof=1)
    total = float(((1 + 1 / m) * variance + sigma**2).mean()) ** 0.5
    return rmse, score, float(variance.mean()) ** 0.5, total / rmse if rmse else np.nan, n


def _stacked(sets: Mapping[str, xr.Dataset], name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Members (member, value), observed values and sigma of one variable, over all sources."""
    parts = [ds for ds in sets.values() if name in ds]
    x = [ds[name].transpose("member", ...).values.reshape(ds.sizes["member"], -1) for ds in parts]
    y, s = ([ds[f"{name}_{what}"].values.ravel() for ds in parts] for what in ("observed", "sigma"))
    return np.concatenate(x, 1).astype(float), np.concatenate(y), np.concatenate(s)


def crossvalidate(
    ds: xr.Dataset,
    obs: Sources,
    model: Model | Models,
    *,
    by: str = "station",
    folds: int = 5,
    yardsticks: Yardsticks = (),
    sigma: Any = None,
    derived: Mapping[str, Derived] | None = None,
    quality: Any = None,
    outside: str = "raise",
    superobs: Any = None,
    seed: int = 0,
    progress: bool | None = None,
    **options: Any,
) -> CrossValidation:
    """Withhold observations in turn, assimilate the others, and score the predictions of those withheld.

    It costs ``folds`` assimilations, and as many again for each prior among the yardsticks.

    Parameters
    ----------
    ds, obs, model, sigma, derived
        As in ``xsda.assimilate``.
    by
        What is withheld together: "station" (the coordinate ``station``, or all values at one place), "time" or
        "source".
    folds
        Number of groups; at most as many as there are stations, times or sources. Groups are random.
    yardsticks
        Other methods to compare with: "climatology" (the prior without observations), "interpolation" (anomalies
        from the prior's mean, by inverse distance), "gaussian" (the ``GaussianPrior.fit`` of 32 free trajectories of
        the prior, or a Gaussian prior itself; its covariance is separable on a grid without space, with months as
        steps, or for a prior of one length); or a mapping of names to priors or functions. A function gets the grid
        and the observations to use, and returns a trajectory or an ensemble.
    quality, outside, superobs
        As in ``xsda.assimilate``. Withheld values are selected too, but not averaged.
    seed
        Seed of the folds and of each assimilation.
    progress
        Show a progress bar. Default: in a terminal or notebook.
    **options
        Other options of ``xsda.assimilate``, such as ``members`` and ``steps``.

    Returns
    -------
    CrossValidation
        ``.scores`` is a Dataset, ``.to_dataframe()`` a table, ``.predictions[method][source]`` an ensemble at the
        observations, and ``.ranks()`` a rank histogram.

    Examples
    --------
    >>> found = xsda.crossvalidate(
    ...     truth, obs, "lorenz63", by="time", folds=2, members=4, steps=8, yardsticks="interpolation", progress=False
    ... )
    >>> found.scores.ensemble.values.tolist(), dict(found.predictions["model"]["obs"].x.sizes)
    (['model', 'interpolation'], {'member': 4, 'time': 4})
    """
    if by not in BY:
        raise ValueError(f"unknown by={by!r}; {choose(by, BY)}")
    whole_number("folds", folds, least=2)
    prior = load_model(model)
    first = prior.priors[0] if isinstance(prior, Pool) else prior
    ds = ds.isel(member=0, drop=True) if "member" in ds.dims else ds
    grid = first.bind(ds)
    sources = as_sources(obs, [*units_of(grid), *(derived or {})], dims_of(grid))
    sources, sigma = select(sources, grid, sigma, derived=derived, quality=quality, outside=outside)
    observed = read(sources, units_of(grid), sigma=sigma, derived=derived)
    numbers = fold_numbers({s: labels(o, s, by, grid) for s, o in sources.items()}, by, folds, seed)
    common = {"sigma": sigma, "derived": derived, "superobs": superobs, "seed": seed, **options, "progress": False}
    own = _assimilating(ds, prior, common, derived)
    plain = isinstance(obs, xr.Dataset | xr.DataArray)
    others = _yardsticks(yardsticks, ds, first, observed, grid, common, plain=plain)
    if MODEL in others:
        raise ValueError(f"a yardstick has the name {MODEL!r}, which the model has; rename it")
    return _run({MODEL: own, **others}, sources, observed, numbers, by, seed, progress)


def _run(
    methods: Mapping[str, Method], sources: Sets, observed: Sequence[Observed], numbers: Mapping[str, xr.DataArray],
    by: str, seed: int, progress: bool | None,
) -> CrossValidation:  # fmt: skip
    """Predict each fold with each method, and collect the predictions."""
    count = 1 + max(int(n.max()) for n in numbers.values())
    found: dict[str, Sets] = {m: {} for m in methods}
    disable = None if progress is None else not progress
    with tqdm(total=count * len(methods), desc="cross-validating", unit="run", disable=disable) as bar:
        for fold in range(count):
            train = {s: _part(o, numbers[s] != fold, other=True) for s, o in sources.items()}
            withheld = {s: _part(o, numbers[s] == fold, other=False) for s, o in sources.items()}
            for method, predict in methods.items():
                for source, made in predict(train, withheld).items():
                    before = found[method].get(source)
                    found[method][source] = made if before is None else before.fillna(made)
                bar.update()
    for sets in found.values():
        for source, ds in sets.items():
            sets[source] = ds.assign(_truth([o for o in observed if o.source == source], numbers[source]))
    return CrossValidation(found, by, count, seed)


def _part(ds: xr.Dataset, keep: xr.DataArray, *, other: bool) -> xr.Dataset:
    """Keep some values, and make the rest NaN. A variable without these dimensions stays if ``other`` is true."""
    kept = {}
    for name in observed_variables(ds):
        da = ds[name]
        kept[name] = da.where(keep if set(keep.dims) <= set(da.dims) else other)
    return ds.assign(kept)


def _truth(observed: Sequence[Observed], numbers: xr.DataArray) -> dict[str, xr.DataArray]:
    """Observed values, their sigma and the fold of each, for the variables of one source."""
    out: dict[str, xr.DataArray] = {}
    for o in observed:
        da, name = o.da, o.name
        assert o.std is not None
        fold = numbers.broadcast_like(da.drop_vars(da.coords)).transpose(*da.dims) if numbers.ndim else numbers
        sigma = da.copy(data=o.std).assign_attrs(long_name=f"error of {name}")
        out |= {f"{name}_observed": da, f"{name}_sigma": sigma, f"{name}_fold": xr.zeros_like(da, int) + fold}
    return out


def _at(ds: xr.Dataset, withheld: Sets, derived: Mapping[str, Derived] | None) -> Sets:
    """A trajectory or an ensemble at the withheld values, with the dimension ``member``."""
    out: Sets = {}
    for source, like in withheld.items():
        seen = observe(ds, like, derived=derived)[observed_variables(like)].compute()
        out[source] = seen if "member" in seen.dims else seen.expand_dims("member")
    return out


def _assimilating(
    ds: xr.Dataset, prior: Any, options: Mapping[str, Any], derived: Mapping[str, Derived] | None
) -> Method:
    def predict(train: Sets, withheld: Sets) -> Sets:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"\d+ values of .* are averaged to", UserWarning)  # in each fold
            post = assimilate(ds, train, prior, **options)
        return _at(post, withheld, derived)

    return predict


def _yardsticks(
    wanted: Yardsticks, ds: xr.Dataset, prior: Prior, observed: Sequence[Observed], grid: Grid,
    options: Mapping[str, Any], *, plain: bool,
) -> dict[str, Method]:  # fmt: skip
    """Make a method of each yardstick; the options are those of the assimilation."""
    derived = options["derived"]
    given: Mapping[str, Any] = wanted if isinstance(wanted, Mapping) else {}
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    shared = {k: options[k] for k in ("sigma", "derived", "progress", *SHARED) if k in options}
    drawing = {k: options[k] for k in ("members", "seed", "steps", "batch", "device", "progress") if k in options}
    out: dict[str, Method] = {}
    for name in names:
        what = given.get(name, name)
        if name in given and isinstance(what, str | PathLike) and what not in NAMED:
            what = load_model(what)
        if isinstance(what, Prior | Pool):
            out[name] = _assimilating(ds, what, shared, derived)
        elif callable(what):
            out[name] = _calling(what, ds, derived, plain=plain)
        elif what == "climatology":
            out[name] = _fixed(sample(ds, prior, **drawing), derived)
        elif what == "interpolation":
            out[name] = _interpolating(InverseDistance.of(observed, grid, prior))
        elif what == "gaussian":
            out[name] = _assimilating(ds, gaussian_of(ds, prior, **drawing), shared, derived)
        else:
            raise ValueError(
                f"unknown yardstick {name!r}; {choose(name, NAMED)}, or pass a mapping of names to priors or functions"
            )
    return out


def _fixed(ensemble: xr.Dataset, derived: Any) -> Method:
    """The same ensemble, whatever was observed."""
    return lambda train, withheld: _at(ensemble, withheld, derived)


def _calling(function: Callable[..., xr.Dataset], ds: xr.Dataset, derived: Any, *, plain: bool) -> Method:
    """A function of the grid and the observations, which come as one Dataset if the user passed one."""
    return lambda train, withheld: _at(function(ds, train["obs"] if plain else train), withheld, derived)


def _interpolating(by: InverseDistance) -> Method:
    """Predictions by inverse distance, as an ensemble of one member."""

    def predict(train: Sets, withheld: Sets) -> Sets:
        known = {(s, v): train[s][v].notnull().values.ravel() for s, v in by.values}
        out = {}
        for source, like in withheld.items():
            made = {}
            for name in observed_variables(like):
                values = by.predict((source, name), like[name].notnull().values.ravel(), known)
                da = like[name].astype(float).copy(data=values.reshape(like[name].shape))
                made[name] = da.where(like[name].notnull()).expand_dims("member")
            out[source] = xr.Dataset(made)
        return out

    return predict
