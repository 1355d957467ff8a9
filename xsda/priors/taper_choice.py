"""Measures how much localisation and inflation the covariance of a short record needs.

The record is cut into blocks of time, the covariance at a few random points is estimated without one block, and some of
the points predict the others within it. The taper and the inflation with the best mean logarithmic score are taken.
The search for the taper has as many seen points as it can afford, because the taper matters most where observations are
dense. Values that were drawn to fill gaps neither predict nor count.

The search takes seconds. The cost of the fit is proportional to the number of functions that make up the taper, which
grows as 1 / length^2 on a map. So fine tapers are tried only where the fit takes at most some minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from xsda.priors.anomalies import Anomalies
from xsda.priors.taper import MOST, taper_functions

POINTS, SEEN, GUESSED, STATES = 160, 12, 12, 24  # of the search for taper and inflation
DENSE = 144  # seen numbers of the search for the taper, if windows are so short that this takes more points than SEEN
FOLDS, WINDOWS, NOISE = 6, 4, 0.2
TAPERS = (np.inf, 1.0, 0.7, 0.5, 0.35, 0.25, 0.15)  # lengths, relative to the width of the region
FINE = (0.1, 0.07, 0.05)  # tried too, if the taper has few functions: the cost of the fit grows with their number
WORK = 10**9  # numbers of the record times functions of a fine taper, at most: some minutes on one core
SOME = 2000  # points that tell how many functions a taper has
INFLATIONS = (0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0)
EDGES = (1, 2, 3, 5, 8, 12, 18, 27, 40, 60, 90, 140, 220, 350, 560, 900, 1500)  # groups of patterns that share a T


@dataclass(frozen=True)
class Choice:
    """Length of the taper (in the units of ``positions``), inflation of the variance, and how much it differs.

    ``doubt`` is the standard deviation of the logarithm of the inflation that is best in each part of the record.
    """

    length: float = np.inf
    inflation: float = 1.0
    doubt: float = 0.0


def choose_taper(data: Anomalies, places: np.ndarray, width: float, length: int) -> Choice:
    """Measure which taper and inflation predict best what was left out."""
    rng = np.random.default_rng(1)
    pick = np.sort(rng.choice(data.points, min(POINTS, data.points), replace=False))
    z = data.map(lambda block: block[..., pick], len(pick)).astype(np.float64)
    states = max(1, min(length, STATES, z.shape[1] // 8))
    known = np.where(data.known(pick), z, np.nan)
    folds = list(_folds(z, known, states, {part.stop for part in data.stretches}))
    if not folds or len(pick) < 4:
        return Choice()
    distance = np.linalg.norm(places[pick, None] - places[None, pick], axis=-1)

    def scores(length: float, seen: int) -> np.ndarray:
        taper = np.exp(-np.square(distance / length) / 2)
        return np.stack([_score(*fold, taper, seen, np.random.default_rng(2)) for fold in folds])

    fine = (share for share in FINE if _affordable(data, places, share * width))
    lengths = [share * width for share in (*TAPERS, *fine)] if width > 0 else [np.inf]
    best = min(lengths, key=lambda length: scores(length, max(SEEN, DENSE // states)).mean(0).min())
    found = scores(best, SEEN)
    each = np.log(INFLATIONS)[found.argmin(1)]
    return Choice(best, INFLATIONS[found.mean(0).argmin()], float(each.std()))


def _affordable(data: Anomalies, places: np.ndarray, length: float) -> bool:
    """Whether a fit with a taper of this length costs little enough."""
    functions = len(taper_functions(places[:: -(-len(places) // SOME)], length))
    return functions < MOST and functions * data.rows * data.states * data.points <= WORK


def _folds(
    z: np.ndarray, known: np.ndarray, states: int, ends: set[int]
) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    """Yield training series and held-out windows of ``known``, (time, point), by trajectory or by stretch of time.

    A window holds no gap, which follows each of ``ends``.
    """
    rows, time, _ = z.shape
    if rows >= FOLDS and time >= states:
        for f in range(FOLDS):
            train = [z[r] for r in range(rows) if r % FOLDS != f]
            yield train, [known[r, :states] for r in range(f, rows, FOLDS)][:WINDOWS]
        return
    count = min(FOLDS, time // (2 * states))
    if count < 2:
        return
    edges = np.linspace(0, time, count + 1).astype(int)
    for a, b in pairwise(edges):
        train = [part for row in z for part in (row[:a], row[b:]) if len(part)]
        starts = [s for s in np.linspace(a, b - states, WINDOWS).astype(int) if not ends & {*range(s + 1, s + states)}]
        if starts:
            yield train, [row[s : s + states] for row in known for s in starts]


def _score(
    train: list[np.ndarray], windows: list[np.ndarray], taper: np.ndarray, seen: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the mean logarithmic score of predictions from ``seen`` points in held-out windows, for each inflation."""
    count = sum(map(len, train))
    mean = np.sum([t.sum(0) for t in train], 0) / count
    train = [t - mean for t in train]
    values, vectors = np.linalg.eigh(np.sum([t.T @ t for t in train], 0) / count * taper)
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    states, ends = len(windows[0]), group_ends(len(values))
    lags = np.sum([lagged((t @ vectors)[None], states) for t in train], 0)
    spans = list(pairwise([0, *ends]))
    correlations = [pooled(lags[:, a:b]) for a, b in spans]
    index = np.abs(np.subtract.outer(np.arange(states), np.arange(states)))
    found, seen = [], min(seen, len(values) // 2)
    for window in windows:
        chosen = rng.permutation(len(values))[: seen + GUESSED]
        cov = np.zeros((len(chosen) * states,) * 2)
        for (a, b), rho in zip(spans, correlations, strict=True):
            cov += np.kron((vectors[chosen, a:b] * values[a:b]) @ vectors[chosen, a:b].T, rho[index])
        x = (window - mean)[:, chosen].T.ravel()  # point by point, as in the Kronecker product
        has = np.flatnonzero(np.isfinite(x))
        first = int(np.searchsorted(has, seen * states))
        if 0 < first < len(has):
            found.append(_predicted(cov[np.ix_(has, has)], x[has], first, rng))
    return np.mean(found, 0) if found else np.zeros(len(INFLATIONS))


def _predicted(cov: np.ndarray, x: np.ndarray, seen: int, rng: np.random.Generator) -> np.ndarray:
    """Return the mean logarithmic score of x[seen:] given x[:seen] with noise, for each inflation."""
    values, vectors = np.linalg.eigh(cov[:seen, :seen])
    values = values.clip(min=0)
    y = vectors.T @ (x[:seen] + NOISE * rng.standard_normal(seen))
    across = cov[seen:, :seen] @ vectors
    scores = []
    for inflation in INFLATIONS:
        gain = inflation / (inflation * values + NOISE**2)
        mean = across @ (gain * y)
        variance = inflation * (np.diag(cov)[seen:] - (across**2 * gain).sum(1))
        variance = variance.clip(min=1e-4 * NOISE**2)
        scores.append((np.log(variance) + (x[seen:] - mean) ** 2 / variance).mean() / 2)
    return np.array(scores)


def group_ends(count: int) -> list[int]:
    """Where the groups of patterns end."""
    return [*(e for e in EDGES if e < count), count]


def lagged(x: np.ndarray, length: int) -> np.ndarray:
    """Return the sums of x_t x_(t-k) over rows (row, time, column), for each lag k below ``length``: (lag, column).

    All lags have the same divisor, so that the Toeplitz matrices are positive semi-definite.
    """
    out = np.zeros((length, x.shape[2]))
    for k in range(min(length, x.shape[1])):
        out[k] = np.einsum("rtc,rtc->c", x[:, k:], x[:, : x.shape[1] - k], dtype=np.float64)
    return out


def pooled(lags: np.ndarray) -> np.ndarray:
    """Return the correlation in time that patterns share, (lag,), from their sums (lag, pattern)."""
    total = lags.sum(1)
    return total / total[0] if total[0] > 0 else np.eye(len(total))[0]
