"""A prior: a denoiser of trajectories with its layout and its provenance, stored in one file."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import xarray as xr
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from xsda.arguments import warn
from xsda.diffusion.anchored import Anchored
from xsda.diffusion.balance import Balance, Balanced
from xsda.diffusion.denoisers import Denoiser, Preconditioned
from xsda.diffusion.error import ErrorCurve
from xsda.diffusion.schedules import SCHEDULES, Schedule
from xsda.files import replacing
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.labels.requirements import check_order, check_region, check_rings, check_spacing, check_time
from xsda.nn import WindowMLP, build_network, network_config, network_identity
from xsda.priors.eof import EofDenoiser
from xsda.priors.exact import ExactDenoiser, GaussianDenoiser, MixtureDenoiser
from xsda.priors.header import FORMAT, NETWORKED, check_header, check_network, read_header
from xsda.priors.separable import SeparableDenoiser
from xsda.version import __version__

Item = TypeVar("Item")
EXACT: dict[str, type[ExactDenoiser]] = {
    c.__name__: c for c in (GaussianDenoiser, MixtureDenoiser, SeparableDenoiser, EofDenoiser)
}


class Prior:
    """A diffusion model of labelled trajectories.

    Parameters
    ----------
    denoiser
        E[x_0 | x_t] of standardised trajectories ``(batch, time, channel, *space)``.
    layout
        Variables, scaling and axes.
    window
        Number of states of the shortest trajectory that the denoiser accepts.
    length
        The only number of states that it accepts, if there is only one.
    error
        The denoiser's own error at each noise level.
    info
        Provenance: training data, options, validation loss.
    name
        Name of the prior in results.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        layout: Layout,
        *,
        window: int = 1,
        length: int | None = None,
        error: ErrorCurve | None = None,
        info: Mapping[str, Any] | None = None,
        name: str = "unnamed",
    ):
        self.denoiser = denoiser.eval().requires_grad_(False)
        self.layout = layout
        self.window = window
        self.length = length
        self.error = error
        self.info = dict(info or {})
        self.name = name
        self.path: Path | None = None
        self.path_hash: str | None = None  # the fingerprint of the file at ``path``

    @property
    def schedule(self) -> Schedule:
        """The diffusion process."""
        return self.denoiser.schedule

    @property
    def exact(self) -> bool:
        """Whether the denoiser is a closed form rather than a network."""
        return isinstance(self.denoiser, ExactDenoiser)

    @property
    def any_size(self) -> bool:
        """Whether the denoiser accepts fields of any size (convolutions do)."""
        network = getattr(self.denoiser, "network", None)
        return (
            network is not None
            and not isinstance(self.denoiser, Anchored)
            and not isinstance(getattr(network, "local", network), WindowMLP)
        )

    @property
    def hash(self) -> str:
        """A fingerprint of the weights and the description."""
        digest = hashlib.sha256(json.dumps(self._description(), sort_keys=True, default=str).encode())
        for key, value in sorted(self._tensors().items()):
            digest.update(key.encode())
            digest.update(value.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def __dask_tokenize__(self) -> tuple[str, str]:
        return type(self).__name__, self.hash

    def __repr__(self) -> str:
        lines = [f"<xsda.Prior {self.name!r} ({self.hash})>", f"  variables  {', '.join(self.layout.names)}"]
        if self.layout.space:
            lines.append(f"  space      {', '.join(f'{a.name}: {a.size}' for a in self.layout.space)}")
        if self.layout.dt is not None:
            lines.append(f"  time step  {self.layout.dt:g}{' s' if self.layout.dates else ''}")
        if self.length is not None:
            lines.append(f"  states     exactly {self.length}")
        lines.append(f"  denoiser   {type(getattr(self.denoiser, 'network', self.denoiser)).__name__}, {self.schedule}")
        return "\n".join(lines + [f"  {k:<10} {v}" for k, v in self.info.items()])

    def bind(self, ds: xr.Dataset) -> Grid:
        """Match a Dataset with this prior; raise if they do not fit."""
        grid = Grid.match(self.layout, ds)
        check_time(grid)
        check_rings(grid)
        grid.context()
        length = grid.shape[0]
        if self.length is not None and length != self.length:
            other = f"fit one with length={length}" if self.exact else f"train one with window={length}"
            raise ValueError(
                f"this prior describes trajectories of exactly {self.length} states, the grid has {length}; select "
                f"{self.length} states (.isel), or {other}"
            )
        if length < self.window:
            raise ValueError(
                f"the grid has {length} states along {grid.core_dims[0]!r}, fewer than the window of this prior "
                f"({self.window}); extend the time axis"
            )
        if self.length is not None:
            check_order(grid)
        elsewhere = "; ".join(check_region(grid))
        if elsewhere and self.length is not None:
            raise ValueError(f"{elsewhere}; this prior describes its own region: select it on the grid")
        if elsewhere:
            warn(f"{elsewhere}; the prior was not trained there", UserWarning)
        if beyond := grid.beyond_mask():
            warn(
                f"the grid has values at {beyond} points where this prior has none (its mask, such as land); they are "
                "missing in the result",
                UserWarning,
            )
        notes = "; ".join(check_spacing(grid))
        if notes and not self.any_size:
            raise ValueError(f"the grid does not fit the prior: {notes}. Put the grid on the prior's points")
        if notes:
            warn(f"the grid differs from the prior's: {notes}; the prior extrapolates", UserWarning)
        return grid

    def unbalanced(self) -> Prior:
        """Return this prior without the energy correction of ``xsda.balance``, for other samplers."""
        if not isinstance(self.denoiser, Balanced):
            return self
        other = copy.copy(self)
        other.denoiser = self.denoiser.plain
        other.info = {k: v for k, v in self.info.items() if k != "balanced_over"}
        return other

    @property
    def _plain(self) -> Denoiser:
        """The denoiser without its energy correction, which is stored beside it."""
        return self.denoiser.plain if isinstance(self.denoiser, Balanced) else self.denoiser

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"denoiser.{k}": v.detach().cpu() for k, v in self._plain.state_dict().items()}
        if self.error is not None:
            tensors |= {"error.levels": self.error.levels, "error.rms": self.error.rms}
            tensors |= {} if self.error.lag is None else {"error.lag": self.error.lag}
        if self.layout.normals is not None:
            tensors |= {f"normals.{k}": v for k, v in self.layout.normals.tensors().items()}
        if isinstance(self.denoiser, Balanced):
            tensors |= {f"balance.{k}": v for k, v in vars(self.denoiser.balance).items()}
        return tensors

    def _description(self) -> dict[str, Any]:
        d = self._plain
        kind: dict[str, Any] = {"kind": type(d).__name__, "schedule": d.schedule.config()}
        if isinstance(d, Preconditioned):
            kind |= {
                "network": network_identity(d.network),
                "parameterization": d.parameterization,
                "data_std": d.data_std,
            }
        if isinstance(d, Anchored):
            kind["base"] = type(d.base).__name__
        return {
            "format": FORMAT, "denoiser": kind, "layout": self.layout.to_json(), "window": self.window,
            "length": self.length, "info": self.info,
        }  # fmt: skip

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the prior to a safetensors file, which ``xsda.load_model`` reads.

        The file holds the weights and a description in JSON. It is written whole or not at all.

        Parameters
        ----------
        path
            The file to write, by convention with the suffix .safetensors.
        overwrite
            Replace an existing file. Without it an existing file raises an error.

        Returns
        -------
        Path
            The path of the file.

        Examples
        --------
        >>> import xsda
        >>> model = xsda.load_model("lorenz63")
        >>> path = model.save("mine.safetensors")  # doctest: +SKIP
        >>> xsda.load_model(path).hash == model.hash  # doctest: +SKIP
        True
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")
        with replacing(path) as temporary:
            self.write(temporary)
        return path

    def write(self, path: Path) -> None:
        """Write the file in place, without a temporary name and without a check of what is there."""
        if isinstance(self._plain, Preconditioned):
            network_config(self._plain.network)  # raises for a network that could not be read back
        elif type(self._plain).__name__ not in EXACT:
            raise ValueError(f"a denoiser of type {type(self._plain).__name__} cannot be stored in a file")
        meta = {**self._description(), "name": self.name, "xsda": __version__, "hash": self.hash}
        save_file({k: v.contiguous() for k, v in self._tensors().items()}, path, {"xsda": json.dumps(meta)})


def read_prior(path: str | os.PathLike[str]) -> Prior:
    """Read a file that ``Prior.save`` wrote. Nothing is unpickled, and the file is checked before memory is taken."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no prior at {path}")
    try:
        with safe_open(os.fspath(path), "pt") as file:
            text = (file.metadata() or {}).get("xsda")
            shapes = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or is truncated ({error}); get it again") from error
    meta = read_header(path, text)
    try:
        check_header(meta)
        if meta["denoiser"]["kind"] in NETWORKED:
            check_network(meta["denoiser"]["network"], _part(shapes, "denoiser.network."))
        prior = _build(meta, load_file(path))
        fingerprint = prior.hash
    except Exception as error:  # a forged description can make these classes raise anything
        reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ValueError(f"the prior in {path} is incomplete or damaged: {reason}") from error
    if meta["hash"] != fingerprint:
        raise ValueError(f"the prior in {path} is damaged: its fingerprint is not the one stored with it; get it again")
    prior.path, prior.path_hash = path.resolve(), fingerprint
    return prior


def _part(items: Mapping[str, Item], prefix: str) -> dict[str, Item]:
    """Return the items whose names begin with ``prefix``, without the prefix."""
    return {k.removeprefix(prefix): v for k, v in items.items() if k.startswith(prefix)}


def _build(meta: dict[str, Any], tensors: dict[str, Tensor]) -> Prior:
    kind = meta["denoiser"]
    options = dict(kind["schedule"])
    schedule = SCHEDULES[options.pop("name")](**options)
    state = _part(tensors, "denoiser.")
    layout = Layout.from_json(meta["layout"], _part(tensors, "normals."))
    _check_curves({k: tuple(v.shape) for k, v in tensors.items()}, layout)
    denoiser: Denoiser
    masked = layout.normals is not None and layout.normals.masked
    if kind["kind"] == "Preconditioned":
        network = build_network(kind["network"])
        denoiser = Preconditioned(network, schedule, kind["parameterization"], kind["data_std"], masked)
        denoiser.load_state_dict(state)
        if "balance.rate" in tensors:
            parts = ("levels", "wavenumbers", "rate")
            denoiser = Balanced(denoiser, Balance(*(tensors[f"balance.{k}"] for k in parts)))
    elif kind["kind"] == "Anchored":
        base = _exact(kind["base"], _part(state, "base."), schedule, meta, layout)
        own = ErrorCurve(state["levels"], state["rms"])
        denoiser = Anchored(build_network(kind["network"]), base, own, state["gate"], state["root"], masked)
        denoiser.load_state_dict(state)
    else:
        denoiser = _exact(kind["kind"], state, schedule, meta, layout)
    error = None
    if "error.levels" in tensors:
        error = ErrorCurve(tensors["error.levels"], tensors["error.rms"], tensors.get("error.lag"))
    return Prior(
        denoiser,
        layout,
        window=meta["window"],
        length=meta["length"],
        error=error,
        info=meta["info"],
        name=meta["name"],
    )


def _exact(
    kind: str, state: dict[str, Tensor], schedule: Schedule, meta: Mapping[str, Any], layout: Layout
) -> ExactDenoiser:
    """Make a denoiser in closed form, of the shape that the layout describes."""
    denoiser = EXACT[kind].from_state(state, schedule)
    states = tuple(torch.as_tensor(denoiser.shape).tolist())
    described = (meta["length"], layout.channels, *(a.size for a in layout.space))
    if states != described:
        raise ValueError(f"its states have the shape {states}, its layout describes {described}")
    return denoiser


def _check_curves(shapes: Mapping[str, tuple[int, ...]], layout: Layout) -> None:
    """Raise unless the curves over noise levels or wavenumbers have the shapes that this layout needs."""
    names = ("error.levels", "denoiser.levels", "balance.levels", "balance.wavenumbers")
    for name in names:
        if name in shapes and (len(shapes[name]) != 1 or shapes[name][0] < 2):
            raise ValueError(f"its tensor {name!r} has the shape {shapes[name]}, expected one axis of 2 or more values")
    errors, bases, rates, waves = (shapes.get(n, ()) for n in names)
    needed = {
        "error.rms": (*errors, layout.channels),
        "error.lag": (*errors, 1 + len(layout.space)),
        "denoiser.rms": (*bases, layout.channels),
        "denoiser.gate": bases,
        "denoiser.root": (),
        "balance.rate": (*rates, layout.channels, *waves),
    }
    for name, shape in needed.items():
        if name in shapes and shapes[name] != shape:
            raise ValueError(f"its tensor {name!r} has the shape {shapes[name]}, its layout needs {shape}")
