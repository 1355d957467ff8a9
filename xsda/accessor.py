"""``ds.sda``: the package at hand on any Dataset or DataArray.

Every method is one call of the function of the same name.

On a DataTree, map a method over its nodes. Groups without data are passed on as they are:

    tree.map_over_datasets(lambda ds: ds.sda.assimilate(obs, model) if ds else ds)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import xarray as xr

from xsda.assimilation import assimilate
from xsda.baselines import Forecast, filter
from xsda.baselines.method import Method
from xsda.crossvalidation import CrossValidation, Yardsticks, crossvalidate
from xsda.diffusion.samplers import Sampler
from xsda.guidance import Guidance
from xsda.likelihood import ErrorLaw
from xsda.metrics import Innovations, evaluate, largest_innovations
from xsda.observations import Explanation, explain, observe
from xsda.observations.sources import Source, Sources
from xsda.priors.registry import Model, Models
from xsda.reanalysis import reanalyse
from xsda.sampling.density import elbo, log_prob
from xsda.sampling.draw import sample
from xsda.systems import MarkovChain

Function = TypeVar("Function", bound=Callable[..., Any])


def documented(by: Callable[..., Any]) -> Callable[[Function], Function]:
    """Give a method the documentation of a function, without its first parameter, which is the Dataset itself."""

    def give(method: Function) -> Function:
        method.__doc__ = re.sub(r"(Parameters\n +-+\n)( +)\w+\n(?:\2 +.*\n|\n)+", r"\1", by.__doc__ or "", count=1)
        return method

    return give


@xr.register_dataset_accessor("sda")
class SdaAccessor:
    """Score-based data assimilation on a Dataset."""

    def __init__(self, ds: xr.Dataset):
        self._ds = ds

    @documented(assimilate)
    def assimilate(
        self,
        obs: Sources,
        model: Model | Models,
        *,
        members: int | Sequence[int] = 16,
        sigma: Any = None,
        guidance: str | Guidance = "auto",
        sampler: str | Sampler = "auto",
        steps: int | None = None,
        likelihood: str | ErrorLaw | Mapping[str, str | ErrorLaw] | None = None,
        correlation: Mapping[str, Any] | None = None,
        background: xr.Dataset | None = None,
        background_sigma: Any = None,
        redraw: int = 16,
        seed: int = 0,
        chunks: Any = None,
        batch: int | None = None,
        tiles: Mapping[str, int] | None = None,
        device: str | Sequence[str] = "auto",
        precision: str = "auto",
        progress: bool | None = None,
        derived: Mapping[str, Any] | None = None,
        quality: Any = None,
        outside: str = "raise",
        superobs: Any = None,
        out: str | Path | None = None,
        overwrite: bool = False,
    ) -> xr.Dataset:
        return assimilate(
            self._ds, obs, model, members=members, sigma=sigma, guidance=guidance, sampler=sampler, steps=steps,
            likelihood=likelihood, correlation=correlation, background=background, background_sigma=background_sigma,
            redraw=redraw, seed=seed, chunks=chunks, batch=batch, tiles=tiles, device=device, precision=precision,
            progress=progress, derived=derived, quality=quality, outside=outside, superobs=superobs, out=out,
            overwrite=overwrite,
        )  # fmt: skip

    @documented(reanalyse)
    def reanalyse(
        self,
        obs: Sources | Callable[[Any, Any], Sources],
        model: Model,
        *,
        window: str | int | timedelta | None = None,
        lag: str | int | timedelta | None = None,
        overlap: str | int | timedelta | None = None,
        members: int | Sequence[int] = 16,
        out: str | Path | None = None,
        horizon: str | int | timedelta = 0,
        sigma: Any = None,
        guidance: str | Guidance = "auto",
        sampler: str | Sampler = "auto",
        steps: int | None = None,
        likelihood: str | ErrorLaw | Mapping[str, str | ErrorLaw] | None = None,
        correlation: Mapping[str, Any] | None = None,
        redraw: int = 4,
        seed: int = 0,
        chunks: Any = None,
        batch: int | None = None,
        device: str | Sequence[str] = "auto",
        precision: str = "auto",
        progress: bool | None = None,
        derived: Mapping[str, Any] | None = None,
        quality: Any = None,
        outside: str = "raise",
        superobs: Any = None,
        overwrite: bool = False,
    ) -> xr.Dataset:
        return reanalyse(
            self._ds, obs, model, window=window, lag=lag, overlap=overlap, members=members, out=out, horizon=horizon,
            sigma=sigma, guidance=guidance, sampler=sampler, steps=steps, likelihood=likelihood,
            correlation=correlation, redraw=redraw, seed=seed, chunks=chunks, batch=batch, device=device,
            precision=precision, progress=progress, derived=derived, quality=quality, outside=outside,
            superobs=superobs, overwrite=overwrite,
        )  # fmt: skip

    @documented(sample)
    def sample(
        self,
        model: Model | Models,
        *,
        members: int | Sequence[int] = 16,
        sampler: str | Sampler = "auto",
        steps: int | None = None,
        seed: int = 0,
        chunks: Any = None,
        batch: int | None = None,
        tiles: Mapping[str, int] | None = None,
        device: str | Sequence[str] = "auto",
        precision: str = "auto",
        progress: bool | None = None,
        out: str | Path | None = None,
        overwrite: bool = False,
    ) -> xr.Dataset:
        return sample(
            self._ds, model, members=members, sampler=sampler, steps=steps, seed=seed, chunks=chunks, batch=batch,
            tiles=tiles, device=device, precision=precision, progress=progress, out=out, overwrite=overwrite,
        )  # fmt: skip

    @documented(log_prob)
    def log_prob(self, model: Model, *, steps: int = 128, exact: bool | None = None, seed: int = 0) -> xr.DataArray:
        return log_prob(self._ds, model, steps=steps, exact=exact, seed=seed)

    @documented(elbo)
    def elbo(self, model: Model, *, samples: int = 64, seed: int = 0) -> xr.DataArray:
        return elbo(self._ds, model, samples=samples, seed=seed)

    @documented(filter)
    def filter(
        self,
        obs: Sources,
        system: MarkovChain | Forecast | Callable[..., xr.Dataset] | None = None,
        *,
        method: Method,
        members: int | None = None,
        sigma: Any = None,
        initial: Any = None,
        keep: str | Sequence[str] | None = None,
        correlation: Mapping[str, Any] | None = None,
        derived: Mapping[str, Any] | None = None,
        seed: int = 0,
        progress: bool | None = None,
        out: str | Path | None = None,
        every: int = 1000,
        quality: Any = None,
        outside: str = "raise",
        superobs: Any = None,
    ) -> xr.Dataset:
        return filter(
            self._ds, obs, system, method=method, members=members, sigma=sigma, initial=initial, keep=keep,
            correlation=correlation, derived=derived, seed=seed, progress=progress, out=out, every=every,
            quality=quality, outside=outside, superobs=superobs,
        )  # fmt: skip

    @documented(observe)
    def observe(
        self,
        like: Source,
        *,
        sigma: Any = None,
        seed: int | None = None,
        derived: Mapping[str, Any] | None = None,
        periodic: tuple[str, ...] = (),
        outside: str = "raise",
    ) -> xr.Dataset:
        return observe(self._ds, like, sigma=sigma, seed=seed, derived=derived, periodic=periodic, outside=outside)

    @documented(explain)
    def explain(
        self,
        obs: Sources,
        model: Model | Models,
        *,
        sigma: Any = None,
        likelihood: str | ErrorLaw | Mapping[str, str | ErrorLaw] | None = None,
        correlation: Mapping[str, Any] | None = None,
        derived: Mapping[str, Any] | None = None,
        quality: Any = None,
        outside: str = "raise",
        superobs: Any = None,
    ) -> Explanation:
        return explain(
            self._ds, obs, model, sigma=sigma, likelihood=likelihood, correlation=correlation, derived=derived,
            quality=quality, outside=outside, superobs=superobs,
        )  # fmt: skip

    @documented(crossvalidate)
    def crossvalidate(
        self,
        obs: Sources,
        model: Model | Models,
        *,
        by: str = "station",
        folds: int = 5,
        yardsticks: Yardsticks = (),
        sigma: Any = None,
        derived: Mapping[str, Any] | None = None,
        quality: Any = None,
        outside: str = "raise",
        superobs: Any = None,
        seed: int = 0,
        progress: bool | None = None,
        **options: Any,
    ) -> CrossValidation:
        return crossvalidate(
            self._ds, obs, model, by=by, folds=folds, yardsticks=yardsticks, sigma=sigma, derived=derived,
            quality=quality, outside=outside, superobs=superobs, seed=seed, progress=progress, **options,
        )  # fmt: skip

    @documented(largest_innovations)
    def innovations(
        self,
        obs: Sources,
        *,
        sigma: Any = None,
        derived: Mapping[str, Any] | None = None,
        quality: Any = None,
        outside: str = "raise",
        superobs: Any = None,
    ) -> Innovations:
        return largest_innovations(
            self._ds, obs, sigma=sigma, derived=derived, quality=quality, outside=outside, superobs=superobs
        )

    @documented(evaluate)
    def evaluate(
        self,
        truth: xr.Dataset,
        *,
        obs: Any = None,
        sigma: Any = None,
        derived: Mapping[str, Any] | None = None,
        dim: Any = None,
        weights: Any = None,
        quality: Any = None,
        outside: str = "raise",
        superobs: Any = None,
    ) -> xr.Dataset:
        return evaluate(
            self._ds, truth, obs=obs, sigma=sigma, derived=derived, dim=dim, weights=weights, quality=quality,
            outside=outside, superobs=superobs,
        )  # fmt: skip

    def plot(
        self,
        *,
        truth: xr.Dataset | None = None,
        obs: Any = None,
        variable: str | Sequence[str] | None = None,
        time: Any = None,
        members: int | None = None,
        title: str | None = None,
        cmap: Any = None,
        projection: Any = None,
        coastlines: bool | str = True,
        ax: Any = None,
    ) -> Any:
        """Picture of this ensemble, or trajectory, with truth and observations.

        ``help(xsda.plot.ensemble)`` has the parameters.
        """
        from xsda.plot import ensemble

        return ensemble(
            self._ds, truth=truth, obs=obs, variable=variable, time=time, members=members, title=title, cmap=cmap,
            projection=projection, coastlines=coastlines, ax=ax,
        )  # fmt: skip

    def plot_stations(
        self,
        obs: Any,
        *,
        station: Any = None,
        truth: xr.Dataset | None = None,
        variable: str | None = None,
        sigma: Any = None,
        members: int = 5,
        title: str | None = None,
        ax: Any = None,
    ) -> Any:
        """Picture of the members over time at stations, for example withheld ones, with their values and errors.

        ``help(xsda.plot.stations)`` has the parameters.
        """
        from xsda.plot import stations

        return stations(
            self._ds, obs, station=station, truth=truth, variable=variable, sigma=sigma, members=members, title=title,
            ax=ax,
        )  # fmt: skip

    def animate(
        self,
        path: str | Path | None = None,
        *,
        truth: xr.Dataset | None = None,
        obs: Any = None,
        variable: str | Sequence[str] | None = None,
        members: int = 1,
        title: str | None = None,
        cmap: Any = None,
        projection: Any = None,
        coastlines: bool | str = True,
        fps: int = 8,
        dpi: int = 100,
        progress: bool | None = None,
    ) -> Any:
        """Film of the maps of this ensemble, or trajectory: an ``.mp4`` or ``.gif`` file, or an animation.

        ``help(xsda.plot.animate)`` has the parameters.
        """
        from xsda.plot import animate

        return animate(
            self._ds, path, truth=truth, obs=obs, variable=variable, members=members, title=title, cmap=cmap,
            projection=projection, coastlines=coastlines, fps=fps, dpi=dpi, progress=progress,
        )  # fmt: skip


@xr.register_dataarray_accessor("sda")
class SdaArrayAccessor:
    """The same on one variable: every method of ``ds.sda``, called on the Dataset of this variable alone.

    ``da.sda.assimilate(obs, model)`` gives a Dataset, as ``da.to_dataset().sda.assimilate(obs, model)`` does.
    """

    def __init__(self, da: xr.DataArray):
        if da.name is None:
            raise AttributeError(
                "this DataArray has no name, which says what variable it is; use .rename('variable') first"
            )
        self._ds = da.to_dataset()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(SdaAccessor(self._ds), name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(n for n in dir(SdaAccessor) if not n.startswith("_"))})
