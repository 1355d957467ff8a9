"""Maps over time, as a film."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.animation import AbstractMovieWriter, FFMpegWriter, FuncAnimation, PillowWriter
from tqdm.auto import tqdm

from xsda.arguments import whole_number
from xsda.files import replacing
from xsda.plot.draw_fields import choose_columns, choose_looks, panel_values
from xsda.plot.panels import finish
from xsda.plot.picture import Picture
from xsda.plot.selection import check_obs, drawable, drawn_variables, find_drawn_axes, one_state

SAMPLED = 12  # states from which the limits of the colours are taken


def animate(
    post: xr.Dataset,
    path: str | Path | None = None,
    *,
    truth: xr.Dataset | None = None,
    obs: Any = None,
    variable: str | Sequence[str] | None = None,
    members: int = 1,
    title: str | None = None,
    cmap: Any = None,
    projection: Any = None,
    coastlines: bool | str = True,
    fps: int = 8,
    dpi: int = 100,
    progress: bool | None = None,
) -> FuncAnimation | None:
    """Film of the maps of ``xsda.plot.fields``, one frame for each time.

    Colours mean the same in all frames. A frame marks the observations that are nearer in time to its state than to any
    other.

    Parameters
    ----------
    post
        Ensemble or trajectory on two space dimensions.
    path
        File to write: ``.mp4``, which needs the program ffmpeg, or ``.gif``. Default: no file.
    truth, obs, variable, members, title, cmap, projection, coastlines
        As in ``xsda.plot.fields``.
    fps
        Frames per second.
    dpi
        Pixels per inch of the file; a figure is 5 to 15 inches wide.
    progress
        Show a progress bar while writing. Default: in a terminal or notebook.

    Returns
    -------
    matplotlib.animation.FuncAnimation or None
        Without ``path`` the animation; show it in a notebook with ``HTML(animation.to_jshtml())`` of IPython.display.

    Examples
    --------
    >>> weather.sda.animate("weather.gif", dpi=40, progress=False)

    >>> film = weather.sda.animate()
    >>> html = film.to_jshtml(default_mode="once")
    """
    whole_number("fps", fps, least=1)
    writer = None if path is None else _writer(Path(path), fps)
    post, truth = drawable(post, truth, variable, first=True)
    names = drawn_variables(post, variable)[: 1 if variable is None else None]
    check_obs(obs, post)
    axis, dims = find_drawn_axes(post)
    if axis is None or len(dims) != 2:
        raise ValueError(
            f"a film needs time and two space dimensions among {tuple(post.sizes)}; use plot for other states"
        )
    columns = choose_columns(post, members, with_truth=truth is not None)
    picture = Picture.start(post, truth, names, dims, columns, projection=projection, coastlines=coastlines, ax=None)

    def values(index: int) -> tuple[Any, dict[str, Any]]:
        drawn = one_state(post, truth, axis, index)
        return drawn, {name: panel_values(drawn, name, columns, dims) for name in names}

    drawn, shown = values(0)
    picture.draw(shown, _looks(post, names, values, cmap))
    picture.mark(obs, drawn)
    finish(
        picture.figure,
        picture.axes,
        None,
        picture.legend(always=obs is not None),
        ", ".join(filter(None, (title, drawn.label))),
    )
    picture.figure.canvas.draw()
    picture.figure.set_layout_engine("none")  # the panels stay where they are

    def frame(index: int) -> list[Any]:
        drawn, shown = values(index)
        picture.update(shown)
        picture.mark(obs, drawn)
        picture.figure.suptitle(_joined(title, drawn.label))
        return []

    film = FuncAnimation(picture.figure, frame, frames=post.sizes[axis], interval=1000 / fps, cache_frame_data=False)
    plt.close(picture.figure)
    if path is None:
        return film
    _write(film, Path(path), writer, post.sizes[axis], dpi, progress)
    return None


def _joined(title: str | None, label: str) -> str:
    return ", ".join(filter(None, (title, label)))


def _looks(post: xr.Dataset, names: Sequence[str], values: Any, cmap: Any) -> dict[str, Mapping[Any, dict[str, Any]]]:
    """Colours that fit all times, from some of them."""
    count = post.sizes[find_drawn_axes(post)[0]]
    some = [values(int(i))[1] for i in np.unique(np.linspace(0, count - 1, SAMPLED).round())]
    return {
        name: choose_looks(post[name], {k: np.stack([v[name][k] for v in some]) for k in some[0][name]}, cmap)
        for name in names
    }


def _writer(path: Path, fps: int) -> AbstractMovieWriter:
    """What writes a file of this name; raises before any work if there is nothing."""
    if path.suffix not in (".gif", ".mp4"):
        raise ValueError(f"{path} must end in .mp4 or .gif")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist")
    if path.suffix == ".gif":
        return PillowWriter(fps=fps)
    if not FFMpegWriter.isAvailable():
        raise RuntimeError(
            f"{path} needs the program ffmpeg, which is not installed; install it, for example with conda or apt, or "
            f"write {path.with_suffix('.gif')}"
        )
    return FFMpegWriter(fps=fps)


def _write(film: FuncAnimation, path: Path, writer: Any, frames: int, dpi: int, progress: bool | None) -> None:
    """Write the file whole or not at all."""
    disable = None if progress is None else not progress
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=frames, desc=f"writing {path.name}", unit="frame", disable=disable) as bar,
    ):
        film.save(Path(folder) / path.name, writer=writer, dpi=dpi, progress_callback=lambda *_: bar.update())
        with replacing(path) as part:
            shutil.copyfile(Path(folder) / path.name, part)
