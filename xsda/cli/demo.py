"""``xsda demo``: the whole path in under a minute."""

from __future__ import annotations

import time
from pathlib import Path

import click
import xarray as xr


@click.command()
@click.option("--members", default=64, show_default=True)
@click.option("--seed", default=2, show_default=True)
@click.option("--folder", default=".", type=click.Path(path_type=Path), help="Where to write [default: here].")
@click.option("--overwrite", is_flag=True, help="Replace posterior.nc and posterior.png if they exist.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def demo(members: int, seed: int, folder: Path, overwrite: bool, quiet: bool) -> None:
    """Lorenz-63: observe x every eighth step, recover x, y and z with their uncertainty.

    Simulates a truth, observes it with noise, draws a posterior ensemble with the embedded prior, prints its scores and
    writes posterior.nc and posterior.png.
    """
    import xsda
    from xsda.cli.commands import check_output, write

    data, picture = folder / "posterior.nc", folder / "posterior.png"
    check_output(data, overwrite)
    if picture.exists() and not overwrite:
        raise FileExistsError(f"{picture} exists; give --overwrite to replace it")
    progress = not quiet
    start = time.perf_counter()
    truth = xsda.systems.Lorenz63().simulate(length=128, seed=seed)
    model = xsda.load_model("lorenz63")
    where = truth.isel(time=slice(None, None, 8))[["x"]]
    obs = truth.sda.observe(where, sigma=1.0, seed=seed)
    click.echo(f"Lorenz-63, {truth.sizes['time']} states; {obs.sizes['time']} observations of x, error 1.0")
    prior = xsda.sample(truth, model, members=members, seed=seed, progress=progress)
    post = truth.sda.assimilate(obs, model, members=members, seed=seed, progress=progress)
    interpolated = obs.interp(time=truth.time, kwargs={"fill_value": "extrapolate"}).expand_dims(member=[0, 1])
    click.echo(_table(truth, obs, {"prior": prior, "posterior": post, "observations only": interpolated}))
    write(post, data)
    _picture(post, truth, obs, picture)
    click.echo(f"wrote {data} and {picture} in {time.perf_counter() - start:.0f} s")


def _table(truth: xr.Dataset, obs: xr.Dataset, ensembles: dict[str, xr.Dataset]) -> str:
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


def _picture(post: xr.Dataset, truth: xr.Dataset, obs: xr.Dataset, path: Path) -> None:
    import matplotlib

    from xsda.files import replacing

    matplotlib.use("Agg")
    figure = post.sda.plot(truth=truth, obs=obs, title="Lorenz-63: only x is observed, every eighth step")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
