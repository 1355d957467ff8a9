"""Steps of records: gaps, calendar months, and what is irregular."""

import numpy as np
import pytest
import xarray as xr

from xsda.labels.steps import MONTH, record_step, step_numbers, stretches, tell_of_gaps


def axis(start, freq, periods=24, **options):
    return xr.DataArray(xr.date_range(start, periods=periods, freq=freq, **options), dims="time", name="time")


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day"])
@pytest.mark.parametrize(("freq", "months"), [("MS", 1), ("QS", 3), ("YS", 12)])
def test_calendar_steps_are_even(calendar, freq, months):
    time = axis("2001-01-01", freq, calendar=calendar, use_cftime=True)
    assert record_step(step_numbers(time), "time") == pytest.approx(months * MONTH, rel=0.02)


def test_middles_of_months_are_even():
    edges = axis("2001-01-01", "MS", 25).values
    middles = xr.DataArray(edges[:-1] + (edges[1:] - edges[:-1]) / 2, dims="time")
    np.testing.assert_allclose(np.diff(step_numbers(middles)), MONTH)


@pytest.mark.parametrize("time", [axis("2001-01-01", "h"), axis("2001-01-01", "MS"), axis("2001-01-30", "D")])
def test_a_gap_divides_a_record(time):
    gappy = time.isel(time=[*range(5), *range(6, 9), *range(15, 24)])
    numbers = step_numbers(gappy)
    step = record_step(numbers, "time")
    assert step == pytest.approx(record_step(step_numbers(time), "time"))
    assert stretches(numbers, step) == [slice(0, 5), slice(5, 8), slice(8, 17)]
    with pytest.warns(UserWarning, match="the record has 2 gaps"):
        tell_of_gaps(gappy, step)


def test_steps_that_are_no_multiples_are_refused():
    with pytest.raises(ValueError, match="'time' must be evenly spaced"):
        record_step(np.array([0.0, 1.0, 2.0, 3.5]), "time")
