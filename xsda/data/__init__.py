"""Real data for examples and tests, by name."""

from xsda.data.catalogue import SOURCES, Source, fetch

__all__ = ["SOURCES", "Source", "fetch"]
