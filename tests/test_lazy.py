import numpy as np
import pytest
import xarray as xr
from lazy import computes_nothing


def test_a_computation_is_noticed():
    ds = xr.Dataset({"u": ("x", np.arange(4.0))}).chunk(x=2)
    with computes_nothing():
        total = ds.u.sum()
        with pytest.raises(AssertionError, match="should have stayed lazy"):
            total.compute()
        with pytest.raises(AssertionError, match="should have stayed lazy"):
            float(total)
    assert float(total) == 6
