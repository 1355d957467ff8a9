"""Train a prior of the wake of a cylinder: vorticity at 199 x 399 points, Reynolds numbers from 60 to 180.

It takes two and a half hours on one core, of which the data take one and a half. `--workers 2` simulates two
trajectories at once. A run that was stopped continues with the same command::

    python examples/training/wake.py wake.safetensors --data wake-data --workers 2

Each trajectory has its own Reynolds number and starts from random vortices. Two are kept for validation and two for tests.
"""

import argparse
from functools import partial
from pathlib import Path

import xarray as xr

import xsda
from xsda.systems import CylinderWake
from xsda.systems.tasks import run

TRAJECTORIES, VALIDATION, TEST = 15, (2, 8), (5, 11)


def simulate(folder: Path, number: int) -> None:
    path = folder / f"{number:02d}.nc"
    if not path.exists():
        reynolds = 60 + 120 * (number + 0.5) / TRAJECTORIES
        ds = CylinderWake(reynolds=reynolds).simulate(length=340, burn_in=20, seed=1000 + number)
        part = path.with_suffix(".part.nc")
        ds.assign_attrs(reynolds=reynolds).to_netcdf(part)
        part.rename(path)


def together(folder: Path, numbers: list[int]) -> xr.Dataset:
    parts = [xr.open_dataset(folder / f"{i:02d}.nc") for i in numbers]
    joined = xr.concat([p[["vorticity"]] for p in parts], "trajectory", combine_attrs="drop")
    return joined.assign(body=parts[0].body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="file of the prior")
    parser.add_argument("--data", type=Path, default=Path("wake-data"), help="folder of the trajectories")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3200)
    a = parser.parse_args()
    a.data.mkdir(parents=True, exist_ok=True)
    run(partial(simulate, a.data), range(TRAJECTORIES), workers=a.workers)
    training = [i for i in range(TRAJECTORIES) if i not in (*VALIDATION, *TEST)]
    prior = xsda.train(
        together(a.data, training).load(), validation=together(a.data, list(VALIDATION)).isel(time=slice(200, 248)).load(),
        name="wake", network={"name": "SpaceTimeUNet", "patch": 4, "hidden": (32, 64, 128), "blocks": (2, 2, 2)},
        anchor=False, scaling="point", context=("geo", "body"), window=16, batch_size=1, steps=a.steps, warmup=100,
        noise_center=0.5, precision="bf16", validate_every=200, validation_batches=4, checkpoint_every=200,
        checkpoint=a.out.with_suffix(".checkpoint"), log=a.out.with_suffix(".csv"),
    )  # fmt: skip
    prior.save(a.out)
    print(prior)


if __name__ == "__main__":
    main()
