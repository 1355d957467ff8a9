"""Maps: what lies where, in which projection, with which coast, and that nothing is downloaded."""

import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import cartopy
import fresh
import matplotlib.pyplot as plt
import numpy as np
import pytest
import shapely
import xarray as xr
from cartopy import crs
from cartopy.feature import ShapelyFeature
from cartopy.io import Downloader
from cartopy.mpl.feature_artist import FeatureArtist
from cartopy.mpl.geoaxes import GeoAxes
from matplotlib.collections import LineCollection

from xsda import plot
from xsda.plot import coastlines
from xsda.plot.coastlines import bundled, coast_geometries, lines_within
from xsda.plot.maps import Map, choose_projection
from xsda.plot.planes import LatLon, continuous, corners, edges

DEGREES = crs.PlateCarree()
UK = (-10.0, 2.0, 50.0, 58.0)


@pytest.fixture(autouse=True)
def no_natural_earth(tmp_path, monkeypatch):
    """Folders of cartopy without files, and a downloader that fails."""
    monkeypatch.setitem(cartopy.config, "data_dir", tmp_path / "user")
    monkeypatch.setitem(cartopy.config, "pre_existing_data_dir", tmp_path / "site")

    def fail(*_):
        raise AssertionError("cartopy tried to download")

    monkeypatch.setattr(Downloader, "_urlopen", fail)


def field(lat, lon, name="sst", dims=("lat", "lon")):
    """A field that says where each of its cells lies: lat + longitude / 1000, from 0 to 360."""
    lat, lon = np.asarray(lat, float), np.asarray(lon, float)
    values = lat[:, None] + lon % 360 / 1000
    coords = {"lat": ("lat", lat, {"units": "degrees_north"}), "lon": ("lon", lon, {"units": "degrees_east"})}
    return xr.Dataset({name: (("time", *dims), values[None], {"units": "K"})}, {"time": [0.0], **coords})


def cell_at(panel, lon, lat):
    """Value of the mesh at a place, found from the corners of its cells as they are drawn."""
    mesh = panel.collections[0]
    x, y = np.moveaxis(np.asarray(mesh.get_coordinates()), -1, 0)
    ring = np.stack([[a[:-1, :-1], a[1:, :-1], a[1:, 1:], a[:-1, 1:]] for a in (x, y)])
    low, high = ring.min(axis=1), ring.max(axis=1)
    turn = 360 * np.ceil((low[0] - lon) / 360)
    inside = (low[0] <= lon + turn) & (lon + turn <= high[0]) & (low[1] <= lat) & (lat <= high[1])
    (found,) = np.asarray(mesh.get_array())[inside]
    return found


@pytest.mark.parametrize(
    ("lat", "lon"),
    [
        (np.arange(58, 49.9, -0.5), np.arange(-10, 2.1, 0.5)),
        (np.arange(50, 58.1, 0.5), np.arange(350, 362.1, 0.5)),
        (np.arange(50, 58.1, 0.5), np.arange(-10, 2.1, 0.5) % 360),  # 359.5 is followed by 0
    ],
)
def test_cells_lie_where_they_are(lat, lon):
    """In any order of latitudes and any convention of longitudes."""
    ds = field(lat, lon)
    panel = ds.sda.plot().axes[0]
    assert panel.projection == crs.Mercator(-4, latitude_true_scale=54)
    for place in ((-9.0, 51.5), (1.5, 57.0), (0.0, 50.0)):
        assert cell_at(panel, *place) == pytest.approx(place[1] + place[0] % 360 / 1000)
    corners = panel.projection.transform_points(DEGREES, np.array([-10.25, 2.25]), np.array([49.75, 58.25]))
    np.testing.assert_allclose([*panel.get_xlim(), *panel.get_ylim()], corners[:, :2].T.ravel(), rtol=1e-9)


def test_edges_and_continuous_longitudes():
    np.testing.assert_allclose(edges(np.array([3.0, 2.0, 0.0])), [3.5, 2.5, 1.0, -1.0])
    np.testing.assert_allclose(edges(np.array([3.0])), [2.5, 3.5])
    np.testing.assert_allclose(continuous(np.array([350.0, 355, 0, 5])), [-10, -5, 0, 5])
    np.testing.assert_allclose(continuous(np.array([170.0, 175, -180, -175])), [170, 175, 180, 185])
    np.testing.assert_allclose(continuous(np.array([1090.0, 1100])), [10, 20])


@pytest.mark.parametrize(
    ("extent", "kind"),
    [
        (UK, crs.Mercator),
        ((-25, 45, 34, 72), crs.LambertConformal),
        ((110, 155, -45, -10), crs.LambertConformal),
        ((120, 290, -30, 30), crs.PlateCarree),
        ((0, 40, -12, 25), crs.PlateCarree),
        ((0, 60, 68, 84), crs.Stereographic),
        ((-180, 180, 50, 90), crs.NorthPolarStereo),
        ((0, 360, -90, -45), crs.SouthPolarStereo),
        ((0, 360, -90, 90), crs.Robinson),
        ((-180, 180, -60, 75), crs.Robinson),
    ],
)  # fmt: skip
def test_projections_keep_angles_or_show_the_whole(extent, kind):
    found = choose_projection(extent)
    assert type(found) is kind
    if kind in (crs.Mercator, crs.LambertConformal, crs.Stereographic):  # shapes are true: a small step north and east
        lon, lat, step = (extent[0] + extent[1]) / 2, (extent[2] + extent[3]) / 2, 1e-3
        origin, north, east = (
            np.array(found.transform_point(lon + a, lat + b, DEGREES))
            for a, b in ((0, 0), (0, step), (step / np.cos(np.deg2rad(lat)), 0))
        )
        ratio = np.linalg.norm(north - origin) / np.linalg.norm(east - origin)
        assert ratio == pytest.approx(1, abs=0.01)


def test_the_view_does_not_depend_on_the_convention_of_longitudes():
    views = []
    for lon in (np.arange(-180, 180, 10.0), np.arange(0, 360, 10.0)):
        panel = field(np.arange(-85, 86, 10.0), lon).sda.plot().axes[0]
        views.append((panel.projection.proj4_init, panel.get_xlim(), panel.get_ylim()))
        for place in ((-180.0, 5.0), (-170.0, -85.0), (0.0, 45.0), (90.0, 5.0), (170.0, 85.0)):
            assert cell_at(panel, *place) == pytest.approx(place[1] + place[0] % 360 / 1000)
        assert getattr(panel.collections[0], "_wrapped_collection_fix", None) is None  # no cell on both sides
    assert views[0] == views[1]


def test_a_projection_can_be_given(weather):
    _, post, stations = weather
    ours = crs.NorthPolarStereo(central_longitude=-3)
    panels = post.sda.plot(obs=stations, projection=ours, time=2).axes[:3]
    assert all(panel.projection == ours for panel in panels)
    x, y, _ = np.moveaxis(
        ours.transform_points(DEGREES, *np.meshgrid(edges(post.lon.values), edges(post.lat.values))), -1, 0
    )
    for limit, extreme in zip(
        (*panels[0].get_xlim(), *panels[0].get_ylim()), (x.min(), x.max(), y.min(), y.max()), strict=True
    ):
        assert limit == pytest.approx(extreme, abs=2e4)  # metres, of a domain of 1000 km
    with pytest.raises(
        ValueError, match=r"projection= needs latitudes and longitudes; these states lie on \['y', 'x'\]"
    ):
        post.rename(lat="y", lon="x").drop_vars(["y", "x"]).sda.plot(projection=ours)
    with pytest.raises(ValueError, match="projection= is for fields"):
        post.isel(lat=0, lon=0).sda.plot(projection=ours)


def test_polar_caps_are_discs():
    panel = field(np.arange(60, 90, 5.0), np.arange(0, 360, 10.0)).sda.plot().axes[0]
    panel.figure.canvas.draw()
    corners = panel.patch.get_path().vertices
    radius = np.hypot(*(corners - (corners.min(axis=0) + corners.max(axis=0)) / 2).T)
    np.testing.assert_allclose(radius, radius[0], rtol=1e-3)
    edge = choose_projection((0, 360, 57.5, 90)).transform_point(0, 57.5, DEGREES)
    assert panel.get_ylim()[1] == pytest.approx(np.hypot(*edge), rel=2e-3)


def coast_of(panel):
    return [artist for artist in panel.get_children() if isinstance(artist, FeatureArtist)]


def test_nothing_is_downloaded(weather):
    """Cartopy's own coastlines would try to; the bundled outline does not."""
    _, post, _ = weather
    figure = post.sda.plot()
    figure.canvas.draw()
    for panel in figure.axes[:3]:
        (coast,) = coast_of(panel)
        assert all(line.length > 0 for line in coast._feature.geometries())
    assert not coast_of(post.sda.plot(coastlines=False).axes[0])
    with pytest.raises(AssertionError, match="tried to download"):
        post.sda.plot(coastlines="50m")
    with pytest.raises(ValueError, match="coastlines='1m' must be True, False or a scale of Natural Earth"):
        post.sda.plot(coastlines="1m")


def test_the_test_can_see_a_download(weather):
    panel = weather[1].sda.plot(coastlines=False).axes[0]
    panel.coastlines("50m")
    with pytest.raises(AssertionError, match="tried to download"):
        panel.figure.canvas.draw()


@pytest.mark.parametrize("folder", ["data_dir", "pre_existing_data_dir"])
def test_files_of_natural_earth_are_used_where_they_are(weather, folder):
    """One line across the map, written as cartopy would have stored it."""
    shapefile = pytest.importorskip("shapefile")
    path = Path(cartopy.config[folder]) / "shapefiles" / "natural_earth" / "physical" / "ne_10m_coastline.shp"
    path.parent.mkdir(parents=True)
    with shapefile.Writer(str(path)) as file:
        file.field("name", "C")
        file.line([[[-8.0, 57.0], [2.0, 63.0]]])
        file.record("line")
    (coast,) = coast_of(weather[1].sda.plot(coastlines="10m").axes[0])
    (line,) = coast._feature.geometries()
    np.testing.assert_allclose(line.coords, [[-8, 57], [2, 63]])
    extent = (-12, 12, 50, 65)
    assert [g.length for g in coast_geometries(extent)] == [g.length for g in coast_geometries(extent, "10m")]


def test_the_outline_looks_like_the_uk():
    """Distances from places on the coast, in km, and which of some towns lie on the big island."""
    lines = coast_geometries(UK)
    land = shapely.union_all(lines)
    on_the_coast = {
        "Land's End": (-5.716, 50.066), "Holyhead": (-4.633, 53.31), "Flamborough Head": (-0.083, 54.116),
        "Rattray Head": (-1.815, 57.61), "Dungeness": (0.975, 50.913), "Malin Head": (-7.373, 55.381),
    }  # fmt: skip
    for lon, lat in on_the_coast.values():
        assert land.distance(shapely.Point(lon, lat)) * 111 < 4
    rings = [shapely.Polygon(line) for line in bundled() if len(line) > 3 and np.allclose(line[0], line[-1])]
    island = next(ring for ring in rings if ring.contains(shapely.Point(-2.0, 53.0)))
    equal_area = np.stack([np.deg2rad(island.exterior.xy[0]), np.sin(np.deg2rad(island.exterior.xy[1]))], axis=1)
    assert shapely.Polygon(equal_area).area * 6371**2 == pytest.approx(209_331, rel=0.05)  # km2, with closed estuaries
    for name, (lon, lat) in {"London": (-0.12, 51.5), "Cardiff": (-3.18, 51.5), "Inverness": (-4.23, 57.47)}.items():
        assert island.contains(shapely.Point(lon, lat)), name
    for lon, lat in ((-4.5, 54.2), (-6.0, 53.8), (-5.0, 52.3), (1.5, 52.9)):  # Man, the Irish Sea, off Norfolk
        assert not island.contains(shapely.Point(lon, lat))


def test_the_outline_is_small_and_has_no_seams():
    path = Path(coastlines.__file__).with_name("coastlines.npz")
    assert path.stat().st_size <= 300_000
    for line in bundled():
        assert np.abs(line[:, 0]).max() <= 180.01
        assert np.abs(line[:, 1]).max() <= 90
        assert np.abs(np.diff(line, axis=0)).max() < 10  # no jump across the map
        assert not (np.abs(line[:, 0]) > 179.99).all()
        assert line[:, 1].min() > -89


def test_outlines_do_not_depend_on_the_convention_of_longitudes():
    for west, east, south, north in (UK, (172.0, 188.0, -22.0, -12.0)):
        plain, turned = ((w, e, south, north) for w, e in ((west, east), (west + 360, east + 360)))
        assert len(coast_geometries(plain)) > 0
        assert {g.wkt for g in coast_geometries(plain)} == {g.wkt for g in coast_geometries(turned)}
        for a, b in zip(lines_within(plain), lines_within(turned), strict=True):
            np.testing.assert_allclose(a + np.array([360, 0]), b)


def test_more_cells_than_pixels_are_averaged():
    """A grid of 9 x 1439 cells: means over two cells that know no NaN, on the same area."""
    lon = np.linspace(0, 50, 1439)
    ds = field(np.arange(40.0, 49), lon)
    ds["sst"][0, 2, 10:12] = np.nan  # one block
    ds["sst"][0, 3, 20] = np.nan  # half a block
    panel = ds.sda.plot().axes[0]
    mesh = next(c for c in panel.collections if c.get_label() != "masked" and np.ndim(c.get_array()) == 2)
    drawn = np.ma.filled(mesh.get_array(), np.nan)
    values = ds.sst.values[0]
    assert drawn.shape == (9, 720)
    np.testing.assert_allclose(drawn[:, 6:10], (values[:, 12:20:2] + values[:, 13:20:2]) / 2)
    assert np.isnan(drawn[2, 5])
    assert drawn[3, 10] == values[3, 21]
    np.testing.assert_array_equal(drawn[:, -1], values[:, -1])
    np.testing.assert_allclose(mesh.get_coordinates()[0, [0, -1], 0], edges(lon)[[0, -1]])


def test_masked_cells_are_grey_and_hatched(weather):
    """Cells that never have a value are land; a gap at one time, or in one member, is not."""
    truth, post, _ = weather
    land = xr.zeros_like(truth.t[0], dtype=bool)
    land[1:3, 2:5] = True
    gap = post.t.isel(member=0).copy(deep=True).astype(bool) & False
    gap[4, 5, 7] = True
    figure = post.where(~land & ~gap).sda.plot(truth=truth, time=4)
    for panel, expected in zip(figure.axes[:5], [0, 6, 6, 6, 6], strict=True):
        grey = [c for c in panel.collections if c.get_label() == "masked"]
        if not expected:
            assert not grey
            continue
        found = ~np.ma.getmaskarray(np.ma.masked_invalid(grey[0].get_array()))
        np.testing.assert_array_equal(found, land)
        assert grey[0].get_cmap()(0.5)[:3] != (1, 1, 1)
        (hatched,) = [a for a in panel.patches if a.get_hatch()]
        assert len(hatched.get_path().to_polygons(closed_only=False)) == 6
    figure = post.sda.plot(truth=truth.where(~land), time=4)
    drawn = [any(c.get_label() == "masked" for c in panel.collections) for panel in figure.axes[:5]]
    assert drawn == [True, False, False, False, True]


def test_without_cartopy_the_outline_lies_on_plain_axes(weather, without_cartopy):
    truth, post, stations = weather
    assert importlib.util.find_spec("cartopy") is None
    figure = post.sda.plot(truth=truth, obs=stations, time=2)
    panels = figure.axes[:5]
    assert not any(isinstance(panel, GeoAxes) for panel in panels)
    assert (panels[0].get_xlabel(), panels[0].get_ylabel()) == ("longitude [°E]", "latitude [°N]")
    assert panels[0].get_aspect() == pytest.approx(2)  # 1 / cos(60 degrees)
    np.testing.assert_allclose([*panels[0].get_xlim(), *panels[0].get_ylim()], [-11, 5, 54, 66])
    for panel in panels:
        (outline,) = (c for c in panel.collections if type(c) is LineCollection)
        assert len(outline.get_segments()) == len(lines_within((-11, 5, 54, 66)))
    (marks,) = (c for c in panels[1].collections if c.get_label() == "observations")
    np.testing.assert_array_equal(marks.get_offsets(), [[-8, 56], [-2, 58], [2, 60]])
    bare = post.sda.plot(coastlines=False).axes[0]
    assert not any(type(c) is LineCollection for c in bare.collections)
    for options, asked in (({"projection": DEGREES}, "projection="), ({"coastlines": "50m"}, "coastlines='50m'")):
        with pytest.raises(ImportError, match=f"{asked} needs cartopy; install it with: pip install"):
            post.sda.plot(**options)


def test_the_callers_axes_decide(weather):
    truth, _, _ = weather
    _, plain = plt.subplots()
    truth.sda.plot(ax=plain)
    assert any(type(c) is LineCollection for c in plain.collections)
    ours = crs.Orthographic(-3, 60)
    _, round_earth = plt.subplots(subplot_kw={"projection": ours})
    truth.sda.plot(ax=round_earth)
    assert round_earth.projection == ours
    np.testing.assert_allclose(round_earth.collections[0].get_array(), truth.t.isel(time=-1))
    assert isinstance(coast_of(round_earth)[0]._feature, ShapelyFeature)


def test_rotated_latitudes_are_no_map(weather):
    """Grid latitudes of a rotated pole are not latitudes: no coast, no projection."""
    rotated = weather[0].rename(lat="rlat", lon="rlon")
    rotated["rlat"].attrs.update(standard_name="grid_latitude", units="degrees")
    rotated["rlon"].attrs.update(standard_name="grid_longitude", units="degrees")
    assert not isinstance(rotated.sda.plot().axes[0], GeoAxes)


POLE = crs.RotatedPole(pole_longitude=-162, pole_latitude=39.25)


def rotated(x, y, projection=POLE, dims=("j", "i"), **names):
    """The field on a grid of coordinates of a projection, with two-dimensional latitudes and longitudes."""
    lon, lat, _ = np.moveaxis(DEGREES.transform_points(projection, *np.meshgrid(x, y)), -1, 0)
    values = lat + lon % 360 / 1000
    coords = {"lat": (dims, lat, {"units": "degrees_north"}), "lon": (dims, lon, {"units": "degrees_east"})}
    return xr.Dataset({"sst": (("time", *dims), values[None], {"units": "K"})}, {"time": [0.0], **coords}).rename(names)


def drawn_corners(panel):
    """The corners of the cells in the coordinates of the projection, (2, up, across)."""
    lon, lat = np.moveaxis(panel.collections[0].get_coordinates(), -1, 0)
    return np.moveaxis(panel.projection.transform_points(DEGREES, lon, lat), -1, 0)[:2]


def test_cells_of_two_dimensional_coordinates_lie_where_they_are():
    """In a projection in which the grid is a rectangle, its cells are the boxes around the grid points."""
    x, y = np.arange(-16, 6.1, 0.5), np.arange(-12, 8.1, 0.5)
    ds = rotated(x, y)
    panel = ds.sda.plot(projection=POLE).axes[0]
    mesh = panel.collections[0]
    np.testing.assert_allclose(drawn_corners(panel), np.meshgrid(edges(x), edges(y)), atol=2e-3)
    np.testing.assert_array_equal(mesh.get_array(), ds.sst[0])
    assert coast_of(panel)
    chosen = ds.sda.plot().axes[0]
    assert type(chosen.projection) is crs.LambertConformal
    corner = chosen.projection.transform_points(DEGREES, *corners(ds.lat.values, ds.lon.values)[::-1])
    np.testing.assert_allclose([*chosen.get_xlim()], [corner[..., 0].min(), corner[..., 0].max()])


def test_corners_across_the_date_line():
    """Neither the convention of longitudes nor the order of rows and columns changes them."""
    ds = rotated(np.arange(-5, 5.1, 0.5), np.arange(-3, 3.1, 0.5), crs.RotatedPole(0.0, 70.0))
    lat, lon = ds.lat.values, ds.lon.values
    expected = corners(lat, lon)
    assert np.ptp(lon) > 350 > 20 > np.ptp(expected[1])
    for found in (corners(lat, lon % 360), [c.T[::-1] for c in corners(lat[::-1].T, lon[::-1].T)]):
        np.testing.assert_allclose(found[0], expected[0], atol=1e-9)
        np.testing.assert_allclose((found[1] - expected[1] + 180) % 360, 180, atol=1e-9)


def test_caps_on_two_dimensional_coordinates_stand_upright():
    """A square around the pole in a stereographic projection is drawn in that projection, pole and all."""
    for projection in (crs.NorthPolarStereo(-45), crs.SouthPolarStereo(30)):
        ds = rotated(np.linspace(-3e6, 3e6, 21), np.linspace(-3e6, 3e6, 21), projection)
        panel = ds.sda.plot(coastlines=False).axes[0]
        wanted = np.meshgrid(*2 * [edges(np.linspace(-3e6, 3e6, 21))])
        np.testing.assert_allclose(drawn_corners(panel), wanted, atol=2e4)
        assert np.isfinite(np.asarray(panel.collections[0].get_array())).all()


def test_observations_masks_and_missing_coordinates():
    ds = rotated(np.arange(-5, 5.1, 0.5), np.arange(-3, 3.1, 0.5), lat="lat_rho", lon="lon_rho")
    hole = xr.zeros_like(ds.lat_rho, bool)
    hole[:3, :4] = True
    ds = ds.where(~(ds.lat_rho > 52)).assign_coords({c: ds[c].where(~hole) for c in ("lat_rho", "lon_rho")})
    obs = xr.Dataset(
        {"sst": (("time", "station"), [[50.0, np.nan, 51.0]], {"units": "K"})},
        {"time": [0.0], "lat": ("station", [50.0, 50.5, 51.0]), "lon": ("station", [371.0, 12.0, 13.0])},
    )
    panel = ds.sda.plot(obs=obs).axes[0]
    grey, mesh, marks = (
        next(c for c in panel.collections if c.get_label() == k) for k in ("masked", "_child2", "observations")
    )
    np.testing.assert_array_equal(np.isfinite(np.ma.filled(grey.get_array(), np.nan)), (ds.lat_rho > 52) & ~hole)
    drawn = np.ma.filled(mesh.get_array(), np.nan)
    np.testing.assert_array_equal(np.isnan(drawn), (ds.lat_rho > 52) | hole)
    np.testing.assert_allclose(marks.get_offsets(), [[11, 50], [13, 51]])


def test_planes_of_the_globe_are_drawn_whole():
    coords = field(np.arange(-90, 91, 10.0), np.arange(0, 360, 10.0))
    plane = LatLon([coords.lat, coords.lon])
    np.testing.assert_allclose(plane.extent, (-5, 355, -90, 90))  # no cell reaches beyond a pole
    assert plane.place(np.array([-20.0, 340, 700])).tolist() == [340, 340, 340]
    globe = Map([coords.lat, coords.lon], projection=None, coastlines=False)
    np.testing.assert_allclose(globe.extent, (-185, 175, -90, 90), atol=1e-3)
    np.testing.assert_allclose(globe.place(np.array([-20.0, 340, 700])), -20)


def test_pictures_do_not_crash_beside_another_copy_of_proj():
    """The wheels of eccodes and pyproj hold different copies; the interpreter must end in peace."""
    pytest.importorskip("eccodes")
    code = (
        "import eccodes, xsda.plot; from xsda.plot.maps import choose_projection; choose_projection((-10, 2, 50, 58))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_maps_are_loaded_when_they_are_drawn():
    code = (
        "import sys, numpy as np, xarray as xr, xsda; assert not {'matplotlib', 'cartopy'} & set(sys.modules); "
        "xsda.systems.Lorenz63().simulate(3).sda.plot(); pipe.send('cartopy' in sys.modules)"
    )
    assert not fresh.answer(code)


def test_fields_can_be_called_by_name(weather):
    assert plot.fields(weather[0]).axes[0].projection == weather[0].sda.plot().axes[0].projection


def test_panels_of_a_wide_domain_lie_one_below_the_other():
    """In the order of the row of others, each as wide as nearly the whole figure."""
    wide, others = (field(np.arange(-4, 5.0, 2), np.linspace(240, east, 10)) for east in (330, 260))
    figures = []
    for truth in (wide, others):
        post = xr.concat([truth, truth + 1], "member")
        figures.append(post.sda.plot(truth=truth, coastlines=False))
    figures[0].canvas.draw()
    stacked, row = (figure.axes[:5] for figure in figures)
    places = [panel.get_position() for panel in stacked]
    assert [panel.get_title() for panel in stacked] == [panel.get_title() for panel in row]
    assert min(place.width for place in places) > 0.8
    assert all(upper.y0 >= lower.y1 for upper, lower in itertools.pairwise(places))
    assert row[0].get_subplotspec().get_gridspec().nrows == 1
