"""Quality flags choose among values; what they reject is counted and has no effect."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from xsda.labels import Grid, Layout
from xsda.observations import compile_observations, observe

FLAGS = np.array([0, 1, 4, 0, 0, 2, 1, 0])
WORDS = {0: "good", 1: "suspect", 2: "bad", 4: "missing"}


@pytest.fixture
def series():
    return xr.Dataset({"u": ("time", np.arange(20.0)), "v": ("time", -np.arange(20.0))}, {"time": np.arange(20.0)})


def table(flags):
    return pd.DataFrame({"time": np.arange(8) * 2.0, "u": 1.5 * np.arange(8), "quality": flags})


def dataset(kind):
    """Flags as people have them: a CF variable with meanings, a variable by name, or one for all variables."""
    ds = xr.Dataset({"u": ("time", 1.5 * np.arange(8))}, {"time": np.arange(8) * 2.0})
    if kind == "cf":
        attrs = {"flag_values": list(WORDS), "flag_meanings": " ".join(WORDS.values())}
        ds["anything"] = "time", FLAGS, {"standard_name": "u status_flag", **attrs}
        return ds
    return ds.assign({"u_qc" if kind == "named" else "quality": ("time", FLAGS)})


def likelihood(series, obs, **options):
    return compile_observations(Grid.match(Layout.of(series, even=False), series), obs, 1.0, **options)


WANTED = [(0, [0, 3, 4, 7]), ([0], [0, 3, 4, 7]), ({0, 1}, [0, 1, 3, 4, 6, 7]), (np.array([2]), [5])]


@pytest.mark.parametrize("kind", ["cf", "named", "one"])
@pytest.mark.parametrize(("quality", "kept"), WANTED)
def test_what_is_rejected_has_no_effect(series, kind, quality, kept):
    ds = dataset(kind)
    with pytest.warns(UserWarning, match=f"{8 - len(kept)} of 8 values of 'u' in obs have flags that are not accepted"):
        ours = likelihood(series, ds, quality=quality)
    expected = likelihood(series, ds[["u"]].isel(time=kept))
    x = torch.randn(2, 20, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.y, expected.y)
    assert torch.equal(ours.predict(x), expected.predict(x))


def test_words_of_tables_and_meanings_of_flags(series):
    words = table([WORDS[f] for f in FLAGS])
    with pytest.warns(UserWarning, match="2 of 8"):
        a = likelihood(series, words, quality=["good", "suspect"])
    with pytest.warns(UserWarning, match="2 of 8"):
        b = likelihood(series, dataset("cf"), quality=["good", "suspect"])
    assert torch.equal(a.y, b.y)


def test_a_value_without_a_flag_is_not_accepted(series):
    with pytest.warns(UserWarning, match="1 of 8 values"):
        assert len(likelihood(series, table(["good"] * 7 + [None]), quality="good").y) == 7


def test_without_quality_flags_are_no_observations(series):
    assert len(likelihood(series, dataset("named")).y) == 8
    assert set(observe(series, dataset("one")).data_vars) == {"u"}


def test_a_flag_that_never_occurs(series):
    with pytest.raises(ValueError, match="quality='goood' accepts no value of 'u' in obs; its flags are 'bad', 'good'"):
        likelihood(series, table(["good"] * 7 + ["bad"]), quality="goood")


def test_no_flags_at_all_and_none_for_one_source(series):
    plain = dataset("one")[["u"]]
    with pytest.raises(ValueError, match="no observed variable has quality flags"):
        likelihood(series, plain, quality=0)
    with pytest.warns(
        UserWarning, match=r"4 of 8 values of 'u' in a .*; 'u' in b has no quality flags and is used as it is"
    ):
        assert len(likelihood(series, {"a": dataset("one"), "b": plain}, quality=0).y) == 12
