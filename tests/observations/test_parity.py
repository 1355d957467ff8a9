"""Every consumer of labelled observations reads them alike: each has the same chi-square of the same state.

``ACCEPTED`` is the table of what each of them takes; what it does not take it refuses in one sentence.
"""

import numpy as np
import pytest
import torch
import xarray as xr

import xsda
from xsda.baselines import LETKF
from xsda.baselines.network import Network
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.likelihood import StudentT
from xsda.observations import compile_observations

TIME = np.arange(8.0)
SPEED = {"speed": lambda s: (s["u"] ** 2 + s["v"] ** 2).sqrt()}
SUM = {"total": lambda s: s["u"] + 2 * s["v"]}


def state():
    """One trajectory over time and x, of two variables."""
    rng = np.random.default_rng(0)
    field = {v: (("time", "x"), rng.normal(size=(8, 5)) + 3, {"units": "m s-1"}) for v in ("u", "v")}
    return xr.Dataset(field, {"time": TIME, "x": np.arange(5.0)})


def seen(name="u", at=(1, 4), shift=0.3):
    """A variable at some times, everywhere, off by ``shift``."""
    return state()[[name]].isel(time=list(at)) + shift


def with_attrs(ds, name, **attrs):
    ds[name].attrs |= attrs
    return ds


def ancillary():
    ds = with_attrs(seen(), "u", ancillary_variables="u_error")
    return ds.assign(u_error=xr.full_like(ds.u, 0.2).assign_attrs(standard_name="u standard_error"))


def speed(function, name):
    ds = state().isel(time=[2, 5])
    return xr.Dataset({name: function({v: ds[v] for v in ("u", "v")})}) + 0.1


LINES = {"radar": seen(), "buoy": seen("v", (0, 3))}
WHITE = {"x": 2.0}
FORMS = {  # observations, and what is said of them
    "one Dataset": (seen(), {"sigma": 0.5}),
    "a DataArray": (seen().u, {"sigma": 0.5}),
    "a list": ([seen(), seen("v")], {"sigma": 0.5}),
    "a mapping": (LINES, {"sigma": 0.5}),
    "sigma by variable": (LINES, {"sigma": {"u": 0.5, "v": 0.2}}),
    "sigma by source": (LINES, {"sigma": {"radar": 0.5, "buoy": 0.2}}),
    "sigma as an array": (seen(), {"sigma": xr.DataArray([0.5, 0.2], dims="time")}),
    "sigma from an ancillary variable": (ancillary(), {}),
    "sigma from an attribute": (with_attrs(seen(), "u", error_std=0.4), {}),
    "missing values": (seen().where(lambda d: d.x != 2), {"sigma": 0.5}),
    "other units": (with_attrs(3.6 * seen(), "u", units="km/h"), {"sigma": 1.8}),
    "stations": (seen().rename(x="station").assign_coords(x=("station", [0.0, 0.5, 1.2, 3.9, 4.0])).drop_vars("station"), {"sigma": 0.5}),
    "derived, nonlinear": (speed(lambda s: (s["u"] ** 2 + s["v"] ** 2) ** 0.5, "speed"), {"sigma": 0.5, "derived": SPEED}),
    "derived, linear": (speed(lambda s: s["u"] + 2 * s["v"], "total"), {"sigma": 0.5, "derived": SUM}),
    "correlation by variable": (LINES, {"sigma": 0.5, "correlation": {"u": WHITE}}),
    "correlation by source": (LINES, {"sigma": 0.5, "correlation": {"radar": {"u": WHITE}}}),
    "a law": (seen(), {"sigma": 0.5, "likelihood": StudentT(df=4)}),
    "a background": (seen(), {"sigma": 0.5, "background": state() + 0.2, "background_sigma": 0.7}),
}  # fmt: skip
ONE = {"one Dataset", "a DataArray", "sigma as an array", "sigma from an ancillary variable", "sigma from an attribute", "missing values",
       "other units", "stations", "derived, nonlinear", "derived, linear"}  # fmt: skip
MANY = ONE | {"a list", "a mapping", "sigma by variable", "sigma by source"}
CORRELATED = {"correlation by variable", "correlation by source"}
ACCEPTED = {
    "assimilate": set(FORMS),
    "filter": MANY | CORRELATED,
    "evaluate": MANY,
    "observe": ONE,
}


def by_assimilate(obs, **options):
    ds = state()
    layout = Layout.of(ds)
    grid = Grid.match(layout.scaled([1.0, 2.0], [3.0, 0.5]), ds)
    likelihood = compile_observations(grid, obs, **options)
    return float(likelihood.deviance(grid.to_tensor(ds)[None].double()))


def by_filter(obs, **options):
    ds = state()
    network = Network.of(Grid.match(Layout.of(ds), ds), obs, **options)
    total = 0.0
    for number, when in enumerate(network.numbers):
        x = torch.as_tensor(np.stack([ds[v].sel(time=when).values for v in ("u", "v")]))[None]
        total += float(network(number).innovations(x).square().sum())
    return total


def by_evaluate(obs, **options):
    counts = {}
    for source in (
        [obs] if isinstance(obs, xr.Dataset | xr.DataArray) else obs.values() if isinstance(obs, dict) else obs
    ):
        source = source.to_dataset() if isinstance(source, xr.DataArray) else source
        for v in source.data_vars:
            counts[v] = counts.get(v, 0) + int(source[v].notnull().sum())
    found = xsda.metrics.observation_chi_square(state(), obs, **options)
    return sum(float(found[v]) * counts[v] for v in found.data_vars)


def by_observe(obs, **options):
    sigma, seen_again = options.pop("sigma", None), None
    seen_again = state().sda.observe(obs, **options)
    obs = obs.to_dataset() if isinstance(obs, xr.DataArray) else obs
    (name,) = [v for v in obs.data_vars if not str(v).endswith("_error")]
    factor = 3.6 if obs[name].attrs.get("units") == "km/h" else 1.0
    sigma = obs[name].attrs.get("error_std", 0.2) if sigma is None else sigma
    return float((((factor * seen_again[name] - obs[name]) / sigma) ** 2).sum())


CONSUMERS = {"assimilate": by_assimilate, "filter": by_filter, "evaluate": by_evaluate, "observe": by_observe}


@pytest.mark.parametrize("form", FORMS)
def test_all_consumers_read_alike(form):
    obs, options = FORMS[form]
    found = {who: CONSUMERS[who](obs, **options) for who in CONSUMERS if form in ACCEPTED[who]}
    expected = found["assimilate"]
    assert expected > 0
    for who, value in found.items():
        assert value == pytest.approx(expected, rel=1e-4), who


@pytest.mark.parametrize("who", ["filter", "evaluate", "observe"])
def test_what_is_not_accepted_is_refused_in_one_sentence(who):
    ds = state()
    ensemble = xr.concat([ds, ds + 0.1, ds - 0.2], xr.DataArray([0, 1, 2], dims="member", name="member"))
    calls = {
        "filter": lambda obs, **o: ds.sda.filter(
            obs, lambda d, a, b: d, method=LETKF(localization=2.0), initial=ensemble.isel(time=0), progress=False, **o
        ),
        "evaluate": lambda obs, **o: ensemble.sda.evaluate(ds, obs=obs, **o),
        "observe": lambda obs, **o: ds.sda.observe(obs, **o),
    }
    for form in set(FORMS) - ACCEPTED[who]:
        obs, options = FORMS[form]
        with pytest.raises((TypeError, ValueError, KeyError)) as raised:
            calls[who](obs, **options)
        text = str(raised.value.args[0])
        assert "\n" not in text, form
        assert len(text) < 300, form


def test_duplicates_are_counted_once():
    obs = (
        seen()
        .isel(x=[0, 0, 1, 2, 2, 2])
        .rename(x="obs")
        .assign_coords(x=("obs", [0.0, 0, 1, 2, 2, 2]))
        .drop_vars("obs")
    )
    with pytest.warns(
        RuntimeWarning, match="6 of 12 values of 'u' in obs lie at the place and time of another"
    ) as caught:
        by_assimilate(obs, sigma=0.5)
    assert len(caught) == 1
    with pytest.warns(RuntimeWarning, match="6 of 12 values of 'u'"):
        by_filter(obs, sigma=0.5)


@pytest.mark.parametrize("lost", ["x", "time"])
def test_nothing_is_averaged_silently(lost):
    obs = state()[["u"]].mean(lost)
    with pytest.raises(ValueError, match=f"does not say its '{lost}'.*assign_coords.*cell_methods"):
        by_assimilate(obs, sigma=0.5)
    obs["u"].attrs["cell_methods"] = f"{lost}: mean"
    assert by_assimilate(obs, sigma=0.5) == pytest.approx(0, abs=1e-4)
