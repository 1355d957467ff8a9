"""Pictures of ensembles and of their scores.

``ensemble``, ``series``, ``fields`` and ``stations`` draw states, ``animate`` makes a film of maps. ``rank_histogram``,
``spread_skill``, ``error_over_time``, ``spectra`` and ``comparison`` draw scores. Matplotlib is imported when the first
of these functions is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xsda.plot.animation import animate
    from xsda.plot.diagnostics import error_over_time, rank_histogram, spread_skill
    from xsda.plot.draw_comparison import comparison
    from xsda.plot.draw_ensemble import ensemble
    from xsda.plot.draw_fields import fields
    from xsda.plot.draw_series import series
    from xsda.plot.draw_stations import stations
    from xsda.plot.scales import spectra

_MODULES = {
    "animate": "animation",
    "comparison": "draw_comparison",
    "ensemble": "draw_ensemble",
    "error_over_time": "diagnostics",
    "fields": "draw_fields",
    "rank_histogram": "diagnostics",
    "series": "draw_series",
    "spectra": "scales",
    "spread_skill": "diagnostics",
    "stations": "draw_stations",
}

__all__ = [
    "animate",
    "comparison",
    "ensemble",
    "error_over_time",
    "fields",
    "rank_histogram",
    "series",
    "spectra",
    "spread_skill",
    "stations",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    except ImportError as error:
        if str(error.name).split(".")[0] != "matplotlib":
            raise
        raise ImportError("plots need matplotlib; install it with: pip install 'xsda[plot]'") from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
