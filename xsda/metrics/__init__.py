"""Scores of ensembles.

=========================  =============================================================================
``scores``                 error, bias and anomaly correlation of the ensemble mean
``ensemble``               proper scores of the whole ensemble, and its spread
``calibration``            rank histogram, coverage of intervals, reliability of probabilities
``departures``             misfit to observations
``transport``              distances between two ensembles
``confidence``             confidence intervals of time averages
``spectra``                mean energy and spectra of fields
``correlation_functions``  correlation in time and space
``evaluate``               the usual scores in one table
=========================  =============================================================================
"""

from xsda.metrics.calibration import coverage, rank_histogram, rank_uniformity, reliability
from xsda.metrics.confidence import difference_interval, mean_interval
from xsda.metrics.correlation_functions import integral_scale, spatial_correlation, time_correlation
from xsda.metrics.departures import (
    Innovations,
    desroziers,
    innovation_consistency,
    innovations,
    largest_innovations,
    observation_chi_square,
)
from xsda.metrics.ensemble import crps, energy_score, spread, spread_skill, variogram_score
from xsda.metrics.evaluate import evaluate
from xsda.metrics.scores import anomaly_correlation, bias, mae, rmse
from xsda.metrics.spectra import energy, energy_spectrum, spectrum
from xsda.metrics.transport import earth_movers_distance, gaussian_w2, mmd

__all__ = [
    "Innovations",
    "anomaly_correlation",
    "bias",
    "coverage",
    "crps",
    "desroziers",
    "difference_interval",
    "earth_movers_distance",
    "energy",
    "energy_score",
    "energy_spectrum",
    "evaluate",
    "gaussian_w2",
    "innovation_consistency",
    "innovations",
    "integral_scale",
    "largest_innovations",
    "mae",
    "mean_interval",
    "mmd",
    "observation_chi_square",
    "rank_histogram",
    "rank_uniformity",
    "reliability",
    "rmse",
    "spatial_correlation",
    "spectrum",
    "spread",
    "spread_skill",
    "time_correlation",
    "variogram_score",
]
