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
    assert record_step(time) == pytest.approx(months * MONTH, rel=0.02)


def test_middles_of_months_are_even():
    edges = axis("2001-01-01", "MS", 25).values
    middles = xr.DataArray(edges[:-1] + (edges[1:] - edges[:-1]) / 2, dims="time")
    np.testing.assert_allclose(np.diff(step_numbers(middles)), MONTH)


@pytest.mark.parametrize("time", [axis("2001-01-01", "h"), axis("2001-01-01", "MS"), axis("2001-01-30", "D")])
def test_a_gap_divides_a_record(time):
    gappy = time.isel(time=[*range(5), *range(6, 9), *range(15, 24)])
    numbers = step_numbers(gappy)
    step = record_step(gappy)
    assert step == pytest.approx(record_step(time))
    assert stretches(numbers, step) == [slice(0, 5), slice(5, 8), slice(8, 17)]
    with pytest.warns(UserWarning, match="the record has 2 gaps"):
        tell_of_gaps(gappy, step)


def test_half_of_the_steps_may_be_gaps():
    assert record_step(axis("2001-01-01", "3h").isel(time=[0, 1, 2, 4, 6, 7, 9])) == 3 * 3600


ODD = {
    "a month": (axis("2001-01-01", "MS"), 5, 14 * 24, "2001-05-01T00:00:00 to 2001-06-15T00:00:00 in one step of 45 days, where its usual step is 1 month"),
    "a quarter": (axis("2001-01-01", "QS", 8), 2, 24 * 20, "2001-04-01T00:00:00 to 2001-07-21T00:00:00 in one step of 111 days, where its usual step is 3 months"),
    "thirty days": (axis("2001-01-01", "30D"), 3, 24, "2001-03-02T00:00:00 to 2001-04-02T00:00:00 in one step of 31 days, where its usual step is 30 days"),
    "an hour": (axis("2001-01-01", "h"), 2, 1 / 3, "2001-01-01T01:00:00 to 2001-01-01T02:20:00 in one step of 1.333 h, where its usual step is 1 h"),
    "a number": (xr.DataArray(np.arange(5.0), dims="time", name="time"), 4, 0.5, "3 to 4.5 in one step of 1.5, where its usual step is 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_a_step_that_is_no_multiple_is_named_with_its_dates(case):
    time, index, late, said = ODD[case]
    times = time.values.copy()
    times[index] += np.timedelta64(round(late * 3600), "s") if times.dtype.kind == "M" else late
    with pytest.raises(ValueError, match=f"'time' must be evenly spaced, but goes from {said}; correct or drop"):
        record_step(time.copy(data=times))


@pytest.mark.parametrize("freq", ["h", "MS"])
def test_a_record_that_descends_is_to_be_sorted(freq):
    time = axis("2001-01-01", freq, 3)[::-1]
    with pytest.raises(ValueError, match=r"descend, from 2001-.* to 2001-01-01T00:00:00; .* ds.sortby\('time'"):
        record_step(time)
