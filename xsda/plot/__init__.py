"""Pictures of ensembles and of their scores.

``ensemble``, ``series`` and ``fields`` draw states. ``rank_histogram``, ``spread_skill``, ``error_over_time``,
``spectra`` and ``comparison`` draw scores. Matplotlib is imported when the first of these functions is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xsda.plot.diagnostics import error_over_time, rank_histogram, spread_skill
    from xsda.plot.draw_comparison import comparison
    from xsda.plot.draw_ensemble import ensemble
    from xsda.plot.draw_fields import fields
    from xsda.plot.draw_series import series
    from xsda.plot.scales import spectra

_MODULES = {
    "comparison": "draw_comparison",
    "ensemble": "draw_ensemble",
    "error_over_time": "diagnostics",
    "fields": "draw_fields",
    "rank_histogram": "diagnostics",
    "series": "draw_series",
    "spectra": "scales",
    "spread_skill": "diagnostics",
}

__all__ = ["comparison", "ensemble", "error_over_time", "fields", "rank_histogram", "series", "spectra", "spread_skill"]


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
