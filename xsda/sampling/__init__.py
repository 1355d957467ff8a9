"""Draws labelled ensembles from a prior, or from a posterior if there is a likelihood."""
