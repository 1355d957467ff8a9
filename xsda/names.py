"""The nearest match: what did the user mean?"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
