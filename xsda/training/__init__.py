"""Training: make a prior from your own data, and measure its error and its energy balance."""

from xsda.training.balancing import balance
from xsda.training.loop import TrainingError
from xsda.training.recipe import Recipe
from xsda.training.train import train
from xsda.training.training_options import TrainingOptions

__all__ = ["Recipe", "TrainingError", "TrainingOptions", "balance", "train"]
