"""Draws continuous posterior trajectories through a long record, window by window: ``reanalyse``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xsda.arguments import whole_number, without_repeats
from xsda.diffusion.samplers import Sampler
from xsda.guidance import Guidance
from xsda.labels.axes import is_datelike
from xsda.labels.grid import Grid
from xsda.labels.provenance import describe
from xsda.labels.requirements import check_time
from xsda.likelihood import ErrorLaw
from xsda.observations.during import divided
from xsda.observations.operator import Derived
from xsda.observations.sources import Sources
from xsda.priors.held import base_of
from xsda.priors.prior import Prior
from xsda.priors.reference import refer
from xsda.priors.registry import Model, load_model
from xsda.sampling.blocks import member_bar, member_chunks
from xsda.sampling.choose import default_sampler, pick_guidance, pick_sampler
from xsda.sampling.devices import take
from xsda.sampling.finished import current_client, on_cluster
from xsda.sampling.long_records import Chain, Memory, Stretch, plan_windows
from xsda.sampling.options import SamplingOptions
from xsda.sampling.shipping import fingerprint
from xsda.sampling.store import EnsembleStore, open_store

OBSERVED = "observed_states"  # note of a store: length of the record, without the forecast
WINDOW = 32  # states of a window by default, for priors of any length


def reanalyse(
    ds: xr.Dataset,
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
    derived: Mapping[str, Derived] | None = None,
    quality: Any = None,
    outside: str = "raise",
    superobs: Any = None,
    overwrite: bool = False,
) -> xr.Dataset:
    """Draw posterior trajectories through a long record, each of them continuous, window by window.

    Each window begins with states that the previous one settled, and uses the observations up to its end. Its last
    ``lag`` states are drawn again by the next window, which has later observations (fixed-lag smoothing). The memory
    is that of one window, the time is proportional to the length of the record.

    Parameters
    ----------
    ds
        The record: its coordinates define what is estimated. Its values are not read. Its times have even steps.
    obs
        Observations with times, as in ``xsda.assimilate``. Averages over time need bounds. For records that are too
        long to open at once, a function ``obs(first, last)`` that returns those between two times of ``ds``, or None.
    model
        A prior, the path of one, or a name.
    window
        Number of states that are sampled together, or a length of time such as "2D". Default: the length of the prior
        if that is fixed, otherwise 32, or four times the window of its network.
    lag
        Number of states at the end of a window that are drawn again with later observations, or a length of time such
        as "6h". Zero uses observations up to the end of each window only. Default: a quarter of the window.
    overlap
        Number of settled states at the beginning of a window, or a length of time. A process without memory needs one.
        Default: those that a network sees on one side, or a third of the rest of the window for Gaussians.
    members
        Size of the ensemble, or the numbers of the members.
    out
        Folder of a Zarr store (``reanalysis.zarr``) to which settled states are written. A run that was interrupted
        continues with the same call. The same call with a longer record continues an earlier one: only the last ``lag``
        states and the new ones are drawn. Default: the result is kept in memory.
    horizon
        How far to continue after the end of the record, without observations: a number of states, or a length of time
        such as "2D".
    sigma, guidance, sampler, steps, likelihood, correlation, batch, device, precision, derived, quality, superobs
        As in ``xsda.assimilate``. If ``obs`` is a function, ``sigma`` cannot be an array. Correlated errors are
        correlated within a window only.
    outside
        What to do with observations outside the grid or the record, as in ``xsda.assimilate``.
    redraw
        For networks: how often at most a member is drawn again in one window if it does not fit the observations. Few
        members that failed so often succeed later, because what they know of the past does not fit.
    seed
        Seed of the noise. A record of one window gives what ``xsda.assimilate`` gives.
    chunks
        ``{"member": 8}`` computes 8 members in each dask task. Each task goes through the whole record. With ``out``,
        tasks run on the cluster of the current dask client if there is one. Default: all members in this process.
    progress
        Show a progress bar. Default: in a terminal or notebook.
    overwrite
        Replace a store ``out`` of another run. Default: raise an error.

    Returns
    -------
    xarray.Dataset
        The variables of the prior over (member, time, ...). With ``out`` it is read lazily from the store. With a
        horizon, coordinates over time without even steps are left out.

    Notes
    -----
    The result is a sample of the fixed-lag smoother if the prior is a Gaussian, or if ``overlap`` states determine what
    follows as well as the whole past does. Priors in closed form, and networks that correct a Gaussian, take the
    settled states exactly. Other networks keep them too, and observe the last of them with a very small error, so that
    the next states follow from it.

    Examples
    --------
    >>> run = xsda.reanalyse(truth, obs, "lorenz63", window=16, lag=4, members=2, steps=8, progress=False)
    >>> dict(run.x.sizes)
    {'member': 2, 'time': 16}
    """
    if not isinstance(ds, xr.Dataset):
        raise TypeError(f"the record must be an xarray.Dataset, got {type(ds).__name__}")
    prior = load_model(model)
    if not isinstance(prior, Prior):
        raise TypeError(
            "reanalyse needs one prior, got a list of them; reanalyse with each, and join them along member"
        )
    options = SamplingOptions(
        members=members, guidance=guidance, sampler=sampler, steps=steps, redraw=redraw, seed=seed, chunks=chunks,
        batch=batch, device=device, precision=precision, progress=progress,
    )  # fmt: skip
    reading: dict[str, Any] = {
        "sigma": sigma, "likelihood": likelihood, "correlation": correlation, "derived": derived, "quality": quality,
        "outside": outside, "superobs": superobs,
    }  # fmt: skip
    stepper = pick_sampler(sampler, steps, default_sampler(prior, guided=True))
    if stepper.population > 1:
        raise ValueError(
            f"reanalyse continues each member from its own past, but {stepper} draws members together as weighted "
            "particles; use another sampler"
        )
    whole = Grid.match(prior.layout, ds)
    time, observed = whole.core_dims[0], whole.shape[0]
    if time not in ds.coords:
        raise ValueError(f"the record has no coordinate {time!r}, which divides the observations; assign one to it")
    check_time(whole)
    wanted = {"window": window, "lag": lag, "overlap": overlap}
    sizes = _sizes(prior, observed, *(v if v is None else _states_of(n, v, whole) for n, v in wanted.items()))
    with without_repeats():
        prior.bind(ds.isel({time: slice(sizes[0])}))  # raises, and warns, before anything is drawn
        whole = Grid.match(prior.layout, _without_values(ds, time))  # it goes to each task
        period, reading = divided(obs, whole, reading)
        record = _without_values(_extended(whole, _states_of("horizon", horizon, whole)), time)
        chain = Chain(
            prior, record, time, plan_windows(observed, record.sizes[time], *sizes), period, reading, options,
            stepper, pick_guidance(guidance, prior), sampler == "auto" and steps is None and redraw > 0,
        )  # fmt: skip
        if out is None:
            return _in_memory(chain, prior, sizes)
        return _in_store(chain, prior, sizes, out, observed, overwrite)


def _in_memory(chain: Chain, prior: Prior, sizes: tuple[int, int, int]) -> xr.Dataset:
    """Draw the members and return them."""
    grid, numbers = Grid.match(prior.layout, chain.record), chain.options.numbers
    kept = Memory(grid.fields, numbers, chain.time)
    _draw(chain, prior, kept)
    return _labelled(chain, grid, prior, sizes, [kept.arrays[f.name] for f in grid.fields])


def _in_store(
    chain: Chain, prior: Prior, sizes: tuple[int, int, int], out: str | Path, observed: int, overwrite: bool
) -> xr.Dataset:
    """Draw the members that a store lacks, and return those of this call as they are in it."""
    grid, numbers = Grid.match(prior.layout, chain.record), list(chain.options.numbers)
    empty = [np.broadcast_to(np.zeros((), f.dtype), (len(numbers), *f.shape)) for f in grid.fields]
    template = _labelled(chain, grid, prior, sizes, empty)
    chunk = member_chunks(len(numbers), chain.options.chunks, grid.core_dims) or 1
    with open_store(
        out, template, time=chain.time, run=_description(chain, prior, sizes),
        chunks={"member": chunk, chain.time: sizes[0]}, overwrite=overwrite,
    ) as store:  # fmt: skip
        _reopen(store, chain.windows, observed, template)
        try:
            _draw(chain, prior, store)
        except BaseException as error:
            error.add_note(f"Settled states are kept in {out}; the same call continues")
            raise
        ds = store.dataset()
    return ds if ds["member"].values.tolist() == numbers else ds.sel(member=numbers)


def _sizes(prior: Prior, states: int, window: int | None, lag: int | None, overlap: int | None) -> tuple[int, int, int]:
    """Return window, lag and overlap; raise unless they fit each other, the prior and the record."""
    if window is None:
        window = prior.length or min(states, max(WINDOW, 4 * prior.window))
    window = whole_number("window", window, least=2)
    if prior.length is not None and window != prior.length:
        raise ValueError(
            f"window={window}, but this prior describes trajectories of exactly {prior.length} states; use that"
        )
    if window < prior.window:
        raise ValueError(
            f"window={window} is shorter than the window of this prior ({prior.window}); use at least that"
        )
    if states < window:
        raise ValueError(
            f"the record has {states} states, fewer than window={window}; use assimilate, or a smaller window"
        )
    lag = whole_number("lag", window // 4 if lag is None else lag, least=0)
    if lag >= window - 1:
        raise ValueError(f"lag={lag} must be at least two smaller than window={window}, so that each window goes on")
    if overlap is None:
        own = (window - lag) // 3 if base_of(prior.denoiser) is not None else prior.window - 1
        overlap = max(1, min(own, window - lag - 1))
    overlap = whole_number("overlap", overlap, least=1)
    if overlap + lag >= window:
        raise ValueError(f"overlap={overlap} and lag={lag} fill window={window}; together they must be smaller")
    return window, lag, overlap


def _states_of(name: str, length: str | int | timedelta, whole: Grid) -> int:
    """Return an option, a number of states or a length of time, as a number of states."""
    time = whole.core_dims[0]
    if not isinstance(length, str | timedelta | np.timedelta64):
        return whole_number(name, length, least=0)
    if not is_datelike(whole.template[time]):
        raise ValueError(f"{name}={length!r} is a length of time, but {time!r} holds no dates; give a number of states")
    try:
        seconds = pd.Timedelta(length).total_seconds()  # NaN for "NaT"
    except ValueError:
        seconds = np.nan
    if np.isnan(seconds):
        raise ValueError(f"{name}={length!r} is no length of time; use one such as '2D' or '6h', or a number of states")
    numbers = whole.numbers(time)
    steps = seconds / float(numbers[1] - numbers[0])
    if steps < 0 or abs(steps - round(steps)) > 1e-6:
        raise ValueError(
            f"{name}={length!r} must be a positive multiple of the time step ({numbers[1] - numbers[0]:g} s)"
        )
    return round(steps)


def _extended(whole: Grid, more: int) -> xr.Dataset:
    """Return a record with more states; coordinates without even steps, known only of its own states, are left out."""
    time, ds = whole.core_dims[0], whole.template
    if not more:
        return ds
    n, values = ds.sizes[time], ds[time].values
    others = [c for c, v in ds.coords.items() if time in v.dims and c != time]
    later = values[-1] + (values[-1] - values[-2]) * np.arange(1, more + 1)
    if is_datelike(ds[time]) and np.ptp(step := np.diff(whole.numbers(time))) > 1e-3 * step[0]:  # calendar months
        freq, calendar = xr.infer_freq(ds[time]), ds[time].dt.calendar
        if freq is None:
            raise ValueError("the dates of the record have no frequency with which a forecast can go on; use horizon=0")
        index = xr.date_range(
            values[-1], periods=more + 1, freq=freq, calendar=calendar, use_cftime=values.dtype == "O"
        )
        later = index.values[1:]
    longer = ds.drop_vars(others).isel({time: np.minimum(np.arange(n + more), n - 1)})
    longer = longer.assign_coords({time: (time, np.concatenate([values, later]), ds[time].attrs, ds[time].encoding)})
    return longer.assign_coords({c: v for c in others if (v := _onward(ds[c].variable, more)) is not None})


def _onward(v: xr.Variable, more: int) -> xr.Variable | None:
    """Return a coordinate over time, such as ``valid_time``, with more states; None if it has no even steps."""
    if v.ndim > 1 or v.dtype.kind not in "iufmM":
        return None
    values, steps = v.values, np.diff(v.values)
    if not (np.allclose(steps, steps[0], rtol=1e-6, atol=0) if v.dtype.kind == "f" else (steps == steps[0]).all()):
        return None
    later = values[-1] + steps[0] * np.arange(1, more + 1)
    return xr.Variable(v.dims, np.concatenate([values, later]), v.attrs, v.encoding)


def _without_values(ds: xr.Dataset, time: str) -> xr.Dataset:
    """Replace the values of variables over time, which are not read, by missing ones that need no memory."""
    import dask.array as da

    empty = {
        name: v.variable.copy(data=da.full(v.shape, np.nan, dtype=np.result_type(v.dtype, np.float32), chunks=-1))
        for name, v in ds.data_vars.items()
        if time in v.dims and v.dtype.kind in "fiub"
    }
    return ds.assign(empty)


def _labelled(chain: Chain, grid: Grid, prior: Prior, sizes: tuple[int, int, int], arrays: Sequence[Any]) -> xr.Dataset:
    """Label the arrays (member, ...) of the whole record."""
    numbers = list(chain.options.numbers)
    member = xr.DataArray(numbers, dims="member", attrs={"standard_name": "realization", "units": "1"})
    window, lag, overlap = sizes
    return describe(grid.label(arrays, {"member": member}), grid, {
        "prior": prior.name, "prior_hash": prior.hash, "guidance": str(chain.guidance), "sampler": str(chain.sampler),
        "steps": chain.sampler.steps, "seed": chain.options.seed, "window": window, "lag": lag, "overlap": overlap,
    })  # fmt: skip


def _description(chain: Chain, prior: Prior, sizes: tuple[int, int, int]) -> dict[str, str]:
    """Describe what the members depend on. Of the observations, those of the first window count."""
    first = chain.windows[0]
    grid = prior.bind(chain.record.isel({chain.time: slice(first.start, first.stop)}))
    return {
        "prior_hash": prior.hash,
        "observations and errors (of the first window)": fingerprint(chain.likelihood(grid, 0)),
        "window, lag and overlap": str(sizes), "guidance": str(chain.guidance), "sampler": str(chain.sampler),
        "seed": str(chain.options.seed), "redraw": str(chain.options.redraw), "precision": chain.options.precision,
    }  # fmt: skip


def _reopen(store: EnsembleStore, windows: Sequence[Stretch], observed: int, template: xr.Dataset) -> None:
    """If the record of an earlier call was shorter, forget what its last windows settled without later observations."""
    before = int(store.notes.get(OBSERVED, observed))
    if before != observed:
        valid = max((w.settled for w in windows if w.stop <= before and w.stop < observed), default=0)
        members = store.members  # also those that this call does not draw
        late = [m for m, n in zip(members, store.complete(members), strict=True) if n > valid]
        if late:
            axis = {str(n): v.dims.index(store.time) for n, v in template.data_vars.items()}
            nothing = {n: np.empty((len(late), *template[n].shape[1:])).take([], axis[n]) for n in axis}
            store.write(nothing, late, valid)
    store.notes[OBSERVED] = observed


def _draw(chain: Chain, prior: Prior, kept: Memory | EnsembleStore) -> None:
    """Draw all members: in this process, or each chunk of them as one task of a cluster."""
    options, client = chain.options, current_client()
    numbers = list(options.numbers)
    parts = kept.parts(numbers, member_chunks(len(numbers), options.chunks, ()) or len(numbers))
    with member_bar(len(numbers), label="reanalysing", progress=options.progress) as bar:
        if client is not None and options.chunks is not None and isinstance(kept, EnsembleStore):
            from xsda.sampling.sending import send

            reference = refer(prior)
            send(client, [reference.file])
            for _ in on_cluster(client, partial(_on_worker, replace(chain, prior=reference), kept), parts, bar):
                pass
            return
        for part in parts:
            for share in chain.drawn(part, kept):
                bar.update(share)


def _on_worker(chain: Chain, store: EnsembleStore, members: Sequence[int]) -> None:
    """Draw a chunk of members in a process of a cluster."""
    with take(chain.options.device), without_repeats():
        deque(chain.drawn(members, store), maxlen=0)
