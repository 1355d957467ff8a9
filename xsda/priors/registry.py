"""Priors by name. Some come with the package; others are downloaded once and checked by their hash.

A registry is a JSON file::

    {"base_url": "https://...", "priors": {"name": {"file": "...", "sha256": "..."}}}

Set the environment variable ``XSDA_REGISTRY`` to its path to add your own priors to those of the package. A download
that takes longer than ``XSDA_DOWNLOAD_SECONDS`` (default 600) is given up.
"""

from __future__ import annotations

import json
import os
import re
from importlib import resources
from pathlib import Path
from typing import Any, overload

from xsda.arguments import choose
from xsda.download import download
from xsda.priors.pool import Pool
from xsda.priors.prior import Prior, read_prior
from xsda.systems import MarkovChain

EMBEDDED = ("lorenz63", "lorenz96", "kolmogorov", "uk-t2m")


def registered() -> dict[str, dict[str, str]]:
    """The priors of the registry named by ``XSDA_REGISTRY``: file, sha256 and url of each."""
    path = os.environ.get("XSDA_REGISTRY")
    if not path:
        return {}
    try:
        return _entries(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"the registry {path} (from XSDA_REGISTRY) cannot be read: {error}") from error


def _entries(data: Any) -> dict[str, dict[str, str]]:
    """The entries of a registry with the address of each; raises if it has another form."""
    priors = data.get("priors") if isinstance(data, dict) else None
    if not isinstance(priors, dict):
        raise ValueError('it must be of the form {"base_url": "https://...", "priors": {...}}')
    base = os.environ.get("XSDA_BASE_URL") or data.get("base_url")
    if not isinstance(base, str) or not base.startswith(("https://", "http://")):
        raise ValueError(f"its base_url is {base!r}, which must begin with https:// or http://")
    out = {}
    for name, entry in priors.items():
        file, sha256 = (entry.get(k) if isinstance(entry, dict) else None for k in ("file", "sha256"))
        if not isinstance(file, str) or not isinstance(sha256, str) or not re.fullmatch("[0-9a-fA-F]{64}", sha256):
            raise ValueError(
                f'the prior {name!r} must have a "file" (its name) and a "sha256" (64 hexadecimal digits), got '
                f"{entry!r:.200}"
            )
        out[name] = {"file": file, "sha256": sha256.lower(), "url": f"{base.rstrip('/')}/{file}"}
    return out


Model = str | os.PathLike[str] | Prior
Models = list[Model] | tuple[Model, ...] | Pool


@overload
def load_model(model: Model) -> Prior: ...
@overload
def load_model(model: Models) -> Pool: ...


def load_model(model: Model | Models) -> Prior | Pool:
    """Load a prior by its name or from a file, or several priors as one pool.

    Parameters
    ----------
    model
        A name ("lorenz63"), the path of a file that ``Prior.save`` wrote, or a prior, which is returned as it is. Names
        are those of ``xsda.models()``; a registered prior is downloaded the first time. A list or tuple of these
        (trainings with different seeds, for example) makes a pool, which shares out the members of an ensemble among
        its priors.

    Returns
    -------
    Prior or Pool
        The prior, or the pool of several.

    Examples
    --------
    >>> import xsda
    >>> xsda.load_model("lorenz63").layout.names
    ('x', 'y', 'z')
    >>> len(xsda.load_model(["lorenz63", "lorenz63"]).priors)
    2
    """
    if isinstance(model, (Prior, Pool)):
        return model
    if isinstance(model, (list, tuple)):
        loaded = [load_model(m) for m in model]
        return Pool([one for m in loaded for one in (m.priors if isinstance(m, Pool) else (m,))])
    if isinstance(model, MarkovChain):
        raise TypeError(
            f"model is a system ({model!r}), expected a prior, a path or a name. Train a prior with "
            "xsda.train(system.simulate(...)), or use the system in ds.sda.filter"
        )
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(f"model must be a prior, a path or a name, got {type(model).__name__}")
    name = os.fspath(model)
    if name in EMBEDDED:
        with resources.as_file(resources.files("xsda.priors") / "weights" / f"{name}.safetensors") as path:
            return read_prior(path)
    others = registered()
    if name in others:
        return read_prior(download(f"the prior {name!r}", folder="downloads", **others[name]))
    if Path(name).is_file():
        return read_prior(name)
    if Path(name).suffix or os.sep in name:
        known = ", ".join(map(repr, [*EMBEDDED, *others]))
        raise FileNotFoundError(f"no prior at {name}; check the path, or choose a prior by name: {known}")
    raise ValueError(f"unknown model {name!r}; {choose(name, [*EMBEDDED, *others])} A file is named by its path.")


def models() -> dict[str, str]:
    """The priors that can be loaded by name.

    Returns
    -------
    dict
        "embedded" for the priors in the package, the address for those of the registry in ``XSDA_REGISTRY``, by name.

    Examples
    --------
    >>> import xsda
    >>> xsda.models()["lorenz63"]
    'embedded'
    """
    return {**dict.fromkeys(EMBEDDED, "embedded"), **{k: v["url"] for k, v in registered().items()}}
