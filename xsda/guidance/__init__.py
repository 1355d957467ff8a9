"""Guidance methods, which turn the denoiser of the prior into the denoiser of the posterior."""

from xsda.guidance.calibrated import Calibrated
from xsda.guidance.dps import DPS
from xsda.guidance.guided import Guidance, GuidedDenoiser
from xsda.guidance.mmps import MMPS
from xsda.guidance.pigdm import PiGDM, Projection, Proximal
from xsda.guidance.scaling import Scaling
from xsda.guidance.sda import GaussianScore
from xsda.guidance.tmpd import TMPD

GUIDANCE: dict[str, type[Guidance]] = {
    "calibrated": Calibrated,
    "mmps": MMPS,
    "sda": GaussianScore,
    "dps": DPS,
    "pigdm": PiGDM,
    "tmpd": TMPD,
    "projection": Projection,
    "proximal": Proximal,
}

__all__ = [
    "DPS",
    "GUIDANCE",
    "MMPS",
    "TMPD",
    "Calibrated",
    "GaussianScore",
    "Guidance",
    "GuidedDenoiser",
    "PiGDM",
    "Projection",
    "Proximal",
    "Scaling",
]
