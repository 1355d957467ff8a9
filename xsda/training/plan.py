"""Checks the options of a training, and chooses those that are left open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr
from torch import nn

from xsda.arguments import choose
from xsda.diffusion.denoisers import PARAMETERIZATIONS
from xsda.labels.layout import SAMPLE_DIMS, Layout
from xsda.priors.normals import point_scaling
from xsda.training.balancing import check_balance
from xsda.training.geo import GEO, static_names, training_layout
from xsda.training.training_options import TrainingOptions

REGIONAL: dict[str, Any] = {  # options for regional fields, where a record is short
    "steps": 1000, "batch_size": 4, "learning_rate": 1e-2, "warmup": 50, "ema": 0.99,
    "noise_center": 1.0, "noise_width": 1.7, "validate_every": 60, "validation_batches": 8, "patience": 4,
}  # fmt: skip
WIDTH, STATES, DAY, PARTS = 16, 12, 86400.0, 15  # of regional fields: width, window, and record over window at least


@dataclass(frozen=True)
class Plan:
    """What a training does.

    Parameters
    ----------
    settings
        Options of the training.
    layout
        Variables and axes, without scaling.
    network
        Name, description or module.
    width
        Features of a network given by name.
    window
        Number of states of a training sample.
    anchored
        Whether the network corrects a Gaussian.
    rehearsals
        Number of windows for which ensembles are drawn at the end.
    """

    settings: TrainingOptions
    layout: Layout
    network: str | Mapping[str, Any] | nn.Module
    width: int | None
    window: int
    anchored: bool
    rehearsals: int


def planned(
    ds: xr.Dataset,
    *,
    window: int | None = None,
    network: str | Mapping[str, Any] | nn.Module = "auto",
    width: int | None = None,
    anchor: bool | str = "auto",
    periodic: Sequence[str] = (),
    space: Sequence[str] | None = None,
    context: str | Sequence[str] | None = None,
    time_features: Sequence[str] = (),
    scaling: str = "auto",
    mask: xr.DataArray | None = None,
    parameterization: str = "edm",
    balance: int = 0,
    rehearsals: int | None = None,
    **options: Any,
) -> Plan:
    """Check the options for data like these, and choose those that are left open. See ``xsda.train``."""
    unknown = [k for k in options if k not in TrainingOptions.__dataclass_fields__]
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}; {choose(unknown[0], TrainingOptions.__dataclass_fields__)}")
    for key, number, least in (
        ("window", 1 if window is None else window, 1),
        ("width", 1 if width is None else width, 1),
        ("balance", balance, 0),
        ("rehearsals", 0 if rehearsals is None else rehearsals, 0),
    ):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f"{key}={number!r} must be an integer of at least {least}")
    if parameterization not in PARAMETERIZATIONS:
        raise ValueError(
            f"parameterization={parameterization!r} is unknown; {choose(parameterization, PARAMETERIZATIONS)}"
        )
    if anchor not in (True, False, "auto"):
        raise ValueError(f"anchor={anchor!r} must be True, False or 'auto'")
    periodic, time_features = ((n,) if isinstance(n, str) else tuple(n) for n in (periodic, time_features))
    named = (context,) if isinstance(context, str) else tuple(context or ())
    given: dict[str, Any] = {"periodic": periodic, "space": space, "time_features": time_features}
    static = static_names(ds, named if context is not None else (GEO,), space)
    layout = training_layout(ds, context=named or static, **given)
    if GEO in named and not (layout.position or layout.time_features or layout.context):
        raise ValueError(
            "context='geo' finds nothing in these data: no coordinates along an axis that is not periodic, no dates "
            "that resolve a cycle, and no orography; omit it"
        )
    regional = bool(layout.space) and (mask is not None or point_scaling(ds, layout, scaling))
    automatic = isinstance(network, str) and network == "auto"
    anchored = regional and automatic if anchor == "auto" else bool(anchor)
    if anchored and not regional:
        raise ValueError(
            "anchor=True is for fields whose points have their own mean: latitudes and longitudes, a mask, or "
            "scaling='point'"
        )
    plain = {"balance": balance, "shortest": options.get("shortest"), "parameterization": parameterization != "edm"}
    for key in (k for k, used in plain.items() if anchored and used):
        raise ValueError(f"{key} is for networks that are not anchored; omit it, or pass anchor=False")
    if context is None:
        layout = training_layout(ds, context=(GEO,) if anchored else (), **given)
    if balance:
        check_balance(layout)
    settings = TrainingOptions(**({**REGIONAL, **options} if anchored else options))
    if automatic:
        network, width = ("spacetime", width or WIDTH) if anchored else ("temporal", width)
    if window is None:
        window = _window(ds, layout) if anchored else 5
    if settings.shortest is not None and not 1 <= settings.shortest <= window:
        raise ValueError(f"shortest={settings.shortest} must lie between 1 and window={window}")
    return Plan(
        settings, layout, network, width, window, anchored, (4 if anchored else 0) if rehearsals is None else rehearsals
    )


def _window(ds: xr.Dataset, layout: Layout) -> int:
    """A day of hourly data, otherwise STATES; at most one part in PARTS of the record, if it has few trajectories."""
    day = round(DAY / layout.dt) if layout.dates and layout.dt else 0
    wanted = day if STATES < day <= 2 * STATES else STATES
    states = ds.sizes[layout.time]
    several = any(ds.sizes.get(d, 0) >= 10 for d in SAMPLE_DIMS)
    return max(1, min(wanted, states // 2 if several else states // PARTS))
