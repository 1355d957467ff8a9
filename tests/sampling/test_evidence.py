"""The factor of the variances: its likelihood against a dense one, and what it does to an ensemble."""

import numpy as np
import torch
import xarray as xr

import xsda
from xsda.observations import compile_observations
from xsda.priors.eof import EofDenoiser, time_factors
from xsda.priors.prior import Prior
from xsda.sampling.evidence import FACTORS, variance_factor

LENGTH, N = 6, 10


def prior(doubt):
    layout = xsda.labels.Layout.of(grid())
    e = np.linalg.qr(np.random.default_rng(0).standard_normal((N, 3)))[0].T
    values, vectors = time_factors([0.8 ** torch.arange(6.0), 0.3 ** torch.arange(6.0)])
    parts = (torch.as_tensor(e), torch.tensor([4.0, 2.0, 1.0]), torch.tensor([3]), values, vectors, torch.tensor(0.2))
    denoiser = EofDenoiser(*parts, torch.ones(N, dtype=torch.bool), torch.tensor([LENGTH, 1, N]), torch.tensor(doubt))
    return Prior(denoiser, layout, length=LENGTH, name="patterns")


def grid():
    return xr.Dataset({"u": (("time", "x"), np.zeros((LENGTH, N)))}, {"time": np.arange(6.0), "x": np.arange(10.0)})


def test_it_is_the_maximum_of_the_dense_posterior():
    rng = np.random.default_rng(1)
    for scale in (0.5, 1.0, 3.0):
        model = prior(0.8)
        truth = model.denoiser.draw(1, torch.Generator().manual_seed(int(10 * scale)))[0, :, 0].numpy() * scale
        obs = grid().copy(data={"u": truth + 0.3 * rng.standard_normal(truth.shape)}).isel(x=slice(0, None, 2))
        like = compile_observations(model.bind(grid()), obs, 0.3)
        cov = model.denoiser.covariance(torch.eye(60).reshape(60, 6, 1, 10)).reshape(60, 60).double().numpy()
        pick = np.arange(60).reshape(6, 10)[:, ::2].ravel()
        y = obs.u.values.ravel()

        def log_p(f, y=y, cov=cov, pick=pick):
            total = f * cov[np.ix_(pick, pick)] + 0.09 * np.eye(len(pick))
            fit = np.linalg.slogdet(total)[1] + y @ np.linalg.solve(total, y)
            return -fit / 2 - np.log(f) ** 2 / (2 * 0.8**2)

        best = max(FACTORS.tolist(), key=log_p)
        np.testing.assert_allclose(variance_factor(model, like, (6, 1, 10)), best, rtol=0.021)


def test_priors_without_doubt_keep_their_variance():
    obs = grid().isel(x=[0, 5]) + 20
    options = {"sigma": 0.1, "members": 400, "progress": False}
    sure, open_ = (grid().sda.assimilate(obs, prior(doubt), **options) for doubt in (0.0, 0.8))
    assert "variance_factor" not in sure.attrs
    assert open_.attrs["variance_factor"] > 5
    spread = [float(p.u.isel(x=3).var("member").mean()) for p in (sure, open_)]
    np.testing.assert_allclose(spread[1] / spread[0], open_.attrs["variance_factor"], rtol=0.15)
