import inspect
import re

import pytest

from xsda import baselines

CLASSES = [n for n in baselines.__all__ if inspect.isclass(getattr(baselines, n))]


@pytest.mark.parametrize("name", CLASSES)
def test_every_parameter_is_described(name):
    kind = getattr(baselines, name)
    _, _, section = inspect.getdoc(kind).partition("Parameters\n----------\n")
    described = {n for line in re.findall(r"^\w[\w, ]*$", section, re.MULTILINE) for n in line.split(", ")}
    assert set(inspect.signature(kind).parameters) <= described
