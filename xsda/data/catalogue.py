"""Finds data sets by name: ``xsda.data.fetch("era5-t2m-uk")``.

Small excerpts come with the package. Other files are looked for in the folder ``XSDA_DATA`` (a local mirror), then in
the cache, and are downloaded last. Their SHA-256 is checked wherever they come from.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import xarray as xr

from xsda.arguments import choose
from xsda.download import download


@dataclass(frozen=True)
class Source:
    """A file: its address and hash (of files that do not come with the package), and what it holds.

    ``drop`` names helper coordinates that are of no use.
    """

    file: str
    about: str
    url: str = ""
    sha256: str = ""
    drop: tuple[str, ...] = ()


SOURCES = {
    "era5-t2m-uk": Source(
        "era5-2mt-2019-03-uk.grib",
        "hourly two-metre temperature over the British Isles, March 2019, on 33 x 49 points (ERA5, Copernicus Climate "
        "Change Service)",
        "https://github.com/pydata/xarray-data/raw/master/era5-2mt-2019-03-uk.grib",
        "e5e82609f0e28e84822852e15d20c88dbb4b142a30264a7e6f87b9b5c7501df9",
        ("number", "step", "surface", "valid_time"),
    ),
    "era5-t2m-uk-small": Source("era5-t2m-uk-small.nc", "the same at every third hour and every second point"),
    "ostia-sst": Source(
        "ostia_monthly.nc",
        "monthly sea surface temperature within 5 degrees of the equator, April 2006 to September 2010, on 18 x 432 "
        "points (OSTIA, Met Office; Open Government Licence, British Crown copyright 2018)",
        "https://github.com/SciTools/iris-sample-data/raw/v2.5.2/iris_sample_data/sample_data/ostia_monthly.nc",
        "e40d33fef22eabae985dae0fcee7643e127394195cef55a2e40e1f5416d57f98",
        (
            "forecast_period",
            "forecast_reference_time",
            "forecast_reference_time_bnds",
            "latitude_longitude",
            "time_bnds",
        ),
    ),
    "ostia-sst-small": Source("ostia-sst-small.nc", "the same between 120 W and 30 W, rounded to 0.01 K"),
}


def fetch(name: str) -> xr.Dataset:
    """Open a data set by name. Large ones are downloaded the first time.

    Parameters
    ----------
    name
        One of ``xsda.data.SOURCES``: "era5-t2m-uk" (hourly temperature) and "ostia-sst" (monthly sea surface
        temperature), or "era5-t2m-uk-small" and "ostia-sst-small", which come with the package.

    Returns
    -------
    xarray.Dataset
        The data. GRIB files need the extra ``xsda[grib]``. The attributes of the excerpts name their source.

    Examples
    --------
    >>> era5 = xsda.data.fetch("era5-t2m-uk-small")
    >>> dict(era5.sizes)
    {'time': 248, 'latitude': 17, 'longitude': 25}
    """
    if name not in SOURCES:
        raise ValueError(f"unknown data set {name!r}; {choose(name, SOURCES)}")
    source = SOURCES[name]
    if not source.url:
        with resources.as_file(resources.files("xsda.data") / source.file) as path:
            return xr.load_dataset(path)
    path = _mirrored(source) or download(
        f"the data set {name!r}", file=source.file, sha256=source.sha256, url=source.url, folder="data"
    )
    if path.suffix != ".grib":
        return xr.open_dataset(path).drop_vars(source.drop)
    try:
        import cfgrib  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{path} is a GRIB file; install its reader with: pip install 'xsda[grib]'") from error
    # without an index file, so that the folder may be read-only
    return xr.open_dataset(path, engine="cfgrib", backend_kwargs={"indexpath": ""}).drop_vars(source.drop)


def _mirrored(source: Source) -> Path | None:
    """Return the file in the local mirror, if there is one; raise if it is another file."""
    folder = os.environ.get("XSDA_DATA")
    path = Path(folder or "") / source.file
    if not folder or not path.is_file():
        return None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != source.sha256:
        raise ValueError(f"{path} (in XSDA_DATA) has the SHA-256 {digest}, expected {source.sha256}; replace it")
    return path
