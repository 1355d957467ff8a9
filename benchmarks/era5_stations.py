"""Two-metre temperature over the British Isles from 30 stations: a diffusion prior, Gaussian priors and simpler maps.

ERA5, March 2019. Fits and trainings use 1 to 25 March; all their choices are measured within these days. Scores are
those of 27, 28 and 30 March, on which nothing was chosen, for three draws of 30 stations on land (off the grid, hourly
with a fifth of the values missing, sigma 0.5 K) and of 10 further places, whose true values are withheld. 26, 29 and 31
March, with other draws, served to choose between designs; ``six`` has the scores of all six days. Train the priors of
the learning curve first, and run it with one thread::

    python examples/training/uk_t2m.py --days 12 uk-12.safetensors
    python benchmarks/era5_stations.py --curve uk-12.safetensors
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from record import add_options, record

import xsda

TRAINING = slice("2019-03-01", "2019-03-25")
DAYS = ("2019-03-27", "2019-03-28", "2019-03-30")
CHOOSING = ("2019-03-26", "2019-03-29", "2019-03-31")
SIGMA, STATIONS, WITHHELD = 0.5, 30, 10
Method = Callable[[xr.Dataset, xr.Dataset], xr.Dataset]


def land(ds: xr.Dataset) -> xr.DataArray:
    """Where the mean daily cycle exceeds 2 K: ERA5's land, as far as temperature knows it."""
    cycle = ds.t2m.groupby("time.hour").mean()
    return cycle.max("hour") - cycle.min("hour") > 2.0


def stations(ds: xr.Dataset, where: xr.DataArray, seed: int) -> tuple[xr.Dataset, xr.Dataset]:
    """Places of observed and of withheld stations on land."""
    rng = np.random.default_rng(seed)
    found: list[tuple[float, float]] = []
    while len(found) < STATIONS + WITHHELD:
        lat, lon = rng.uniform(50.1, 57.9), rng.uniform(-9.9, 1.9)
        if where.sel(latitude=lat, longitude=lon, method="nearest"):
            found.append((lat, lon))
    lat, lon = np.array(found).T
    places = xr.Dataset(coords={"latitude": ("station", lat), "longitude": ("station", lon)})
    values = places.assign(t2m=(("time", "station"), np.zeros((ds.sizes["time"], len(lat)))), time=ds.time)
    return values.isel(station=slice(0, STATIONS)), values.isel(station=slice(STATIONS, None))


def climatology(train: xr.Dataset, day: xr.Dataset) -> xr.DataArray:
    """The mean of each hour of the day at each point."""
    return train.t2m.groupby("time.hour").mean().sel(hour=day.time.dt.hour).drop_vars("hour")


def spread_out(obs: xr.Dataset, clim: xr.DataArray, day: xr.Dataset, power: float) -> xr.Dataset:
    """The climatology plus anomalies of stations, weighted by a power of the distance (large: the nearest)."""
    anomaly = obs.t2m - clim.to_dataset(name="t2m").sda.observe(obs[["t2m"]] * 0).t2m
    scale = np.cos(np.radians(54.0))
    far = (day.latitude - obs.latitude) ** 2 + (scale * (day.longitude - obs.longitude)) ** 2
    weight = far ** (-power / 2) * anomaly.notnull()
    field = clim + (weight * anomaly.fillna(0)).sum("station") / weight.sum("station")
    return field.to_dataset(name="t2m").transpose(*day.t2m.dims)


def methods(ds: xr.Dataset, members: int, curve: Path | None) -> dict[str, Method]:
    """Each method makes a map of a day, with or without members, from the observations of its stations."""
    train = ds.sel(time=TRAINING)
    fits = {days: xsda.GaussianPrior.fit(train.isel(time=slice(-24 * days, None)), length=24) for days in (25, 12, 6)}
    separable = xsda.GaussianPrior.fit(train, length=24, structure="separable")

    def oi(day: xr.Dataset, obs: xr.Dataset) -> xr.Dataset:
        """Optimal interpolation of anomalies, hour by hour."""
        past = (train.t2m.groupby("time.hour") - train.t2m.groupby("time.hour").mean()).to_dataset(name="t2m")
        clim = climatology(train, day)
        seen = clim.to_dataset(name="t2m").sda.observe(obs[["t2m"]] * 0)
        method = xsda.baselines.OptimalInterpolation(climatology=past.drop_vars("hour"))
        run = (day - clim).sda.filter(
            obs - seen, method=method, members=members, sigma=SIGMA, progress=False,
        )  # fmt: skip
        return run + clim

    def gaussian(prior: xsda.Prior) -> Method:
        return lambda day, obs: day.sda.assimilate(obs, prior, sigma=SIGMA, members=members, progress=False)

    trained = {"diffusion": gaussian(xsda.load_model("uk-t2m"))}
    if curve is not None:
        trained["diffusion from the last 12 days"] = gaussian(xsda.load_model(curve))
    return trained | {
        "Gaussian, patterns": gaussian(fits[25]),
        "patterns from the last 12 days": gaussian(fits[12]),
        "patterns from the last 6 days": gaussian(fits[6]),
        "Gaussian, separable": gaussian(separable),
        "optimal interpolation of anomalies": oi,
        "climatology + anomalies by distance": lambda d, o: spread_out(o, climatology(train, d), d, 2.0),
        "climatology + nearest anomaly": lambda d, o: spread_out(o, climatology(train, d), d, 60.0),
        "climatology": lambda d, o: climatology(train, d).to_dataset(name="t2m").transpose(*d.t2m.dims),
        "yesterday": lambda d, o: ds.sel(time=d.time - np.timedelta64(1, "D")).assign_coords(time=d.time),
    }


def scored(found: xr.DataArray, truth: xr.DataArray) -> tuple[float, float, float]:
    """Mean squared error, CRPS (fair) and variance of an ensemble; a single map has no variance."""
    if "member" not in found.dims:
        error = found - truth
        return float((error**2).mean()), float(abs(error).mean()), np.nan
    crps = xsda.metrics.crps(found.to_dataset(name="v"), truth.to_dataset(name="v")).v
    n = found.sizes["member"]
    variance = found.var("member", ddof=1) * (n + 1) / n
    return float(((found.mean("member") - truth) ** 2).mean()), float(crps.mean()), float(variance.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--curve", type=Path, help="prior trained on the last 12 days")
    add_options(parser, "era5_stations")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ds = xsda.data.fetch("era5-t2m-uk").load()
    where, rows = land(ds.sel(time=TRAINING)), []
    for name, method in methods(ds, args.members, args.curve).items():
        days = DAYS if " days" in name else (*DAYS, *CHOOSING)
        grid, held, seconds = [], [], 0.0
        for day in days:
            truth = ds.sel(time=day)
            for draw in range(args.draws):
                places, others = stations(truth, where, seed=draw)
                obs = truth.sda.observe(places, sigma=SIGMA, seed=draw)
                obs = obs.where(np.random.default_rng(draw).random(obs.t2m.shape) > 0.2)
                began = time.process_time()
                found = method(truth, obs)
                seconds += time.process_time() - began
                grid.append(scored(found.t2m, truth.t2m))
                held.append(scored(found.sda.observe(others[["t2m"]]).t2m, truth.sda.observe(others[["t2m"]]).t2m))
        row: dict[str, object] = {"method": name, "seconds": seconds / len(grid)}
        first = len(DAYS) * args.draws
        for place, scores in (("grid", grid), ("stations", held)):
            error, crps, variance = np.mean(scores[:first], 0)
            spread = {} if np.isnan(variance) else {f"{place}_spread_skill": np.sqrt(variance / error)}
            row |= {f"{place}_rmse": np.sqrt(error), f"{place}_crps": crps, **spread}
            row[f"{place}_crps_error"] = np.std([s[1] for s in scores[:first]], ddof=1) / np.sqrt(first)
            if len(scores) > first:
                error, crps, variance = np.mean(scores, 0)
                row |= {f"six_{place}_rmse": np.sqrt(error), f"six_{place}_crps": crps}
                row |= {} if np.isnan(variance) else {f"six_{place}_spread_skill": np.sqrt(variance / error)}
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else str(v) for k, v in row.items()), flush=True)
        rows.append(row)
    parts = ("grid", "stations")
    kelvin = {f"{p}_{k}": ("K", ".2f") for p in parts for k in ("rmse", "crps", "crps_error")}
    kelvin |= {f"six_{p}_{k}": ("K", ".2f") for p in parts for k in ("rmse", "crps")}
    ratio = {f"{six}{p}_spread_skill": ("1", ".2f") for six in ("", "six_") for p in parts}
    record(
        args.name, rows, folder=args.results, seed=0,
        question="How well do a few stations determine a map of temperature?",
        columns={"method": "", "seconds": ("s", ".1f"), **kelvin, **ratio},
    )  # fmt: skip


if __name__ == "__main__":
    main()
