"""Films show what the pictures show, at every time."""

import itertools

import numpy as np
import pytest
from matplotlib.animation import FFMpegWriter
from PIL import Image

from xsda import plot
from xsda.plot import animation


def frames(film):
    """The figure after each frame."""
    figure, film._draw_was_started = film._fig, True  # so that matplotlib does not miss a rendering
    for index in range(5):
        film._draw_next_frame(index, blit=False)
        yield index, figure


def marks(panel):
    return [c.get_offsets().tolist() for c in panel.collections if c.get_label() == "observations"]


def test_frames_are_the_pictures(weather):
    """Each frame has the values, the title and the marks of ``plot`` at its time; colours and panels stay."""
    truth, post, stations = weather
    film = post.sda.animate(truth=truth, obs=stations, title="film")
    limits, places = [], []
    for index, figure in frames(film):
        expected = post.sda.plot(truth=truth, obs=stations, title="film", time=index)
        assert figure.get_suptitle() == expected.get_suptitle()
        for ours, theirs in zip(figure.axes[:5], expected.axes[:5], strict=True):
            np.testing.assert_array_equal(ours.collections[0].get_array(), theirs.collections[0].get_array())
            assert ours.get_title() == theirs.get_title()
            assert [m for m in marks(ours) if m] == [m for m in marks(theirs) if m]
        limits.append([panel.collections[0].get_clim() for panel in figure.axes[:5]])
        places.append([panel.get_position().bounds for panel in figure.axes])
    assert all(found == limits[0] for found in limits)
    assert all(found == places[0] for found in places)


def test_colours_fit_all_times(weather):
    """A field whose values grow with time needs limits from the whole of it."""
    truth, _, _ = weather
    growing = truth.assign(t=truth.t + 50 * np.arange(5)[:, None, None])
    film = growing.sda.animate()
    low, high = film._fig.axes[0].collections[0].get_clim()
    np.testing.assert_allclose((low, high), growing.t.quantile([0.005, 0.995]))
    list(frames(film))


def test_gif(weather, tmp_path, capsys):
    _, post, stations = weather
    assert post.sda.animate(tmp_path / "post.gif", obs=stations, dpi=30, fps=4, progress=True) is None
    with Image.open(tmp_path / "post.gif") as picture:
        assert picture.n_frames == 5
        assert picture.info["duration"] == 250  # milliseconds
        pictures = []
        for index in range(5):
            picture.seek(index)
            pictures.append(np.asarray(picture.convert("RGB")))
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(pictures))
    assert "writing post.gif: 100%" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["post.gif"]


@pytest.mark.skipif(not FFMpegWriter.isAvailable(), reason="ffmpeg is not installed")
def test_mp4(weather, tmp_path):
    weather[0].sda.animate(str(tmp_path / "truth.mp4"), dpi=30, progress=False)
    assert b"ftyp" in (tmp_path / "truth.mp4").read_bytes()[:12]


def test_a_missing_program_is_named_before_any_work(weather, tmp_path, monkeypatch):
    monkeypatch.setattr(FFMpegWriter, "isAvailable", lambda: False)
    monkeypatch.setattr(animation, "Picture", None)
    with pytest.raises(
        RuntimeError, match=r"post.mp4 needs the program ffmpeg, which is not installed; .*write .*post.gif"
    ):
        weather[0].sda.animate(tmp_path / "post.mp4")
    with pytest.raises(ValueError, match=r"post.avi must end in .mp4 or .gif"):
        weather[0].sda.animate(tmp_path / "post.avi")
    with pytest.raises(FileNotFoundError, match=r"folder .*nowhere does not exist"):
        weather[0].sda.animate(tmp_path / "nowhere" / "post.gif")


def test_a_failed_film_leaves_the_old_file(weather, tmp_path, monkeypatch):
    path = tmp_path / "post.gif"
    path.write_bytes(b"old")
    update, calls = animation.Picture.update, iter(range(5))

    def fail_later(self, shown):
        if next(calls) == 3:
            raise ZeroDivisionError
        update(self, shown)

    monkeypatch.setattr(animation.Picture, "update", fail_later)
    with pytest.raises(ZeroDivisionError):
        weather[0].sda.animate(path, dpi=30, progress=False)
    assert path.read_bytes() == b"old"


def test_only_maps_over_time_can_be_filmed(weather, lorenz):
    for states in (lorenz[0], weather[1].isel(time=0), weather[1].isel(lat=0)):
        with pytest.raises(ValueError, match="a film needs time and two space dimensions among"):
            plot.animate(states)
    with pytest.raises(ValueError, match="fps=0 must be an integer of at least 1"):
        weather[0].sda.animate(fps=0)
