"""``ds.sda``: the package at hand on any Dataset. Every method is one call of the function of the same name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from xsda.assimilation import assimilate
from xsda.baselines import Forecast, filter
from xsda.baselines.method import Method
from xsda.diffusion.samplers import Sampler
from xsda.guidance import Guidance
from xsda.likelihood import ErrorLaw
from xsda.metrics import evaluate
from xsda.observations import observe
from xsda.observations.sources import Sources
from xsda.priors.registry import Model, Models
from xsda.sampling.density import elbo, log_prob
from xsda.sampling.draw import sample
from xsda.systems import MarkovChain


@xr.register_dataset_accessor("sda")
class SdaAccessor:
    """Score-based data assimilation on a Dataset."""

    def __init__(self, ds: xr.Dataset):
        self._ds = ds

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
        device: str = "auto",
        precision: str = "auto",
        progress: bool | None = None,
        derived: Mapping[str, Any] | None = None,
    ) -> xr.Dataset:
        """Posterior ensemble on the axes of this Dataset; see ``xsda.assimilate``."""
        return assimilate(
            self._ds, obs, model, members=members, sigma=sigma, guidance=guidance, sampler=sampler, steps=steps,
            likelihood=likelihood, correlation=correlation, background=background, background_sigma=background_sigma,
            redraw=redraw, seed=seed, chunks=chunks, batch=batch, device=device, precision=precision, progress=progress,
            derived=derived,
        )  # fmt: skip

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
        device: str = "auto",
        precision: str = "auto",
        progress: bool | None = None,
    ) -> xr.Dataset:
        return sample(
            self._ds, model, members=members, sampler=sampler, steps=steps, seed=seed, chunks=chunks, batch=batch,
            device=device, precision=precision, progress=progress,
        )  # fmt: skip

    def log_prob(self, model: Model, *, steps: int = 128, exact: bool | None = None, seed: int = 0) -> xr.DataArray:
        return log_prob(self._ds, model, steps=steps, exact=exact, seed=seed)

    def elbo(self, model: Model, *, samples: int = 64, seed: int = 0) -> xr.DataArray:
        return elbo(self._ds, model, samples=samples, seed=seed)

    def filter(
        self,
        obs: Sources,
        system: MarkovChain | Forecast | Callable[..., xr.Dataset],
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
    ) -> xr.Dataset:
        """Ensemble on the axes of this Dataset from a forecast model; see ``xsda.baselines.filter``."""
        return filter(
            self._ds, obs, system, method=method, members=members, sigma=sigma, initial=initial, keep=keep,
            correlation=correlation, derived=derived, seed=seed, progress=progress, out=out, every=every,
        )  # fmt: skip

    def observe(
        self,
        like: xr.Dataset,
        *,
        sigma: Any = None,
        seed: int | None = None,
        derived: Mapping[str, Any] | None = None,
        periodic: tuple[str, ...] = (),
    ) -> xr.Dataset:
        """What would be observed of this Dataset at the coordinates of ``like``; see ``xsda.observe``."""
        return observe(self._ds, like, sigma=sigma, seed=seed, derived=derived, periodic=periodic)

    def evaluate(
        self,
        truth: xr.Dataset,
        *,
        obs: Any = None,
        sigma: Any = None,
        derived: Mapping[str, Any] | None = None,
        dim: Any = None,
        weights: Any = None,
    ) -> xr.Dataset:
        """Scores of this ensemble; see ``xsda.metrics.evaluate``."""
        return evaluate(self._ds, truth, obs=obs, sigma=sigma, derived=derived, dim=dim, weights=weights)

    def plot(self, *, truth: xr.Dataset | None = None, obs: Any = None, **options: Any) -> Any:
        """Picture of this ensemble with truth and observations; see ``xsda.plot.ensemble``."""
        from xsda.plot import ensemble

        return ensemble(self._ds, truth=truth, obs=obs, **options)
