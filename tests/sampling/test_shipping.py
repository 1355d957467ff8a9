"""What travels with a lazy ensemble arrives as it was, under a hash of its content."""

import numpy as np
import pytest
import torch
import xarray as xr

import xsda
from xsda.sampling.shipping import pack

LARGE = np.arange(1000)
ARRAYS = {
    "dates": LARGE.astype("datetime64[h]"),
    "lags": LARGE.astype("timedelta64[s]"),
    "text": np.array([f"station {i}" for i in LARGE]),
    "another byte order": LARGE.astype(">f8"),
    "read backwards": LARGE.astype(float)[::-1],
    "complex": LARGE * 1j,
    "half precision": torch.arange(4000).to(torch.bfloat16),
    "small half precision": torch.arange(4).to(torch.bfloat16),
    "a transposed view": torch.arange(3000.0).reshape(50, 60).T,
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_arrive_as_they_were(name):
    came = pack({"array": ARRAYS[name]}).load()["array"]
    assert came.dtype == ARRAYS[name].dtype
    assert type(came) is type(ARRAYS[name])
    assert bool((came == ARRAYS[name]).all())


def test_overlapping_views_and_sparse_tensors_arrive():
    whole = torch.arange(3000.0)
    first, second, sparse = pack((whole[:2000], whole[500:], torch.eye(2000).to_sparse())).load()
    assert torch.equal(first, whole[:2000])
    assert torch.equal(second, whole[500:])
    assert torch.equal(sparse.to_dense(), torch.eye(2000))


def test_the_hash_is_that_of_the_content():
    values = np.arange(1000.0)
    assert pack(values).hash == pack(values.copy()).hash
    assert pack(values).hash != pack(values + 1).hash
    assert pack(values).hash != pack(values.reshape(10, 100)).hash


def test_lazy_members_of_many_named_observations():
    """The names of stations and the times of 600 observations take more room than what is pickled with the graph."""
    truth = xsda.systems.Lorenz63().simulate(16, seed=0)
    rng = np.random.default_rng(0)
    times = xr.DataArray(rng.uniform(float(truth.time[0]), float(truth.time[-1]), 600), dims="station")
    obs = truth[["x"]].interp(time=times).assign_coords(station=[f"station {i}" for i in range(600)])
    options = {"sigma": 2.0, "members": 2, "steps": 4, "redraw": 0, "progress": False}
    eager = truth.sda.assimilate(obs, "lorenz63", **options)
    lazy = truth.sda.assimilate(obs, "lorenz63", chunks={"member": 1}, **options).compute()
    xr.testing.assert_allclose(eager, lazy, rtol=1e-4, atol=1e-4)
