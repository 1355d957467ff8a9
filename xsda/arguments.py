"""Checks arguments (numbers in a range, known names), and warns at the line of the user's code."""

from __future__ import annotations

import difflib
import math
import operator
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Real
from typing import Any


def whole_number(name: str, value: Any, *, least: int) -> int:
    """Return an integer of at least ``least``; raise for anything else."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be an integer of at least {least}")
    return number


def real_number(
    name: str, value: Any, must: str, *, above: float = -math.inf, least: float = -math.inf, most: float = math.inf
) -> float:
    """Return a finite number in a range; otherwise raise an error that says what it ``must`` be."""
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not (value > above and least <= value <= most):
        raise ValueError(f"{name}={value!r} must {'' if is_number else 'be a finite number, and '}{must}")
    return float(value)


def what(value: Any) -> str:
    """Describe a wrong value for an error message, with a hint if it is a class instead of an object."""
    return f"the class {value.__name__}; call it: {value.__name__}()" if isinstance(value, type) else f"{value!r}"


def check_names(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise if a name is not known."""
    known = list(known)
    for name in given:
        if name not in known:
            raise ValueError(f"{where} unknown key {name!r}; {choose(name, known)}")


def choose(name: object, known: Iterable[object]) -> str:
    """'did you mean ...?' if there is a near name, otherwise 'choose one of ...'."""
    names = [str(k) for k in known]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"choose one of {', '.join(map(repr, names))}" if names else "there is none to choose from"


HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_GIVEN: ContextVar[set[str] | None] = ContextVar("given", default=None)


@contextmanager
def without_repeats() -> Iterator[None]:
    """Within this context, give no warning twice, even if its numbers differ."""
    token = _GIVEN.set(set())
    try:
        yield
    finally:
        _GIVEN.reset(token)


def warn(text: str, category: type[Warning] = RuntimeWarning) -> None:
    """Warn at the line of the user's code that called the package."""
    given = _GIVEN.get()
    if given is not None:
        kind = re.sub(r"[-+.:\d]+", "#", text)
        if kind in given:
            return
        given.add(kind)
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(HERE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level + 1)
