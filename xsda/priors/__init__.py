"""Priors of trajectories: learned, exact, pooled, and loaded by name."""

from xsda.priors.gaussian import GaussianMixturePrior, GaussianPrior
from xsda.priors.pool import Pool
from xsda.priors.prior import Prior
from xsda.priors.registry import load_model, models

__all__ = ["GaussianMixturePrior", "GaussianPrior", "Pool", "Prior", "load_model", "models"]
