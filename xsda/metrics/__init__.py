"""Scores of ensembles."""

from xsda.metrics.scores import (
    bias,
    crps,
    evaluate,
    observation_chi_square,
    rank_histogram,
    rmse,
    spread,
    spread_skill,
)

__all__ = [
    "bias",
    "crps",
    "evaluate",
    "observation_chi_square",
    "rank_histogram",
    "rmse",
    "spread",
    "spread_skill",
]
