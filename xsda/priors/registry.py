"""Priors by name: those in the package need no network, others are fetched once and checked by their hash.

A registry is a JSON file, ``{"base_url": "https://...", "priors": {"name": {"file": "...", "sha256": "..."}}}``. Name one in
the environment variable ``XSDA_REGISTRY`` to add a group's own priors to those of the package.
"""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any, overload

from xsda.arguments import choose
from xsda.files import cache_dir
from xsda.priors.pool import Pool
from xsda.priors.prior import Prior, read_prior
from xsda.systems import MarkovChain

EMBEDDED = ("lorenz63", "lorenz96", "kolmogorov")


def registered() -> dict[str, dict[str, str]]:
    """The priors of the registry named by ``XSDA_REGISTRY``: file, sha256 and url of each."""
    path = os.environ.get("XSDA_REGISTRY")
    if not path:
        return {}
    try:
        data: dict[str, Any] = json.loads(Path(path).read_text())
        base = os.environ.get("XSDA_BASE_URL", data.get("base_url", "")).rstrip("/")
        return {
            name: {"file": e["file"], "sha256": e["sha256"], "url": f"{base}/{e['file']}"}
            for name, e in data["priors"].items()
        }
    except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the registry {path} (from XSDA_REGISTRY) cannot be read: {error!r}") from error


Model = str | os.PathLike[str] | Prior
Models = list[Model] | tuple[Model, ...] | Pool


@overload
def load_model(model: Model) -> Prior: ...
@overload
def load_model(model: Models) -> Pool: ...


def load_model(model: Model | Models) -> Prior | Pool:
    """Load a prior by name ("lorenz63") or from a file, or several as a pool (trainings with different seeds, say).

    Names are those of the package and of the registry in ``XSDA_REGISTRY``; everything else is a path.
    """
    if isinstance(model, (Prior, Pool)):
        return model
    if isinstance(model, (list, tuple)):
        loaded = [load_model(m) for m in model]
        return Pool([one for m in loaded for one in (m.priors if isinstance(m, Pool) else (m,))])
    if isinstance(model, MarkovChain):
        raise TypeError(
            f"model is a system ({model!r}), expected a prior, a path or a name. Train a prior with xsda.train(system.simulate(...)), or "
            "use the system in ds.sda.filter"
        )
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(f"model must be a prior, a path or a name, got {type(model).__name__}")
    name = os.fspath(model)
    if name in EMBEDDED:
        with resources.as_file(resources.files("xsda.priors") / "weights" / f"{name}.safetensors") as path:
            return read_prior(path)
    others = registered()
    if name in others:
        return read_prior(_fetch(name, **others[name]))
    if Path(name).is_file():
        return read_prior(name)
    if Path(name).suffix or os.sep in name:
        raise FileNotFoundError(f"no prior at {name}")
    raise ValueError(f"unknown model {name!r}; {choose(name, [*EMBEDDED, *others])} A file is named by its path.")


def _fetch(name: str, file: str, sha256: str, url: str) -> Path:
    import pooch

    try:
        return Path(pooch.retrieve(url, known_hash=f"sha256:{sha256}", fname=file, path=cache_dir() / "downloads"))
    except ValueError as error:
        raise ValueError(
            f"the prior {name!r} from {url} is not what the registry promises (wrong hash); refused"
        ) from error
    except Exception as error:
        raise ConnectionError(f"the prior {name!r} could not be fetched from {url}: {error}") from error


def models() -> dict[str, str]:
    """Names of the known priors and where they are."""
    return {**dict.fromkeys(EMBEDDED, "embedded"), **{k: v["url"] for k, v in registered().items()}}
