"""Priors: learned, exact, embedded, registered."""

from xsda.priors.gaussian import GaussianMixturePrior, GaussianPrior
from xsda.priors.prior import Prior
from xsda.priors.registry import load_model, models

__all__ = ["GaussianMixturePrior", "GaussianPrior", "Prior", "load_model", "models"]
