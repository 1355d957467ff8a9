"""Score-based data assimilation on labelled data: from a prior and observations to a posterior ensemble.

``import xsda`` registers the accessor ``ds.sda`` on every xarray Dataset. The command ``xsda`` imports only what it
needs, so that ``xsda --help`` answers at once.
"""

import os
import sys
from itertools import pairwise

from xsda.version import __version__


def _runs_as_command() -> bool:
    """Whether this process was started as ``xsda`` or ``python -m xsda``. A script that imports the package was not."""
    program = sys.argv[0] if getattr(sys, "argv", None) else ""
    if program == "-m":  # Python is still looking for the module to run
        return ("-m", "xsda") in pairwise(sys.orig_argv)
    return os.path.basename(program) in ("xsda", "xsda.exe")


if not _runs_as_command():
    from xsda import accessor as _accessor  # noqa: F401  (registers ds.sda)
    from xsda import (
        baselines,
        data,
        diffusion,
        flow,
        guidance,
        likelihood,
        metrics,
        nn,
        observations,
        plot,
        priors,
        systems,
    )
    from xsda.assimilation import assimilate
    from xsda.compare import compare
    from xsda.crossvalidation import crossvalidate
    from xsda.diffusion import samplers
    from xsda.diffusion.samplers import NonFiniteSampleError
    from xsda.metrics import evaluate
    from xsda.observations import observe
    from xsda.priors import GaussianMixturePrior, GaussianPrior, Prior, load_model, models
    from xsda.reanalysis import reanalyse
    from xsda.sampling.density import elbo, log_prob
    from xsda.sampling.draw import sample
    from xsda.training import TrainingError, TrainingOptions, balance, train

__all__ = [
    "GaussianMixturePrior",
    "GaussianPrior",
    "NonFiniteSampleError",
    "Prior",
    "TrainingError",
    "TrainingOptions",
    "__version__",
    "assimilate",
    "balance",
    "baselines",
    "compare",
    "crossvalidate",
    "data",
    "diffusion",
    "elbo",
    "evaluate",
    "flow",
    "guidance",
    "likelihood",
    "load_model",
    "log_prob",
    "metrics",
    "models",
    "nn",
    "observations",
    "observe",
    "plot",
    "priors",
    "reanalyse",
    "sample",
    "samplers",
    "systems",
    "train",
]
