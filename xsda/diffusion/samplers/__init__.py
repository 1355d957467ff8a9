"""Samplers of the reverse process. Every sampler works with every denoiser, guided or not."""

from xsda.diffusion.samplers.ancestral import DDIM, DDPM, PredictorCorrector
from xsda.diffusion.samplers.dpm import DPMpp2M, DPMpp2MSDE
from xsda.diffusion.samplers.grids import time_grid
from xsda.diffusion.samplers.ode import Euler, Heun, velocity
from xsda.diffusion.samplers.sampler import NonFiniteSampleError, Sampler, langevin
from xsda.diffusion.samplers.twisted import TDS

SAMPLERS: dict[str, type[Sampler]] = {
    "dpmpp2m": DPMpp2M,
    "dpmpp2m_sde": DPMpp2MSDE,
    "ddim": DDIM,
    "ddpm": DDPM,
    "pc": PredictorCorrector,
    "euler": Euler,
    "heun": Heun,
    "tds": TDS,
}

__all__ = [
    "DDIM",
    "DDPM",
    "SAMPLERS",
    "TDS",
    "DPMpp2M",
    "DPMpp2MSDE",
    "Euler",
    "Heun",
    "NonFiniteSampleError",
    "PredictorCorrector",
    "Sampler",
    "langevin",
    "time_grid",
    "velocity",
]
