"""Two-dimensional latitudes and longitudes: against a reference that tries every cell, and what must not matter."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from lazy import computes_nothing
from spherical import dataset, grid_of, inside, places, region, rotation, stations

import xsda
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.observations import compile_observations
from xsda.observations.mesh import Mesh, bilinear, outside_cells, unit_vectors

EXACT = 2e-4  # places this close to a grid point, in units of the spacing, are that grid point (twice, for both axes)


def reference(lat, lon, field, place):
    """Interpolate by trying every cell: half-spaces bounded by great circles, then Newton's method for (u, v)."""
    nodes, p = unit_vectors(lat, lon), unit_vectors(*place)
    for i in range(lat.shape[0] - 1):
        for j in range(lat.shape[1] - 1):
            ring = [(i, j), (i, j + 1), (i + 1, j + 1), (i + 1, j)]
            corners = np.array([nodes[k] for k in ring])
            sides = [np.linalg.det([a, b, p]) for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)]
            if min(sides) < 0 < max(sides) or corners.sum(0) @ p < 0:
                continue
            middle = corners.sum(0) / np.linalg.norm(corners.sum(0))
            plane = np.linalg.svd(middle[None])[2][1:]  # any basis of the tangent plane
            a, b, c, d, goal = (plane @ (v / (v @ middle)) for v in (*corners, p))
            u, v = 0.5, 0.5
            for _ in range(30):
                off = (1 - u) * (1 - v) * a + u * (1 - v) * b + u * v * c + (1 - u) * v * d - goal
                slope = np.stack([(1 - v) * (b - a) + v * (c - d), (1 - u) * (d - a) + u * (c - b)], 1)
                u, v = (u, v) - np.linalg.solve(slope, off)
            weights = ((1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v)
            return sum(w * field[..., y, x] for w, (y, x) in zip(weights, ring, strict=True))
    raise AssertionError("no cell")


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_interpolation_equals_a_search_of_every_cell(seed):
    lat, lon = region(seed)
    ds, (y, x) = dataset(lat, lon, seed), inside(lat, lon, 12, seed)
    seen = ds.sda.observe(stations(y, x))
    expected = np.stack([reference(lat, lon, ds.t.values, p) for p in zip(y, x, strict=True)], 1)
    np.testing.assert_allclose(seen.t, expected, atol=4 * EXACT)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.sampled_from([1e-4, 1e-2, 0.3]))
def test_the_bilinear_map_is_inverted_to_rounding(seed, u, v, size):
    """Also in cells of 600 m, and in both orientations."""
    rng = np.random.default_rng(seed)
    flat = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) + rng.uniform(-0.4, 0.4, (4, 2))
    flat = flat[:: rng.choice([-1, 1])] * size
    corners = np.concatenate([np.ones((4, 1)), flat], 1)
    corners = corners / np.linalg.norm(corners, axis=1, keepdims=True) @ rotation(seed).T
    middle = corners.sum(0) / np.linalg.norm(corners.sum(0))
    a, b, c, d = corners / (corners @ middle)[:, None]
    place = (1 - u) * (1 - v) * a + u * (1 - v) * b + u * v * c + (1 - u) * v * d
    found = bilinear(corners[None], place[None] / np.linalg.norm(place))
    np.testing.assert_allclose(found, [[u, v]], atol=1e-13 / size)


def test_grid_points_are_selected_exactly():
    lat, lon = region(1)
    ds = dataset(lat, lon)
    seen = ds.sda.observe(stations(lat.ravel(), lon.ravel()))
    np.testing.assert_array_equal(seen.t, ds.t.values.reshape(2, -1))
    part = ds.isel(y=slice(1, None, 2), x=[0, 5, 2])
    np.testing.assert_array_equal(ds.sda.observe(part).t, part.t)
    np.testing.assert_array_equal(ds.sda.observe(ds).t, ds.t)
    one = ds.isel(y=3, x=2)
    np.testing.assert_array_equal(ds.sda.observe(one).t, one.t)


def test_rotating_grid_and_places_changes_nothing():
    """A rotated-pole grid and the plain grid that it was made from have the same weights up to rounding."""
    lat, lon = np.meshgrid(np.linspace(-20, 25, 10), np.linspace(-30, 40, 15), indexing="ij")
    y, x = inside(lat, lon, 200)
    plain = dataset(lat, lon).sda.observe(stations(y, x)).t
    for seed in range(5):
        turn = rotation(seed).T
        rotated = dataset(*places(unit_vectors(lat, lon) @ turn))
        seen = rotated.sda.observe(stations(*places(unit_vectors(y, x) @ turn))).t
        np.testing.assert_allclose(seen, plain, atol=1e-11)


def test_close_to_interpolation_along_each_axis_on_fine_grids():
    """The edges of cells are great circles instead of parallels, which differ by the square of the spacing."""
    y, x = np.random.default_rng(0).uniform(41, 49, 50), np.random.default_rng(1).uniform(1, 19, 50)
    errors = []
    for n in (11, 21, 41):
        lat, lon = np.linspace(40, 50, n), np.linspace(0, 20, n)
        field = np.sin(np.radians(3 * lat))[:, None] * np.cos(np.radians(5 * lon))
        one = xr.Dataset({"t": (("time", "lat", "lon"), field[None])}, {"time": [0.0], "lat": lat, "lon": lon})
        two = dataset(*np.meshgrid(lat, lon, indexing="ij")).isel(time=[0]).assign(t=(("time", "y", "x"), field[None]))
        like = stations(y, x, [0.0])
        errors.append(float(abs(one.sda.observe(like).t - two.sda.observe(like).t).max()))
    assert errors[0] < 0.01
    assert errors[0] / errors[1] > 2.5
    assert errors[1] / errors[2] > 2.5


# --- conventions ---


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: ds.assign_coords(lon=ds.lon % 360),
        lambda ds: ds.assign_coords(lon=ds.lon - 720),
        lambda ds: ds.isel(y=slice(None, None, -1)),
        lambda ds: ds.isel(x=slice(None, None, -1)),
        lambda ds: ds.transpose("x", "y", "time"),
        lambda ds: ds.rename(y="nj", x="ni", lat="nav_lat", lon="nav_lon"),
        lambda ds: ds.rename(y="eta_rho", x="xi_rho"),
        lambda ds: ds.assign_coords(y=-np.arange(6.0), x=np.arange(7.0) * 3),
        lambda ds: ds.assign_coords(
            lat=np.radians(ds.lat).assign_attrs(units="radian"), lon=np.radians(ds.lon).assign_attrs(units="radian")
        ),
    ],
)
def test_conventions_of_the_grid_do_not_matter(change):
    lat, lon = region(2)
    ds, like = dataset(lat, lon), stations(*inside(lat, lon, 40))
    np.testing.assert_allclose(change(ds).sda.observe(like).t, ds.sda.observe(like).t, atol=1e-10)


def test_conventions_of_the_observations_do_not_matter():
    lat, lon = region(3)
    ds, like = dataset(lat, lon), stations(*inside(lat, lon, 40))
    seen = ds.sda.observe(like).t
    other = like.assign_coords(lon=like.lon + 360).rename(lat="latitude", lon="longitude").transpose()
    np.testing.assert_allclose(ds.sda.observe(other).t.T, seen, atol=1e-10)
    cube = like.assign_coords(station=np.arange(40)).isel(station=slice(0, 1)).squeeze("station")
    np.testing.assert_allclose(ds.sda.observe(cube).t, seen[:, 0], atol=1e-10)
    track = like.isel(time=0, drop=True).assign_coords(time=("station", np.linspace(0, 1, 40)))
    along = seen[0] + (seen[1] - seen[0]) * np.linspace(0, 1, 40)
    np.testing.assert_allclose(ds.sda.observe(track).t, along, atol=1e-3)


def test_lazily_and_along_a_swath():
    lat, lon = region(9)
    ds, (y, x) = dataset(lat, lon), inside(lat, lon, 12)
    like = stations(y, x)
    seen = ds.sda.observe(like)
    chunked = ds.chunk(y=2, x=3).assign_coords(lat=ds.lat, lon=ds.lon)
    with computes_nothing():
        lazy = chunked.sda.observe(like)
    np.testing.assert_allclose(lazy.t, seen.t, atol=1e-12)
    scans = {k: (("scan", "pixel"), c.reshape(3, 4)) for k, c in (("lat", y), ("lon", x))}
    swath = xr.Dataset({"t": (("pixel", "scan"), np.ones((4, 3)))}, {**scans, "time": ("scan", [0.0, 1.0, 1.0])})
    expected = seen.t.values.reshape(2, 3, 4)[[0, 1, 1], [0, 1, 2]]
    np.testing.assert_allclose(ds.sda.observe(swath).t.T, expected, atol=1e-12)


# --- seams and folds ---


def check_cover(lat, lon, y, x, widest):
    """Every place lies in a cell, whose corners are near and reproduce it."""
    ds = dataset(lat, lon)
    mesh = Mesh.of(Grid.match(Layout.of(ds), ds))
    stencil, place = mesh.locate(y, x), unit_vectors(y, x)
    corners = mesh.nodes[stencil.index]
    assert np.degrees(np.arccos(np.einsum("mpi,mi->mp", corners, place).clip(-1, 1))).max() < widest
    middle = (corners * stencil.weight[..., None]).sum(1)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    return np.abs(middle - place).max()


def test_the_seam_of_the_globe_is_closed():
    rng = np.random.default_rng(0)
    y, x = np.degrees(np.arcsin(rng.uniform(-0.99, 0.99, 2000))), rng.uniform(-180, 720, 2000)
    lat, lon = np.meshgrid(np.arange(-87.5, 90, 5), np.arange(0.0, 360, 5) - 100, indexing="ij")
    assert check_cover(lat, lon, y, x, 7.1) < 1e-3
    halo = np.arange(-1, 73) % 72  # the first column once more at the end, and the last at the beginning
    assert check_cover(lat[:, halo], lon[:, halo], y, x, 7.1) < 1e-3
    ds, like = dataset(lat, lon), stations(y, x)
    np.testing.assert_allclose(ds.isel(x=halo).sda.observe(like).t, ds.sda.observe(like).t, atol=1e-9)
    assert outside_cells(grid_of(ds), stations([88.5, -88.5], [0, 9]).t).all()


def cap(rows=12, columns=48):
    """The northern cap of a tripolar grid: confocal ellipses around two poles, the last row beside the line between."""
    mu = (rows - 0.5 - np.arange(rows)) * 2 / rows
    nu = (np.arange(columns) + 0.5) * 2 * np.pi / columns
    z = 0.15 * np.cosh(mu[:, None] + 1j * nu)
    return places(np.stack([z.real, z.imag, np.ones(z.shape)], -1))


@pytest.mark.parametrize("first", [False, True])
def test_the_fold_of_a_tripolar_grid_is_closed(first):
    lat, lon = (c[::-1] if first else c for c in cap())
    rng = np.random.default_rng(0)
    strip = rng.uniform(-0.14, 0.14, 2000), rng.uniform(-0.012, 0.012, 2000)  # between the last row and itself
    y, x = places(np.stack([*strip, np.ones(2000)], -1))
    assert check_cover(lat, lon, y, x, 4) < 1e-4
    r, phi = 0.45 * np.sqrt(rng.uniform(0, 1, 3000)), rng.uniform(0, 2 * np.pi, 3000)
    plane = np.stack([r * np.cos(phi), r * np.sin(phi)], -1)
    y, x = places(np.concatenate([plane, np.ones((3000, 1))], 1))
    gone = outside_cells(grid_of(dataset(lat, lon)), stations(y, x).t).values
    assert np.abs(np.abs(plane[gone]) - [0.15, 0]).max(initial=0) < 0.02  # beside a pole, where cells have no area
    assert check_cover(lat, lon, y[~gone], x[~gone], 12) < 1e-4


# --- missing coordinates, places outside ---


def test_cells_with_missing_corners_are_never_chosen():
    lat, lon = region(4)
    hidden = np.zeros(lat.shape, bool)
    hidden[2:4, 3] = True
    ds = dataset(np.where(hidden, np.nan, lat), np.where(hidden, np.nan, lon)).where(
        ~xr.DataArray(hidden, dims=("y", "x"))
    )
    y, x = inside(lat, lon, 400)
    like = stations(y, x)
    gone = outside_cells(grid_of(ds), like.t).values
    assert 0.1 < gone.mean() < 0.6
    seen = ds.sda.observe(like.isel(station=~gone))
    assert bool(seen.t.notnull().all())
    full = dataset(lat, lon).sda.observe(like.isel(station=~gone))
    np.testing.assert_allclose(seen.t, full.t, atol=1e-10)
    with pytest.raises(ValueError, match="observations lie outside the grid, at"):
        ds.sda.observe(like)
    back = ds.sda.observe(ds.isel(x=slice(1, None)))  # positions are missing where values are
    np.testing.assert_array_equal(back.t, ds.t[..., 1:])
    nowhere = ds.assign_coords(lat=ds.lat * np.nan)
    with pytest.raises(ValueError, match="'lat' and 'lon' of the grid hold NaN only"):
        nowhere.sda.observe(like)


# --- operators, the user's index, round trips ---


def test_the_adjoint_and_the_standardised_operator():
    lat, lon = region(5)
    ds = dataset(lat, lon)
    layout = Layout.of(ds).scaled([280.0], [3.0])
    grid = Grid.match(layout, ds)
    like = ds.sda.observe(stations(*inside(lat, lon, 30), time=[0.0, 0.3]))
    lik = compile_observations(grid, like, 1.0)
    torch.testing.assert_close(lik.predict(grid.to_tensor(ds)[None])[0], lik.y, rtol=1e-5, atol=1e-5)
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, *grid.shape, dtype=torch.float64, generator=generator)
    b = torch.randn(3, lik.y.numel(), dtype=torch.float64, generator=generator)
    torch.testing.assert_close(
        (lik.operator(a) * b).sum(1), (a * lik.adjoint(a, b)).flatten(1).sum(1), rtol=1e-12, atol=1e-12
    )


def test_the_index_of_the_user_is_used(monkeypatch):
    pytest.importorskip("scipy")
    lat, lon = np.meshgrid(np.linspace(-20, 25, 10), np.linspace(-30, 40, 15), indexing="ij")
    ds, (y, x) = dataset(lat, lon), inside(lat, lon, 200)
    like = stations(y, x)
    expected = ds.sda.observe(like)
    indexed = ds.set_xindex(("lat", "lon"), xr.indexes.NDPointIndex)
    reached = []
    search = Mesh._candidates
    monkeypatch.setattr(Mesh, "_candidates", lambda *args: reached.append(len(args[2])) or search(*args))
    xr.testing.assert_identical(indexed.sda.observe(like), expected)
    turned = indexed.sda.observe(like.assign_coords(lon=like.lon + 360))
    np.testing.assert_allclose(turned.t, expected.t, atol=1e-10)
    descending = indexed.assign_coords(y=-np.arange(10.0))
    np.testing.assert_allclose(descending.sda.observe(like).t, expected.t, atol=1e-10)
    assert sum(reached) == 0
    skewed = dataset(*region(6)).set_xindex(("lat", "lon"), xr.indexes.NDPointIndex)  # degrees mislead near the pole
    like = stations(*inside(*region(6), 100))
    xr.testing.assert_allclose(skewed.sda.observe(like), dataset(*region(6)).sda.observe(like))


def test_two_dimensional_coordinates_survive():
    lat, lon = region(7)
    ds = dataset(lat, lon)
    prior = xsda.GaussianPrior(ds, np.eye(ds.t.size) + 0.5)
    like = ds.sda.observe(stations(*inside(lat, lon, 5)), sigma=0.1, seed=0)
    post = ds.sda.assimilate(like, prior, members=2, steps=4, progress=False)
    assert set(post.t.dims) == {"member", "time", "y", "x"}
    for name in ("lat", "lon"):
        xr.testing.assert_identical(post[name], ds[name])


def test_numbers_along_the_dimensions_still_work():
    lat, lon = region(8)
    ds = dataset(lat, lon).assign_coords(y=np.arange(6.0), x=np.arange(7.0))
    like = ds.interp(y=[0.5, 2.0], x=[3.25])
    np.testing.assert_allclose(ds.sda.observe(like).t, like.t, atol=1e-12)
    np.testing.assert_allclose(ds.sda.observe(like.drop_vars(["lat", "lon"])).t, like.t, atol=1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(9, 8), (18, 36), (37, 73), (90, 180), (91, 144)])
@pytest.mark.parametrize("offset", [0.0, 0.5, 1.0, 2.0])
def test_regular_grids_have_a_seam_and_no_fold(rows, columns, offset):
    """Wherever the last row lies: on the pole, half a spacing from it, or farther."""
    step = 180 / (rows - 1 + 2 * offset)
    lat = np.linspace(-90 + offset * step, 90 - offset * step, rows)
    lat, lon = np.meshgrid(lat, np.arange(columns) * 360 / columns, indexing="ij")
    assert Mesh.of(grid_of(dataset(lat, lon))).cells.shape == (rows - 1, columns, 4)
    part = slice(0, columns * 2 // 3)
    assert Mesh.of(grid_of(dataset(lat[:, part], lon[:, part]))).cells.shape == (rows - 1, part.stop - 1, 4)


def test_rows_on_the_poles_are_triangles():
    lat, lon = np.meshgrid(np.linspace(-90, 90, 19), np.arange(0.0, 360, 20), indexing="ij")
    rng = np.random.default_rng(0)
    y, x = np.degrees(np.arcsin(rng.uniform(-1, 1, 1000))), rng.uniform(0, 360, 1000)
    y[:100] = 90 - 10 * rng.uniform(0, 1, 100) ** 2
    assert check_cover(lat, lon, y, x, 23) < 3e-3
    ds = dataset(lat, lon)
    ds["t"] = ds.t.where(lat < 90, 7.0)
    assert ds.sda.observe(stations([90.0], [123.0])).t.values == pytest.approx(7.0)
