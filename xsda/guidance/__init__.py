"""Guidance methods; each turns the prior's denoiser into the posterior's."""

from xsda.guidance.base import Guidance, GuidedDenoiser
from xsda.guidance.likelihood import GaussianLikelihood
from xsda.guidance.mmps import MMPS
from xsda.guidance.sda import Calibrated, GaussianScore

GUIDANCE: dict[str, type[Guidance]] = {"calibrated": Calibrated, "sda": GaussianScore, "mmps": MMPS}

__all__ = ["GUIDANCE", "MMPS", "Calibrated", "GaussianLikelihood", "GaussianScore", "Guidance", "GuidedDenoiser"]
