r"""Scores of an ensemble against the truth and against observations.

Functions take labelled ensembles (Dataset or DataArray with a dimension ``member``) and a truth on the same axes; ``dim``
names the dimensions to average over (default: all but ``member``). They are lazy on dask arrays and pass over NaN.

The expected values of a calibrated ensemble of M members: spread/skill 1, flat rank histogram, observation chi-square 1.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from xsda.grid import check_units
from xsda.observations.compile import as_sources, observed_variables
from xsda.observations.errors import check_positive, error_std
from xsda.observations.observe import observe

Labelled = TypeVar("Labelled", xr.Dataset, xr.DataArray)
Dim = str | Collection[Hashable] | None


def _pair(ensemble: Labelled, truth: Labelled, *, least: int = 1) -> tuple[Labelled, Labelled]:
    if "member" not in ensemble.dims:
        raise ValueError(f"the ensemble has no dimension 'member'; it has {tuple(ensemble.sizes)}")
    if ensemble.sizes["member"] < least:
        raise ValueError(f"this score needs at least {least} members, got {ensemble.sizes['member']}")
    if "member" in truth.dims:
        raise ValueError("the truth has a dimension 'member'; choose one with .isel(member=0)")
    if isinstance(ensemble, xr.Dataset) and isinstance(truth, xr.Dataset):
        shared = [v for v in ensemble.data_vars if v in truth]
        if not shared:
            raise ValueError(f"ensemble {list(ensemble.data_vars)} and truth {list(truth.data_vars)} share no variable")
        ensemble, truth = ensemble[shared], truth[shared]
    try:
        ensemble, truth = xr.align(ensemble, truth, join="exact", copy=False)
    except ValueError as error:
        raise ValueError(
            f"ensemble and truth lie on different coordinates; use .sel or .interp first ({error})"
        ) from error
    if {*ensemble.dims} != {*truth.dims, "member"}:
        raise ValueError(
            f"the truth has the dimensions {tuple(truth.dims)}, the ensemble {tuple(ensemble.dims)}; rename or reduce "
            "the truth's so that they are the ensemble's without 'member'"
        )
    if isinstance(ensemble, xr.Dataset) and isinstance(truth, xr.Dataset):
        for name in ensemble.data_vars:
            check_units(str(name), truth[name].attrs.get("units"), ensemble[name].attrs.get("units"), "the ensemble")
    valid = truth.notnull() & ensemble.notnull().all("member")  # the same cases in every score
    return ensemble.where(valid), truth.where(valid)


def _mean(value: Labelled, dim: Dim) -> Labelled:
    return value.mean(dim, keep_attrs=False)


def rmse(ensemble: Labelled, truth: Labelled, dim: Dim = None) -> Labelled:
    """Root mean square error of the ensemble mean, in the units of the variable."""
    ensemble, truth = _pair(ensemble, truth)
    return _mean((ensemble.mean("member") - truth) ** 2, dim) ** 0.5


def bias(ensemble: Labelled, truth: Labelled, dim: Dim = None) -> Labelled:
    """Mean of (ensemble mean - truth)."""
    ensemble, truth = _pair(ensemble, truth)
    return _mean(ensemble.mean("member") - truth, dim)


def spread(ensemble: Labelled, dim: Dim = None) -> Labelled:
    """Root mean variance of the members (unbiased in the number of members)."""
    if ensemble.sizes.get("member", 0) < 2:
        raise ValueError("the spread needs a dimension 'member' of at least 2")
    return _mean(ensemble.var("member", ddof=1), dim) ** 0.5


def spread_skill(ensemble: Labelled, truth: Labelled, dim: Dim = None) -> Labelled:
    """Spread over error of the mean, corrected for the finite ensemble: 1 if truth and members are alike."""
    ensemble, truth = _pair(ensemble, truth, least=2)
    m = ensemble.sizes["member"]
    return ((m + 1) / m) ** 0.5 * spread(ensemble, dim) / rmse(ensemble, truth, dim)


def crps(ensemble: Labelled, truth: Labelled, dim: Dim = None) -> Labelled:
    """Fair continuous ranked probability score: its expectation does not depend on the number of members."""
    ensemble, truth = _pair(ensemble, truth, least=2)
    value = xr.apply_ufunc(
        _fair_crps,
        ensemble,
        truth,
        input_core_dims=[["member"], []],
        dask="parallelized",
        dask_gufunc_kwargs={"allow_rechunk": True},
        output_dtypes=[float],
        keep_attrs=False,
    )
    return _mean(value, dim)


def _fair_crps(members: np.ndarray, truth: np.ndarray) -> np.ndarray:
    m = members.shape[-1]
    x = np.sort(members.astype(float), axis=-1)
    # sum over pairs of |x_i - x_j| through the order statistics
    weight = 2 * np.arange(1, m + 1) - m - 1
    return np.abs(x - truth[..., None]).mean(-1) - (weight * x).sum(-1) / (m * (m - 1))


def rank_histogram(ensemble: xr.DataArray, truth: xr.DataArray, *, seed: int = 0) -> xr.DataArray:
    """How often the truth has rank 0 ... M among the members; ties are broken at random."""
    ensemble, truth = _pair(ensemble, truth)
    below = (ensemble < truth).sum("member")
    truth = truth.transpose(*below.dims)
    ties = (ensemble == truth).sum("member")
    valid = (truth.notnull() & ensemble.notnull().all("member")).values
    rng = np.random.default_rng(seed)
    ranks = below.values + np.floor(rng.random(below.shape) * (ties.values + 1)).astype(int)
    counts = np.bincount(ranks[valid].ravel(), minlength=ensemble.sizes["member"] + 1)
    attrs = {"long_name": "number of cases", "units": "1"}
    return xr.DataArray(counts, {"rank": np.arange(len(counts))}, ("rank",), name="rank_histogram", attrs=attrs)


def observation_chi_square(
    ensemble: xr.Dataset, obs: Any, sigma: Any = None, *, derived: Mapping[str, Any] | None = None
) -> xr.Dataset:
    """Mean of ((H x - y) / sigma)^2 over members and observations, for each observed variable.

    Given the observations, truth and posterior members are alike, so for a right posterior the expectation is 1. Much
    less: overfitted; much more: the observations were not heard. Several sources are averaged by number of values.
    It is made for independent Gaussian errors; with other laws or correlated errors 1 is not what to expect.
    """
    sources = as_sources(obs)
    total: dict[str, Any] = {}
    for source, ds in sources.items():
        predicted = observe(ensemble, ds, derived=derived)
        for name in observed_variables(ds):
            std = xr.DataArray(error_std(ds, name, sigma, source, sources), dims=ds[name].dims)
            check_positive(std.values[ds[name].notnull().values], name)
            z = ((predicted[name] - ds[name]) / std) ** 2
            before, number = total.get(name, (0.0, 0))
            total[name] = before + z.sum(), number + z.count()
    return xr.Dataset({k: (s / n).assign_attrs(units="1") for k, (s, n) in total.items()})


def evaluate(
    ensemble: xr.Dataset,
    truth: xr.Dataset,
    *,
    obs: Any = None,
    sigma: Any = None,
    derived: Mapping[str, Any] | None = None,
    dim: Dim = None,
) -> xr.Dataset:
    """RMSE, bias, fair CRPS, spread and spread/skill of each variable; chi-square as well if ``obs`` is given.

    The result has one data variable per score over the dimension ``variable``; ``.to_dataframe()`` makes a table.
    """
    scores = {
        "rmse": rmse(ensemble, truth, dim),
        "bias": bias(ensemble, truth, dim),
        "crps": crps(ensemble, truth, dim),
        "spread": spread(_pair(ensemble, truth)[0], dim),
        "spread_skill": spread_skill(ensemble, truth, dim),
    }
    if obs is not None:
        scores["chi_square"] = observation_chi_square(ensemble, obs, sigma, derived=derived)
    names = list(scores["rmse"].data_vars)
    units = {v: str(ensemble[v].attrs.get("units", "")) for v in names}
    out = xr.Dataset()
    for score, values in scores.items():
        columns = [values[v] if v in values else xr.DataArray(np.nan) for v in names]
        out[score] = xr.concat(
            columns, xr.DataArray(names, dims="variable", name="variable"), coords="minimal", compat="override"
        )
        out[score].attrs = {"long_name": LONG_NAMES[score]}
        if score in ("spread_skill", "chi_square"):
            out[score].attrs["units"] = "1"
        elif len(set(units.values())) == 1 and units[names[0]]:
            out[score].attrs["units"] = units[names[0]]
    out.attrs["members"] = ensemble.sizes["member"]
    if any(units.values()):
        out.attrs["variable_units"] = ", ".join(f"{v}: {u or '?'}" for v, u in units.items())
    return out


LONG_NAMES = {
    "rmse": "root mean square error of the ensemble mean",
    "bias": "bias of the ensemble mean",
    "crps": "fair continuous ranked probability score",
    "spread": "ensemble spread",
    "spread_skill": "ratio of spread and error",
    "chi_square": "mean squared misfit to the observations over their error variance",
}
