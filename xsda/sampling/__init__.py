"""The engine: from a prior, and a likelihood if there is one, to a labelled ensemble."""
