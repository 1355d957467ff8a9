"""Pictures that commands draw: checked before the work, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_picture(path: Path, overwrite: bool) -> None:
    """Raise before drawing if the picture cannot be written, and choose the part of matplotlib that needs no screen."""
    from xsda.files import check_free, check_writable

    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise ImportError("pictures need matplotlib, which is not installed; pip install 'xsda[plot]'") from error
    matplotlib.use("Agg")
    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.removeprefix(".") not in known:
        raise ValueError(f"{path} must end in one of {', '.join(f'.{n}' for n in known)}")
    check_free(path, overwrite)
    check_writable(path)


def write_picture(figure: Figure, path: Path) -> None:
    """Write to a temporary name and move."""
    from xsda.files import replacing

    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=150)
