"""Defines the layout of a prior: its variables, their scaling, and its axes.

A layout that is matched with a user's Dataset becomes a ``Grid`` (``xsda.labels.grid``), which converts labelled
Datasets to tensors and back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr

from xsda.arguments import choose
from xsda.labels.axes import (
    axis_numbers,
    check_sorted,
    check_time_features,
    find_axes,
    is_datelike,
    own_period,
)
from xsda.labels.cf import find_scale, helper_variables
from xsda.labels.climatology import Normals
from xsda.labels.curvilinear import check_set_as_coordinates
from xsda.labels.sphere import check_meridians, component_sign, find_poles
from xsda.labels.static import positions
from xsda.labels.steps import record_step

KEPT_ATTRS = ("units", "standard_name", "long_name")
FLAT = 1e-12  # a field with a smaller standard deviation, relative to its largest value, is constant
SAMPLE_DIMS = ("trajectory", "member")


@dataclass(frozen=True)
class Variable:
    """One variable of a prior: a single channel, or one channel for each entry of ``channel_dim``.

    Parameters
    ----------
    name
        Name of the variable.
    mean, std
        Mean and standard deviation of each channel.
    channel_dim
        The dimension of its channels, such as pressure levels; None for a single channel.
    labels
        Coordinates along ``channel_dim``.
    attrs
        Attributes ``units``, ``standard_name`` and ``long_name``.
    """

    name: str
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channel_dim: str | None = None
    labels: tuple[Any, ...] = ()
    attrs: Mapping[str, str] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        return len(self.mean)


@dataclass(frozen=True)
class Axis:
    """A space axis of a prior.

    Parameters
    ----------
    name
        Name of the dimension.
    size
        Number of points.
    spacing
        Distance between points.
    period
        Length of the ring; None if the axis is not periodic.
    points
        Ascending coordinates of the training data; empty if they had none, or in old files.
    poles
        "on_poles" or "between_poles" for latitudes of a whole globe, as ``xsda.labels.sphere.find_poles`` says;
        otherwise None.
    """

    name: str
    size: int
    spacing: float
    period: float | None = None
    points: tuple[float, ...] = ()
    poles: str | None = None


@dataclass(frozen=True)
class Layout:
    """Variables, scaling and axes of a prior.

    Parameters
    ----------
    variables
        The variables, in the order of their channels.
    space
        Space axes, in the order of the tensor.
    time
        Name of the time dimension.
    dt
        Time step, in seconds for dates and in the units of the coordinate otherwise.
    dates
        Whether the prior was trained on dates.
    context
        Static fields that the network reads in addition to the state, scaled like variables.
    time_features
        Functions of the date that the network reads: any of "hour_of_day", "day_of_year".
    normals
        Mean, standard deviation and mask of each grid point; None if one mean and standard deviation of each channel
        are enough. They refer to the points of the axes.
    position
        Coordinates that the network reads, scaled like variables: components of the unit vector on the globe, or the
        names of axes. Each grid computes them, as ``xsda.labels.static`` says.

    Examples
    --------
    >>> from xsda.labels import Layout
    >>> layout = Layout.of(weather)
    >>> layout.names, [axis.name for axis in layout.space], layout.dt
    (('t2m',), ['lat', 'lon'], 21600.0)
    """

    variables: tuple[Variable, ...]
    space: tuple[Axis, ...] = ()
    time: str = "time"
    dt: float | None = None
    dates: bool = False
    context: tuple[Variable, ...] = ()
    time_features: tuple[str, ...] = ()
    normals: Normals | None = None
    position: tuple[Variable, ...] = ()

    @classmethod
    def of(
        cls,
        ds: xr.Dataset,
        *,
        periodic: Sequence[str] = (),
        space: Sequence[str] | None = None,
        context: Sequence[str] = (),
        time_features: Sequence[str] = (),
        position: bool = False,
        sample_dims: Sequence[str] = SAMPLE_DIMS,
        even: bool = True,
    ) -> Layout:
        """Derive a layout from a Dataset, with mean 0 and standard deviation 1.

        Parameters
        ----------
        ds
            Trajectories.
        periodic
            Names of periodic dimensions.
        space
            Names of the space dimensions. Default: found by attributes and names.
        context
            Names of static fields.
        time_features
            Time features, as above.
        position
            Whether the network reads the position of each grid point.
        sample_dims
            Dimensions along which there are several trajectories.
        even
            Whether the time axis must have even steps (gaps of whole steps, and calendar months, are allowed). If not,
            the layout has no time step.

        Returns
        -------
        Layout
            The layout. Helper variables, such as cell bounds and standard errors, are left out.
        """
        time, found = find_axes(ds)
        dims = tuple(space) if space is not None else found
        for name in (*dims, *periodic):
            if name in periodic and name in ds.dims and name not in dims:
                raise ValueError(f"periodic={name!r} is not a space dimension; pass space=({name!r},) as well")
            if name not in ds.dims:
                raise ValueError(
                    f"no dimension {name!r} in the Dataset, which has {tuple(ds.sizes)}; {choose(name, ds.dims)}"
                )
        numbers = axis_numbers(ds[time]) if time in ds.coords else np.arange(ds.sizes[time], dtype=float)
        check_sorted(numbers, time)
        dt = None
        if even and len(numbers) > 1:
            dt = record_step(ds[time]) if time in ds.coords else 1.0
        axes = []
        for name in dims:
            check_meridians(ds, name)
            x = np.sort(axis_numbers(ds[name])) if name in ds.coords else np.arange(ds.sizes[name], dtype=float)
            spacing = float(np.median(np.diff(x))) if len(x) > 1 else 1.0
            period = spacing * len(x) if name in periodic else own_period(ds, name, spacing)
            axes.append(Axis(name, len(x), spacing, period, tuple(x.tolist()) if name in ds.coords else ()))
        if len(axes) == 2:
            axes = [replace(a, poles=find_poles(ds, a.name, b.name)) for a, b in (axes, axes[::-1])]
        fixed = tuple(_context(ds, v, dims) for v in context)
        others = {*context, *helper_variables(ds)}
        check_set_as_coordinates(ds.drop_vars(others, errors="ignore").drop_dims([time, *sample_dims], errors="ignore"))
        variables = [_variable(ds[v], (time, *dims), sample_dims) for v in ds.data_vars if v not in others]
        if not variables:
            raise ValueError(f"the Dataset has no variables over {(time, *dims)}")
        dates = time in ds.coords and is_datelike(ds[time])
        check_time_features(time_features, dates)
        rings = [a.name for a in axes if a.period]
        places = positions(ds, dims, rings) if position else {}
        own = tuple(_scaled_field(name, field) for name, field in places.items())
        return cls(tuple(variables), tuple(axes), time, dt, dates, fixed, tuple(time_features), position=own)

    @property
    def channels(self) -> int:
        return sum(v.channels for v in self.variables)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.variables)

    @property
    def context_channels(self) -> int:
        masks = self.channels if self.normals is not None and self.normals.masked else 0
        return len(self.context) + len(self.position) + 2 * len(self.time_features) + masks

    @property
    def mean(self) -> np.ndarray:
        return np.concatenate([v.mean for v in self.variables])

    @property
    def std(self) -> np.ndarray:
        return np.concatenate([v.std for v in self.variables])

    @property
    def signs(self) -> tuple[int, ...]:
        """Sign of each channel beyond a pole: -1 for components of vectors on a globe, otherwise 1."""
        globe = any(a.poles for a in self.space)
        return tuple(component_sign(v.name, v.attrs) if globe else 1 for v in self.variables for _ in v.mean)

    def scaled(self, mean: Sequence[float], std: Sequence[float]) -> Layout:
        """Return the layout with this mean and standard deviation for each channel."""
        variables, start = [], 0
        for v in self.variables:
            part = slice(start, start + v.channels)
            variables.append(replace(v, mean=tuple(map(float, mean[part])), std=tuple(map(float, std[part]))))
            start += v.channels
        return replace(self, variables=tuple(variables))

    def in_units(self, units: Mapping[str, Any]) -> Layout:
        """Return the layout with its variables in these units, converted where both units are known."""
        variables = []
        for v in self.variables:
            wanted = units.get(v.name)
            factor, offset = find_scale(v.name, v.attrs.get("units"), wanted, "the grid")
            if wanted is not None and "units" not in v.attrs:  # then the prior is taken to be in the units of the grid
                v = replace(v, attrs={**v.attrs, "units": str(wanted)})
            if (factor, offset) != (1.0, 0.0):
                mean, std = tuple(factor * m + offset for m in v.mean), tuple(abs(factor) * s for s in v.std)
                v = replace(v, mean=mean, std=std, attrs={**v.attrs, "units": str(wanted)})
            variables.append(v)
        return replace(self, variables=tuple(variables))

    def slices(self) -> dict[str, slice]:
        """Return the channels of each variable."""
        out, start = {}, 0
        for v in self.variables:
            out[v.name] = slice(start, start + v.channels)
            start += v.channels
        return out

    def to_json(self) -> dict[str, Any]:
        """Describe the layout; what is not known is left out, and the arrays of the normals are stored beside it."""
        out = asdict(replace(self, normals=None))
        del out["normals"]
        for axis in out["space"]:
            for name in ("points", "poles"):
                if not axis[name]:
                    del axis[name]
        if not self.position:
            del out["position"]
        return out if self.normals is None else {**out, "normals": {"cycles": list(self.normals.cycles)}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], normals: Mapping[str, Any] | None = None) -> Layout:
        """Read what ``to_json`` returned, with the tensors of the normals."""
        about = data.get("normals")
        parts = {
            key: tuple(Variable(**{**v, **{k: tuple(v[k]) for k in ("mean", "std", "labels")}}) for v in data[key])
            for key in ("variables", "context", "position")
            if key in data
        }
        space = tuple(Axis(**{**a, "points": tuple(a.get("points", ()))}) for a in data["space"])
        own = Normals.from_tensors(normals or {}, about["cycles"]) if about else None
        features = tuple(data["time_features"])
        return cls(**{**data, **parts, "space": space, "time_features": features, "normals": own})


def sample_dim(ds: xr.Dataset) -> str | None:
    """Return the dimension along which a Dataset holds several trajectories; None if it holds one."""
    found = [d for d in SAMPLE_DIMS if d in ds.dims]
    if len(found) > 1:
        raise ValueError(
            f"the data have the dimensions {found}, expected at most one of them; use .stack(trajectory={found})"
        )
    return found[0] if found else None


def _variable(da: xr.DataArray, core: Sequence[str], sample_dims: Sequence[str]) -> Variable:
    """Describe one variable, not yet scaled."""
    lacking = [d for d in core if d not in da.dims]
    if lacking:
        raise ValueError(
            f"variable {da.name!r} lacks the dimension {lacking[0]!r} of the trajectory; drop it, or pass it as "
            "context=... if it is a static field"
        )
    extra = [str(d) for d in da.dims if d not in {*core, *sample_dims}]
    if len(extra) > 1:
        raise ValueError(
            f"variable {da.name!r} has the dimensions {extra} in addition to time and space, where only one (its "
            "channels) is possible. Mark space dimensions with the attribute axis='X' / 'Y', or pass space=(...)."
        )
    attrs = _kept(da)
    if not extra:
        return Variable(str(da.name), attrs=attrs)
    size = da.sizes[extra[0]]
    labels = tuple(np.asarray(da[extra[0]].values).tolist()) if extra[0] in da.coords else ()
    return Variable(str(da.name), (0.0,) * size, (1.0,) * size, extra[0], labels, attrs)


def _context(ds: xr.Dataset, name: str, space: Sequence[str]) -> Variable:
    """Describe a static field, with its own mean and standard deviation."""
    if name not in ds:
        raise KeyError(f"context field {name!r} is not in the Dataset; {choose(name, ds.data_vars)}")
    if set(ds[name].dims) != set(space):
        raise ValueError(
            f"context field {name!r} has the dimensions {ds[name].dims}, expected {tuple(space)}: a static field"
        )
    return _scaled_field(name, ds[name])


def _scaled_field(name: str, field: xr.DataArray) -> Variable:
    """Describe a field with its mean and standard deviation, which is 1 if the field is constant."""
    values = field.astype(np.float64)
    mean, std = float(values.mean()), float(values.std())
    flat = std <= FLAT * float(abs(values).max())
    return Variable(name, (mean,), (1.0 if flat else std,), attrs=_kept(field))


def _kept(da: xr.DataArray) -> dict[str, str]:
    return {k: str(da.attrs[k]) for k in KEPT_ATTRS if k in da.attrs}
