"""The likelihood of observations, as tensors: laws of errors, operators and whitening."""

from xsda.likelihood.laws import LAWS, Censored, ErrorLaw, Huber, Normal, StudentT
from xsda.likelihood.likelihood import Group, Likelihood

__all__ = ["LAWS", "Censored", "ErrorLaw", "Group", "Huber", "Likelihood", "Normal", "StudentT"]
