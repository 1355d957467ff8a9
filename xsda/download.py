"""Downloads of files that are known by their SHA-256, into the cache.

A download that takes longer than ``XSDA_DOWNLOAD_SECONDS`` (default 600) is given up.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from xsda.files import cache_dir

DOWNLOAD_SECONDS = 600.0


def download(what: str, file: str, sha256: str, url: str, folder: str) -> Path:
    """Return a file of the cache; it is downloaded if it is not there, and refused if its hash is another.

    ``what`` describes it in errors.
    """
    import pooch

    place = (cache_dir() / folder).resolve()
    if place not in Path(os.path.realpath(place / file)).parents:
        raise ValueError(f"the file {file!r} of {what} lies outside the cache {place}; give a plain file name")
    try:
        return Path(pooch.retrieve(url, known_hash=f"sha256:{sha256}", fname=file, path=place, downloader=_in_time))
    except OSError as error:
        raise ConnectionError(f"{what} could not be fetched from {url}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{what} from {url} is not what was promised (wrong hash); refused") from error


def _in_time(url: str, file: str, _: Any) -> None:
    """Download in a thread and give up after the time limit; the timeout of a socket restarts with each byte."""
    from pooch import HTTPDownloader

    seconds, errors = _download_seconds(), []

    def transfer() -> None:
        try:
            HTTPDownloader()(url, file, None)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=transfer, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"it was not complete after {seconds:g} seconds; set XSDA_DOWNLOAD_SECONDS to wait longer")
    if errors:
        raise errors[0]


def _download_seconds() -> float:
    text = os.environ.get("XSDA_DOWNLOAD_SECONDS", str(DOWNLOAD_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise OSError(f"XSDA_DOWNLOAD_SECONDS={text!r} must be a positive number of seconds")
    return seconds
