"""``xsda demo``: the whole path in under a minute."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xsda.cli.output import check_picture, write_picture
from xsda.cli.shared import FILE, progress_option

if TYPE_CHECKING:
    import xarray as xr


@click.command()
@click.option("--members", default=64, show_default=True, type=click.IntRange(min=1), help="Size of the ensemble.")
@click.option("--seed", default=2, show_default=True, help="Seed of the random numbers.")
@click.option("--folder", default=".", type=FILE, help="Where to write [default: here].")
@click.option("--overwrite", is_flag=True, help="Replace posterior.nc and posterior.png if they exist.")
@progress_option
def demo(members: int, seed: int, folder: Path, overwrite: bool, progress: bool | None) -> None:
    """Recover Lorenz-63 from observations of x.

    Simulates a truth, observes it with noise, draws a posterior ensemble with the embedded prior, prints its scores and
    writes posterior.nc and posterior.png.
    """
    from xsda.assimilation import assimilate
    from xsda.files import check_output, write
    from xsda.observations import observe
    from xsda.plot import ensemble
    from xsda.priors import load_model
    from xsda.sampling.draw import sample
    from xsda.systems import Lorenz63

    data, picture = folder / "posterior.nc", folder / "posterior.png"
    check_output(data, overwrite)
    check_picture(picture, overwrite)
    start = time.perf_counter()
    truth = Lorenz63().simulate(length=128, seed=seed)
    model = load_model("lorenz63")
    obs = observe(truth, truth.isel(time=slice(None, None, 8))[["x"]], sigma=1.0, seed=seed)
    click.echo(f"Lorenz-63, {truth.sizes['time']} states; {obs.sizes['time']} observations of x, error 1.0")
    prior = sample(truth, model, members=members, seed=seed, progress=progress)
    post = assimilate(truth, obs, model, members=members, seed=seed, progress=progress)
    interpolated = obs.interp(time=truth.time, kwargs={"fill_value": "extrapolate"}).expand_dims(member=[0, 1])
    click.echo(_table(truth, obs, {"prior": prior, "posterior": post, "observations only": interpolated}))
    write(post, data)
    title = "Lorenz-63: only x is observed, every eighth step"
    write_picture(ensemble(post, truth=truth, obs=obs, title=title), picture)
    click.echo(f"wrote {data} and {picture} in {time.perf_counter() - start:.0f} s")


def _table(truth: xr.Dataset, obs: xr.Dataset, ensembles: Mapping[str, xr.Dataset]) -> str:
    """Scores, one line per ensemble; observations alone say nothing about y and z, and have no spread."""
    from xsda import metrics

    lines = [f"{'':<18}{'RMSE x':>8}{'y':>8}{'z':>8}{'CRPS x':>9}{'y':>8}{'z':>8}{'spread/skill':>14}{'obs chi2':>10}"]
    for name, ens in ensembles.items():
        rmse, crps = metrics.rmse(ens, truth), metrics.crps(ens, truth)
        chi = float(metrics.observation_chi_square(ens, obs)["x"])
        cells = [f"{float(s[v]):>{w}.2f}" if v in s else f"{'-':>{w}}" for s, first in ((rmse, 8), (crps, 9))
                 for v, w in (("x", first), ("y", 8), ("z", 8))]  # fmt: skip
        ratio = "-" if len(ens.data_vars) < 3 else f"{float(metrics.spread_skill(ens, truth).to_array().mean()):.2f}"
        lines.append(f"{name:<18}{''.join(cells)}{ratio:>14}{chi:>10.3f}")
    return "\n".join(lines)
