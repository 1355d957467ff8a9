"""Diffusion models on tensors: noise schedules, denoisers, losses, samplers and likelihoods."""

from xsda.diffusion.denoisers import Denoiser, Preconditioned
from xsda.diffusion.error import ErrorCurve, measure_error
from xsda.diffusion.log_prob import elbo, log_prob
from xsda.diffusion.loss import denoising_loss, training_times
from xsda.diffusion.noise import MemberNoise
from xsda.diffusion.schedules import VE, VP, LinearBeta, Schedule, SubSubVP, SubVP

__all__ = [
    "VE",
    "VP",
    "Denoiser",
    "ErrorCurve",
    "LinearBeta",
    "MemberNoise",
    "Preconditioned",
    "Schedule",
    "SubSubVP",
    "SubVP",
    "denoising_loss",
    "elbo",
    "log_prob",
    "measure_error",
    "training_times",
]
