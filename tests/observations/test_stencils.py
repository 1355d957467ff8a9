"""Indices and weights: what they reproduce exactly, and what they refuse."""

import numpy as np
import pytest

from xsda.observations.stencils import GridAxis

UNEVEN = np.array([0.0, 1.0, 1.5, 4.0, 6.0])


def apply(stencil, values):
    return (values[stencil.index] * stencil.weight).sum(1)


def test_interpolation_equals_numpy_on_an_uneven_axis():
    values = np.random.default_rng(0).standard_normal(5)
    p = np.array([0.0, 0.3, 1.0, 1.2, 3.999, 6.0])
    stencil = GridAxis("x", UNEVEN).locate(p)
    np.testing.assert_allclose(apply(stencil, values), np.interp(p, UNEVEN, values), atol=1e-4)
    np.testing.assert_allclose(stencil.weight.sum(1), 1)


def test_interpolation_on_a_ring_equals_numpy():
    x = np.arange(8) / 4
    values = np.random.default_rng(0).standard_normal(8)
    p = np.random.default_rng(1).uniform(-9, 9, 50)
    stencil = GridAxis("x", x, period=2.0).locate(p)
    np.testing.assert_allclose(apply(stencil, values), np.interp(p, x, values, period=2.0), atol=1e-3)


def test_positions_on_the_grid_are_selected():
    axis = GridAxis("x", np.float32([0.1, 0.2, 0.3]).astype(float), period=None)
    stencil = axis.locate([0.3, 0.1, 0.2])
    assert stencil.trivial
    assert stencil.index.ravel().tolist() == [2, 0, 1]
    assert GridAxis("x", np.arange(4.0), period=4.0).locate([4.0, -1.0, 3.99999999]).index.ravel().tolist() == [0, 3, 0]


def test_a_single_grid_point():
    assert GridAxis("x", np.array([3.0])).locate([3.0]).index.tolist() == [[0]]
    np.testing.assert_allclose(
        apply(GridAxis("x", np.array([3.0])).average(np.array([1.0]), np.array([9.0])), np.array([5.0])), 5
    )


def test_averages_of_a_partition_conserve_the_integral():
    """Cells that tile the grid's own cells: their means, weighted with their widths, add up to the whole integral."""
    axis = GridAxis("x", UNEVEN)
    values = np.random.default_rng(0).standard_normal(5)
    edges = np.array([-0.5, 0.2, 2.0, 2.1, 5.5, 7.0])
    means = apply(axis.average(edges[:-1], edges[1:]), values)
    own = np.array([-0.5, 0.5, 1.25, 2.75, 5.0, 7.0])  # halfway between the points
    assert means @ np.diff(edges) == pytest.approx(values @ np.diff(own))


@pytest.mark.parametrize("shift", [0, -8, 8, 24])
def test_averages_on_a_ring_do_not_depend_on_the_turn(shift):
    axis = GridAxis("x", np.arange(8.0), period=8.0)
    values = np.random.default_rng(0).standard_normal(8)
    stencil = axis.average(np.array([-1.5, 5.5]) + shift, np.array([1.5, 8.5]) + shift)
    np.testing.assert_allclose(apply(stencil, values), [values[[7, 0, 1]].mean(), values[[6, 7, 0]].mean()])


def test_the_mean_over_a_whole_ring_is_the_mean():
    axis = GridAxis("x", np.arange(8.0), period=8.0)
    values = np.random.default_rng(0).standard_normal(8)
    for start in (-0.5, 0.0, 3.3, -4.0):
        np.testing.assert_allclose(apply(axis.average(np.array([start]), np.array([start + 8])), values), values.mean())


def test_bounds_across_the_prime_meridian_and_in_descending_order():
    axis = GridAxis("lon", np.arange(36) * 10.0, period=360.0, wrap=360.0)
    a = axis.average(np.array([345.0]), np.array([15.0]))
    b = axis.average(np.array([-15.0]), np.array([15.0]))
    c = axis.average(np.array([15.0]), np.array([-15.0]))
    for stencil in (a, b, c):
        assert sorted(stencil.index[stencil.weight > 0].tolist()) == [0, 1, 35]
        np.testing.assert_allclose(stencil.weight[stencil.weight > 0], 1 / 3)


def test_joined_is_the_outer_product():
    rng = np.random.default_rng(0)
    y, x = GridAxis("y", np.arange(4.0)), GridAxis("x", UNEVEN)
    py, px = rng.uniform(0, 3, 7), rng.uniform(0, 6, 7)
    field = rng.standard_normal((4, 5))
    joined = y.locate(py).joined(x.locate(px))
    assert joined.size == 20
    along_y = [[np.interp(p, np.arange(4.0), column) for column in field.T] for p in py]
    expected = [np.interp(p, UNEVEN, row) for p, row in zip(px, along_y, strict=True)]
    np.testing.assert_allclose(apply(joined, field.ravel()), expected, atol=1e-3)


def test_reversed_reads_the_axis_backwards():
    values = np.random.default_rng(0).standard_normal(5)
    stencil = GridAxis("x", UNEVEN).locate([0.3, 5.0])
    np.testing.assert_allclose(apply(stencil.reversed(), values[::-1]), apply(stencil, values))


def test_points_of_weight_zero_are_not_read():
    stencil = GridAxis("x", np.arange(5.0)).locate([1.0, 2.5])
    values = np.array([1.0, 2.0, np.nan, 4.0, 5.0])
    np.testing.assert_array_equal(np.isnan(apply(stencil, values)), [False, True])
    assert apply(GridAxis("x", np.arange(4.0)).mean(), np.arange(4.0)).tolist() == [1.5]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda a: a.locate([1.0, 7.5, -2.0]), r"outside the grid along 'x': -2, 7\.5; the grid covers 0 to 6"),
        (lambda a: a.locate([np.inf]), "outside the grid along 'x': inf"),
        (lambda a: a.locate([1.0, np.nan]), "1 observations have NaN as 'x'"),
        (
            lambda a: a.average(np.array([5.0]), np.array([9.0])),
            r"reach from 5 to 9, outside the cells of the grid \(-0\.5 to 7\)",
        ),
        (lambda a: a.average(np.array([np.nan]), np.array([1.0])), "bounds along 'x' hold NaN"),
        (lambda a: a.average(np.array([2.0]), np.array([2.0])), "cells along 'x' are empty"),
        (lambda a: GridAxis("x", UNEVEN, period=4.0), "'x' spans 6, more than its period 4"),
    ],
)
def test_refusals(act, message):
    with pytest.raises(ValueError, match=message):
        act(GridAxis("x", UNEVEN))
