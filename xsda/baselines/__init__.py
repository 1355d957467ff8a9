"""Filters, smoothers and variational methods, on the same labelled objects as ``assimilate``."""

from xsda.baselines.bound import ForecastError
from xsda.baselines.enkf import EAKF, ETKF, DEnKF, EnKF, EnKFN
from xsda.baselines.esmda import ESMDA
from xsda.baselines.ienks import IEnKS
from xsda.baselines.inflation import RTPP, RTPS, AdaptiveInflation, Inflation
from xsda.baselines.kalman import KalmanFilter, RTSSmoother
from xsda.baselines.local import LETKF
from xsda.baselines.model import Forecast
from xsda.baselines.particle import ParticleFilter, ParticleSmoother
from xsda.baselines.run import filter
from xsda.baselines.simple import Climatology, FreeRun, OptimalInterpolation, Persistence
from xsda.baselines.single import analyse
from xsda.baselines.smoothers import EnKS, EnRTS
from xsda.baselines.variational import FourDVar, ThreeDVar

__all__ = [
    "EAKF",
    "ESMDA",
    "ETKF",
    "LETKF",
    "RTPP",
    "RTPS",
    "AdaptiveInflation",
    "Climatology",
    "DEnKF",
    "EnKF",
    "EnKFN",
    "EnKS",
    "EnRTS",
    "Forecast",
    "ForecastError",
    "FourDVar",
    "FreeRun",
    "IEnKS",
    "Inflation",
    "KalmanFilter",
    "OptimalInterpolation",
    "ParticleFilter",
    "ParticleSmoother",
    "Persistence",
    "RTSSmoother",
    "ThreeDVar",
    "analyse",
    "filter",
]
