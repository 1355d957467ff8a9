"""Selects values by flag and place, averages those that lie close together, and says how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from xsda.arguments import warn
from xsda.labels.grid import Grid
from xsda.observations.compile import swapped
from xsda.observations.inside import drop_outside
from xsda.observations.observed import NothingObserved, Observed
from xsda.observations.quality import accepted
from xsda.observations.superobs import superobs


@dataclass(eq=False)
class Selection:
    """The options ``quality``, ``outside`` and ``superobs``, applied in this order, with one notice of what they do."""

    quality: Any = None
    outside: str = "raise"
    superobs: Any = None
    texts: list[str] = field(default_factory=list)
    flags: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.outside not in ("raise", "drop"):
            raise ValueError(f"outside={self.outside!r} must be 'raise' or 'drop'")

    def __bool__(self) -> bool:
        """Whether any option selects or averages."""
        return self.quality is not None or self.outside == "drop" or self.superobs is not None

    def keep_good(self, ds: xr.Dataset, name: str, source: str) -> xr.Dataset:
        """Mark the values of one variable whose flags are not accepted as missing."""
        if self.quality is None:
            return ds
        good = accepted(ds, name, self.quality, source)
        self.flags.append(good is not None)
        if good is None:
            self.texts.append(f"{name!r} in {source} has no quality flags and is used as it is")
            return ds
        kept = ds[name].where(good)
        there = int(ds[name].notnull().sum())
        rejected = there - int(kept.notnull().sum())
        if rejected:
            self.texts.append(f"{rejected} of {there} values of {name!r} in {source} have flags that are not accepted")
        return ds.assign({name: kept.transpose(*ds[name].dims).assign_attrs(ds[name].attrs)})

    def narrow(self, found: Sequence[Observed], grid: Grid | None, start: float = np.inf) -> list[Observed]:
        """Leave out what lies outside the grid, average what lies close together, and give the notice."""
        kept = list(found)
        if self.outside == "drop":
            kept = self._inside(kept, _needed(grid, "outside='drop'"), start)
        if self.superobs is not None:
            kept = [self.average(o, _needed(grid, "superobs")) for o in kept]
        self.say()
        return kept

    def _inside(self, found: Sequence[Observed], grid: Grid, start: float) -> list[Observed]:
        """Leave out what lies outside the grid; raise if nothing is left."""
        kept = []
        for o in found:
            inside, counts = drop_outside(o, grid, start)
            kept += [] if inside is None else [inside]
            if counts:
                where = ", ".join(f"{n} along {d!r}" for d, n in counts.items())
                total = f"{sum(counts.values())} of {len(o.pick)} values of {o.name!r} in {o.source}"
                hint = "; they are inside if latitude and longitude are swapped" if swapped(grid, o.da) else ""
                self.texts.append(f"{total} lie outside the grid and are not used ({where}){hint}")
        if not any(len(o.pick) for o in kept) and any(len(o.pick) for o in found):
            raise NothingObserved(
                f"no observation lies inside the grid: {'; '.join(self.texts)}; check units and positions"
            )
        return kept

    def average(self, observed: Observed, grid: Grid) -> Observed:
        """Average what lies close together."""
        mean = superobs(observed, grid, self.superobs)
        if mean is not observed:
            name = f"{observed.name!r} in {observed.source}"
            self.texts.append(f"{len(observed.pick)} values of {name} are averaged to {len(mean.pick)}")
        return mean

    def say(self) -> None:
        """Give the notice; raise if flags were asked for and there are none."""
        if self.flags and not any(self.flags):
            raise ValueError(
                "quality was given, but no observed variable has quality flags; add a variable such as 't2m_quality', "
                "or omit quality"
            )
        if self.texts:
            warn("; ".join(self.texts), UserWarning)


def _needed(grid: Grid | None, option: str) -> Grid:
    if grid is None:
        raise ValueError(f"{option} needs grid=...")
    return grid
