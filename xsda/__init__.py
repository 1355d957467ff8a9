"""Score-based data assimilation on labelled data: from a prior and observations to a posterior ensemble.

``import xsda`` registers the accessor ``ds.sda`` on every xarray Dataset.
"""

from xsda import accessor as _accessor  # noqa: F401  (registers ds.sda)
from xsda import baselines, diffusion, flow, guidance, likelihood, metrics, nn, observations, plot, priors, systems
from xsda.assimilation import assimilate
from xsda.compare import compare
from xsda.diffusion import samplers
from xsda.diffusion.samplers import NonFiniteSampleError
from xsda.metrics import evaluate
from xsda.observations import observe
from xsda.priors import GaussianMixturePrior, GaussianPrior, Prior, load_model, models
from xsda.sampling.density import elbo, log_prob
from xsda.sampling.draw import sample
from xsda.training import TrainingError, TrainingOptions, balance, train
from xsda.version import __version__

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
    "sample",
    "samplers",
    "systems",
    "train",
]
