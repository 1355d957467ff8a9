"""Make a prior from one file that describes the data, the network and the training.

A recipe is a TOML file. ``xsda train recipe.toml`` makes the prior, and resumes an interrupted training::

    name = "lorenz96"

    [data]                      # a simulated system; or path = "mine.zarr"
    system = "lorenz96"
    members = 512               # in memory; or trajectories = 512, streamed to ``path``
    length = 512
    seed = 1

    [network]                   # a class of xsda.nn and its parameters
    name = "TemporalNet"
    width = 48

    [train]                     # parameters of xsda.train
    window = 24
    steps = 6000

The recipes of the priors in the package are in examples/training.
"""

from __future__ import annotations

import inspect
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from xsda import systems
from xsda.arguments import check_names, choose
from xsda.diffusion.schedules import SCHEDULES, Schedule
from xsda.files import read
from xsda.priors.prior import Prior
from xsda.systems.chain import as_count
from xsda.systems.simulation import SYSTEMS, simulate_to
from xsda.training.geo import static_names
from xsda.training.networks import check_network, make_network
from xsda.training.parallel import leads
from xsda.training.plan import planned
from xsda.training.train import train
from xsda.training.training_options import TrainingOptions

PARTS = ("name", "data", "network", "train", "schedule")
DATA = (
    "path",
    "system",
    "parameters",
    "members",
    "trajectories",
    "length",
    "burn_in",
    "every",
    "coarsen",
    "seed",
    "variables",
)
LEAST = {"members": 1, "trajectories": 1, "length": 1, "burn_in": 0, "every": 1, "coarsen": 1, "seed": 0}
OUTSIDE = {
    "ds", "network", "validation", "mask", "schedule", "checkpoint", "log", "callback", "progress", "device", "name",
    "options",
}  # fmt: skip
TRAIN = (*(k for k in inspect.signature(train).parameters if k not in OUTSIDE), *TrainingOptions.__dataclass_fields__)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The checked content of a recipe file.

    Parameters
    ----------
    name
        Name of the prior.
    data
        A file (``path``), or a system to simulate with its parameters, and ``variables`` to use.
    network
        Name of a network, or class and parameters.
    train
        Parameters of ``xsda.train``.
    schedule
        Name and parameters of the noise schedule.
    """

    name: str
    data: Mapping[str, Any]
    network: str | Mapping[str, Any] = "auto"
    train: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"name = {self.name!r} must be a text: the name of the prior")
        for part in ("data", "train", "schedule"):
            if not isinstance(getattr(self, part), Mapping):
                raise ValueError(f"[{part}] must be one table, got {getattr(self, part)!r}")
        check_names("[data]", self.data, DATA)
        check_names("[train]", self.train, TRAIN)
        TrainingOptions(**{k: v for k, v in self.train.items() if k in TrainingOptions.__dataclass_fields__})
        if not isinstance(self.network, (str, Mapping)):
            raise ValueError(f"[network] must be a table, or network = a name, got {self.network!r}")
        if isinstance(self.network, Mapping):
            check_network(self.network)
        self._schedule()
        for key, value in self.data.items():
            texts = value if key == "variables" and isinstance(value, list) else [value]
            if key in ("path", "system", "variables") and not all(isinstance(v, str) for v in texts):
                raise ValueError(f"[data] {key} = {value!r} must be a text")
            if key in LEAST:
                as_count(f"[data] {key}", value, LEAST[key])
        if not isinstance(self.data.get("parameters", {}), Mapping):
            raise ValueError(f"[data.parameters] must be one table, got {self.data['parameters']!r}")
        if "system" not in self.data:
            if not {"path"} <= set(self.data) <= {"path", "variables"}:
                raise ValueError("[data] must name either a file (path) or a system to simulate, with its parameters")
            return
        system = self._system()
        if ("members" in self.data) == ("trajectories" in self.data):
            raise ValueError(
                "[data] needs a number, either of members (in memory) or trajectories (streamed to a file)"
            )
        if "length" not in self.data:
            raise ValueError("[data] must give the length of the trajectories, in states")
        if "members" in self.data and "path" in self.data:
            raise ValueError("[data] members are simulated in memory; omit path, or give trajectories")
        self._check_training(system)

    def _check_training(self, system: systems.MarkovChain) -> None:
        """Raise if the training cannot work on such data, before they are made."""
        coarsen, window = system.check_coarsen(self.data.get("coarsen", 1)), self.train.get("window", 5)
        states = as_count("window", window, 1)
        if states > self.data["length"]:
            raise ValueError(f"window={states} is longer than the trajectories: [data] length = {self.data['length']}")
        channels, *space = system.state_shape
        zeros = np.broadcast_to(np.float32(0), (1, states, channels, *(n // coarsen for n in space)))
        ds = self._selected(system.label(zeros, every=self.data.get("every", 1)))
        free = {k: v for k, v in self.train.items() if k not in ("climatology", "minutes")}
        plan = planned(ds, network=self.network, **free)
        with torch.random.fork_rng(devices=[]):
            make_network(plan.network, plan.layout, states, plan.width)

    def _schedule(self) -> Schedule | None:
        options = dict(self.schedule)
        name = options.pop("name", None)
        if not self.schedule:
            return None
        if name not in SCHEDULES:
            raise ValueError(f"[schedule] unknown name {name!r}; {choose(name, SCHEDULES)}")
        check_names("[schedule]", options, inspect.signature(SCHEDULES[name]).parameters)
        try:
            return SCHEDULES[name](**options)
        except TypeError as error:
            raise ValueError(f"[schedule] {error}") from error

    def _system(self) -> systems.MarkovChain:
        name = self.data["system"]
        if name not in SYSTEMS:
            raise ValueError(f"unknown system {name!r}; {choose(name, SYSTEMS)}")
        system, parameters = getattr(systems, SYSTEMS[name]), self.data.get("parameters", {})
        check_names("[data.parameters]", parameters, inspect.signature(system).parameters)
        try:
            return system(**parameters)
        except TypeError as error:
            raise ValueError(f"[data.parameters] {error}") from error

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe from a TOML file. Paths in it are relative to it.

        Parameters
        ----------
        path
            The file.

        Returns
        -------
        Recipe
            The checked content.
        """
        try:
            content = tomllib.loads(Path(path).read_text())
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path} is not valid TOML: {error}") from error
        check_names(f"{path}:", content, PARTS)
        for needed in ("name", "data"):
            if needed not in content:
                raise ValueError(f"{path} lacks {needed!r}; a recipe has {', '.join(PARTS)}")
        if isinstance(content["data"], dict) and isinstance(content["data"].get("path"), str):
            content["data"]["path"] = str(Path(path).parent / content["data"]["path"])
        try:
            return cls(**content)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: {error.args[0] if error.args else error}") from error

    def load(self, folder: Path, *, workers: int = 1, progress: bool = True) -> xr.Dataset:
        """Load the training data, and simulate them if they do not exist.

        Parameters
        ----------
        folder
            Where to put streamed data without a path.
        workers
            Number of processes that simulate.
        progress
            Show a progress bar.

        Returns
        -------
        Dataset
            The data.
        """
        said = {k: v for k, v in self.data.items() if k not in ("system", "parameters", "variables", "path")}
        if "system" not in self.data:
            ds = read(self.data["path"])
        elif "members" in self.data:
            ds = self._system().simulate(said.pop("length"), said.pop("members"), **said)
        else:
            path = Path(self.data.get("path", folder / f"{self.name}-data.zarr"))
            if not path.exists() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
                settings = [f"--set {k}={v}" for k, v in self.data.get("parameters", {}).items()]
                options = [f"--{k.replace('_', '-')} {v}" for k, v in said.items()]
                command = " ".join(["xsda simulate", self.data["system"], *settings, *options, "--out", str(path)])
                raise FileNotFoundError(f"the data {path} do not exist; make them first:\n  {command}")
            ds = read(simulate_to(path, self._system(), workers=workers, progress=progress, **said))
        return self._selected(ds)

    def _selected(self, ds: xr.Dataset) -> xr.Dataset:
        """Select the variables that the recipe names, if any."""
        if "variables" not in self.data:
            return ds
        static = static_names(ds, _names(self.train.get("context") or ()), self.train.get("space"))
        names = [*_names(self.data["variables"]), *(n for n in static if n not in ds.coords)]
        check_names("[data] variables:", names, map(str, ds.data_vars))
        return ds[names]

    def cook(
        self, out: Path, *, workers: int = 1, device: str = "auto", progress: bool = True, overwrite: bool = False
    ) -> Prior:
        """Train the prior and save it, with checkpoint and log next to it.

        Parameters
        ----------
        out
            File of the prior.
        workers
            Number of processes that simulate.
        device
            "auto", "cpu" or "cuda".
        progress
            Show progress bars.
        overwrite
            Replace an existing file.

        Returns
        -------
        Prior
            The trained prior.
        """
        ds = self.load(out.parent, workers=workers, progress=progress)
        prior = train(
            ds, network=self.network, schedule=self._schedule(), name=self.name,
            checkpoint=out.with_name(out.name + ".checkpoint"), log=out.with_name(out.name + ".csv"),
            device=device, progress=progress, **self.train,
        )  # fmt: skip
        prior.info["data"] = ds.attrs.get("history", str(self.data.get("path", "")))
        if leads():
            prior.save(out, overwrite=overwrite)
        return prior


def _names(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value
