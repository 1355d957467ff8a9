"""Converts between labelled Datasets and tensors: axes, units, the layout of a prior and the grid of a user."""

from xsda.labels.grid import Grid
from xsda.labels.layout import Axis, Layout, Variable

__all__ = ["Axis", "Grid", "Layout", "Variable"]
