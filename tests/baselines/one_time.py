"""Ensembles of one time, and their analysis by a Kalman filter in numpy."""

import numpy as np
import xarray as xr


def numbers(ds):
    """Those of an ensemble, variable after variable, (member, number)."""
    parts = [ds[n].transpose("member", ...).values for n in sorted(ds.data_vars)]
    return np.concatenate([p.reshape(len(p), -1) for p in parts], 1)


def observed(ds, sources, derived=None):
    """H of an ensemble, source after source, (member, number); and the observations likewise, (number,)."""
    seen, y = [], []
    for obs in sources:
        at = ds.expand_dims("time").sda.observe(obs, derived=derived)
        for name in obs.data_vars:
            there = obs[name].notnull().values.ravel()
            seen.append(at[name].transpose("member", *obs[name].dims).values.reshape(ds.sizes["member"], -1)[:, there])
            y.append(obs[name].values.ravel()[there])
    return np.concatenate(seen, 1), np.concatenate(y)


def kalman(x, hx, y, r):
    """Mean and covariance of the analysis of members (member, number) observed as (member, M) with errors of covariance r."""
    anomalies, seen = x - x.mean(0), hx - hx.mean(0)
    cross = anomalies.T @ seen / (len(x) - 1)
    gain = cross @ np.linalg.inv(seen.T @ seen / (len(x) - 1) + r)
    return x.mean(0) + gain @ (y - hx.mean(0)), np.cov(x.T) - gain @ cross.T


def ring(members=8, n=12, seed=0, time=0.0):
    """An ensemble of one variable on a ring, correlated in space."""
    rng = np.random.default_rng(seed)
    near = np.exp(-np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / 2)
    x = xr.DataArray(np.arange(float(n)), dims="x", attrs={"axis": "X", "period": float(n)})
    return xr.Dataset({"u": (("member", "x"), rng.normal(size=(members, n)) @ near)}, {"x": x, "time": time})


def globe(members=10, seed=0, time=0.0):
    """An ensemble of two fields, one with levels, on descending latitudes and periodic longitudes."""
    rng = np.random.default_rng(seed)
    values = {
        "q": (("member", "level", "lat", "lon"), rng.normal(size=(members, 2, 4, 6))),
        "u": (("lat", "member", "lon"), rng.normal(size=(4, members, 6))),
    }
    coords = {
        "level": [500, 850],
        "lat": [60.0, 20.0, -20.0, -60.0],
        "lon": ("lon", np.arange(6) * 60.0, {"units": "degrees_east"}),
    }
    return xr.Dataset(values, {**coords, "time": time}) + 1.0
