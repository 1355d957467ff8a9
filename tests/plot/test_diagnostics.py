"""Diagnostic pictures draw the numbers that the metrics give."""

import numpy as np
import pytest
import xarray as xr

from xsda import metrics, plot
from xsda.metrics.spectra import energy_spectrum, spectrum


def fields(members=None, scale=1.0, seed=0, times=6, n=8):
    """Gaussian u and v around a common centre on a periodic plane; one trajectory, or some members."""
    centre = np.random.default_rng(99).standard_normal((times, n, n))
    rng = np.random.default_rng(seed)
    dims, shape = ("time", "y", "x"), (times, n, n)
    if members:
        dims, shape = ("member", *dims), (members, *shape)
    ring = {"period": float(n), "units": "km"}
    coords = {
        "time": ("time", np.arange(times) * 0.5, {"units": "h"}),
        "y": ("y", np.arange(float(n)), ring),
        "x": ("x", np.arange(float(n)), ring),
    }
    data = {v: (dims, centre + scale * rng.standard_normal(shape), {"units": "m s-1"}) for v in ("u", "v")}
    return xr.Dataset(data, coords)


TRUTH = fields(seed=1)
SETS = {"EnKF": fields(10, 0.5, seed=2), "SDA": fields(12, seed=3)}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_rank_histogram():
    figure = plot.rank_histogram(SETS, TRUTH, title="ranks")
    panels = np.reshape(figure.axes, (2, 2))
    assert [ax.get_title() for ax in panels[0]] == ["u [m s⁻¹]", "v [m s⁻¹]"]
    assert [ax.get_ylabel().split("\n")[0] for ax in panels[:, 0]] == list(SETS)
    assert panels[1, 0].get_xlabel() == "rank of the truth"
    for row, ens in zip(panels, SETS.values(), strict=True):
        counts = metrics.rank_histogram(ens.v, TRUTH.v)
        heights = [bar.get_height() for bar in row[1].containers[0]]
        np.testing.assert_allclose(heights, counts / counts.mean())
    band = panels[1, 0].patches[-1]  # a binomial of 384 cases and 13 ranks
    sd = (12 / 384) ** 0.5
    assert band.get_y() == pytest.approx(1 - 1.645 * sd, abs=0.3 * sd)
    assert band.get_y() + band.get_height() == pytest.approx(1 + 1.645 * sd, abs=0.3 * sd)
    assert legend(figure) == ["flat by chance (90 %)"]
    assert len(plot.rank_histogram(SETS["SDA"], TRUTH, variable=["u"]).axes) == 1


def test_the_band_holds_what_chance_makes():
    inside = []
    for seed in range(8):
        (ax,) = plot.rank_histogram(fields(9, seed=seed), fields(seed=50 + seed), variable=["u"]).axes
        band, heights = ax.patches[-1], np.array([bar.get_height() for bar in ax.containers[0]])
        low, high = band.get_y(), band.get_y() + band.get_height()
        inside.append(((heights >= low - 1e-9) & (heights <= high + 1e-9)).mean())
    assert np.mean(inside) == pytest.approx(0.9, abs=0.07)


def test_spread_skill():
    wide = 0.5 + (TRUTH.x + 8 * TRUTH.y) / 32  # calibrated, with a spread that differs from place to place
    noise = [fields(m, seed=s) - fields(m, 0, seed=s) for m, s in ((None, 5), (40, 6))]
    truth, ens = (wide * part for part in noise)
    truth["u"].attrs["units"] = "m s-1"
    figure = plot.spread_skill({"SDA": ens, "narrow": 0.5 * ens}, truth, variable=["u"], bins=6)
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("spread of u [m s⁻¹]", "RMSE of u [m s⁻¹]")
    assert ax.get_title() == "64 cases per point"
    right, narrow, diagonal = ax.lines
    assert diagonal.get_slope() == 1
    spread, error = right.get_data()
    assert len(spread) == 6
    assert (np.diff(spread) > 0).all()
    np.testing.assert_allclose(error, spread, rtol=0.25)
    np.testing.assert_allclose(narrow.get_xdata(), spread / 2)
    total = metrics.spread_skill(ens, truth)["u"]
    assert (np.mean(spread**2) / np.mean(error**2)) ** 0.5 == pytest.approx(float(total))
    assert legend(figure) == ["SDA", "narrow", "spread = error"]
    holes = truth.where(truth.x > 0)
    assert plot.spread_skill(ens, holes, variable=["u"], bins=5).axes[0].get_title() == "at least 67 cases per point"


def test_error_over_time():
    figure = plot.error_over_time(SETS, TRUTH.where(TRUTH.x > 1))
    assert [ax.get_ylabel() for ax in figure.axes] == ["u [m s⁻¹]", "v [m s⁻¹]"]
    assert figure.axes[-1].get_xlabel() == "time [h]"
    for (solid, dashed), ens in zip(np.reshape(figure.axes[1].lines, (2, 2)), SETS.values(), strict=True):
        part, truth = ens.v.sel(x=slice(2, None)), TRUTH.v.sel(x=slice(2, None))
        np.testing.assert_array_equal(solid.get_xdata(), TRUTH.time)
        np.testing.assert_allclose(solid.get_ydata(), metrics.rmse(part, truth, ["x", "y"]))
        np.testing.assert_allclose(dashed.get_ydata(), metrics.spread(part, ["x", "y"]))
        assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
        assert solid.get_color() == dashed.get_color()
    assert legend(figure) == ["EnKF", "SDA", "RMSE of the mean", "spread"]


def test_spectra():
    figure = plot.spectra({"truth": TRUTH, "SDA": SETS["SDA"]}, ensemble_mean=True)
    ax = figure.axes[1]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("wavenumber [rad km⁻¹]", "spectral density [m² km s⁻² rad⁻¹]")
    assert ax.get_title() == "v [m s⁻¹]"
    truth, members, mean = ax.lines
    for line, field in ((truth, TRUTH), (members, SETS["SDA"]), (mean, SETS["SDA"].mean("member"))):
        density = spectrum(field.v)
        density = density.mean([d for d in density.dims if d != "wavenumber"])[1:5]  # up to the Nyquist wavenumber
        np.testing.assert_allclose(line.get_xdata(), density["wavenumber"])
        np.testing.assert_allclose(line.get_ydata(), density)
    (band,) = ax.collections
    low, high = spectrum(SETS["SDA"].v).mean("time").quantile([0.05, 0.95], "member")[:, 1:5].values
    np.testing.assert_allclose(band.get_paths()[0].get_extents().get_points()[:, 1], [low.min(), high.max()])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert legend(figure) == ["truth", "SDA", "mean of SDA"]


def test_spectrum_of_kinetic_energy():
    (ax,) = plot.spectra({"truth": TRUTH, "SDA": SETS["SDA"]}, kinetic=("u", "v")).axes
    assert ax.get_title() == "kinetic energy"
    np.testing.assert_allclose(ax.lines[0].get_ydata(), energy_spectrum(TRUTH).mean("time")[1:5])


def test_comparison():
    figure = plot.comparison(SETS, TRUTH)
    panels = np.reshape(figure.axes, (2, 3))
    assert [ax.get_title() for ax in panels[0]] == ["", "EnKF", "SDA"]
    assert [ax.get_ylabel() for ax in panels[:, 0]] == ["u [m s⁻¹]", "v [m s⁻¹]"]
    alone = plot.error_over_time(SETS, TRUTH).axes[0].lines
    for line, other in zip(panels[0, 0].lines, alone, strict=True):
        np.testing.assert_array_equal(line.get_data(), other.get_data())
    assert panels[1, 1].get_ylim() == panels[1, 2].get_ylim()
    assert len(panels[1, 2].containers[0]) == 13
    assert legend(figure) == ["EnKF", "SDA", "RMSE of the mean", "spread", "flat by chance (90 %)"]


def test_lazy_ensembles():
    lazy = SETS["SDA"].chunk({"member": 4, "x": 4})
    for draw in (plot.rank_histogram, plot.spread_skill, plot.error_over_time, plot.comparison):
        draw(lazy, TRUTH)
    plot.spectra(lazy)


@pytest.mark.parametrize("draw", [plot.rank_histogram, plot.spread_skill, plot.error_over_time, plot.comparison])
def test_errors(draw):
    with pytest.raises(KeyError, match="no variable 'uu' in 'EnKF'; did you mean 'u'"):
        draw(SETS, TRUTH, variable=["uu"])
    with pytest.raises(KeyError, match="no variable 'v' in 'truth'"):
        draw(SETS, TRUTH[["u"]], variable=["v"])
    with pytest.raises(ValueError, match="share no variable: EnKF: u, v; SDA: u, v; truth: h"):
        draw(SETS, TRUTH[["u"]].rename(u="h"))
    with pytest.raises(ValueError, match="no ensembles were given"):
        draw({}, TRUTH)
    with pytest.raises(TypeError, match="expected a Dataset under the label 'SDA', got DataArray"):
        draw({"SDA": SETS["SDA"].u}, TRUTH)
    with pytest.raises(ValueError, match="no dimension 'member'"):
        draw(TRUTH, TRUTH)


def test_nothing_to_draw():
    for draw in (plot.rank_histogram, plot.spread_skill):
        with pytest.raises(ValueError, match="no case of 'u' has both a truth and all members"):
            draw(SETS, TRUTH * np.nan)
    with pytest.raises(ValueError, match="bins=0 must be an integer of at least 1"):
        plot.spread_skill(SETS, TRUTH, bins=0)


def test_logarithmic_errors():
    for draw in (plot.error_over_time, plot.comparison):
        linear, log = (draw(SETS, TRUTH, variable="v", log=log).axes[0] for log in (False, True))
        assert (linear.get_yscale(), log.get_yscale()) == ("linear", "log")
        assert linear.get_ylim()[0] == 0
        np.testing.assert_array_equal(linear.lines[0].get_ydata(), log.lines[0].get_ydata())
    (panel,) = plot.spread_skill(SETS, TRUTH, variable="v", log=True).axes
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    assert panel.get_xlim() == panel.get_ylim()
    drawn = np.concatenate([np.ravel(line.get_data()) for line in panel.lines[:2]])
    assert panel.get_xlim()[0] < drawn.min() < drawn.max() < panel.get_xlim()[1]
