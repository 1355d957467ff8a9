"""A linear system, ensembles of given moments, and the Kalman filter and smoother in numpy."""

import numpy as np
import torch

from xsda.systems import MarkovChain


class Ring(MarkovChain):
    """Numbers that are carried around a ring, mixed and damped: linear, with an offset."""

    variables = ("u",)
    burn_in = 50

    def __init__(self, *, n=6, dt=1.0, noise=0.3):
        super().__init__(dt=dt, noise=noise)
        self.n = n

    @property
    def space(self):
        return {"x": self.n}

    @property
    def matrix(self):
        one = np.eye(self.n)
        return 0.7 * np.roll(one, 1, 0) + 0.25 * one

    def step(self, x):
        return x @ torch.as_tensor(self.matrix.T) + 0.05


def ensemble(system, mean, cov, members, seed=0):
    """Members with exactly this mean and covariance, labelled, without time."""
    z = np.random.default_rng(seed).standard_normal((members, len(mean)))
    z, _ = np.linalg.qr(z - z.mean(0))
    z = z * np.sqrt(members - 1)
    values = mean + z @ np.linalg.cholesky(cov).T
    return system.label(values.reshape(members, 1, *system.state_shape)).isel(time=0, drop=True)


def moments(ds):
    """Mean (time, number) and covariance (time, number, number) of each time."""
    values = [ds[v].transpose("member", "time", ...).values for v in ds.data_vars]
    x = np.concatenate([v.reshape(*v.shape[:2], -1) for v in values], -1)
    return x.mean(0), np.array([np.cov(x[:, k].T).reshape(2 * [x.shape[-1]]) for k in range(x.shape[1])])


def kalman(f, c, q, h, r, start, y):
    """Forecasts and analyses, each (mean, covariance), of x = f x + c + noise(q) observed as y (time, M), NaN: missing.

    ``start`` is the forecast of the first time.
    """
    forecasts, analyses = [], []
    mean, cov = start
    for k, now in enumerate(y):
        if k:
            mean, cov = f @ mean + c, f @ cov @ f.T + q
        forecasts.append((mean, cov))
        there = np.isfinite(now)
        if there.any():
            own, error = h[there], r[np.ix_(there, there)]
            gain = cov @ own.T @ np.linalg.inv(own @ cov @ own.T + error)
            mean, cov = mean + gain @ (now[there] - own @ mean), cov - gain @ own @ cov
        analyses.append((mean, cov))
    return forecasts, analyses


def rts(f, forecasts, analyses):
    """Smoothed (mean, covariance) of each time."""
    smoothed = [analyses[-1]]
    for (mean, cov), (ahead, spread) in zip(analyses[-2::-1], forecasts[:0:-1], strict=True):
        back = cov @ f.T @ np.linalg.inv(spread)
        m, p = smoothed[-1]
        smoothed.append((mean + back @ (m - ahead), cov + back @ (p - spread) @ back.T))
    return smoothed[::-1]
