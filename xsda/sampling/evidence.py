r"""The variance that the observations themselves suggest, for priors that were fitted to a short record.

Some weeks vary more than others, and a fitted covariance is that of the weeks it saw. Let all its variances have one
unknown factor f, with log f ~ N(0, d^2), where d was measured between parts of the record. The innovations
r = y - H m have the covariance f H C H' + R, so that

.. math:: \log p(f \mid y) = -\frac{1}{2} \sum_i \Bigl(\log(f l_i + 1) + \frac{z_i^2}{f l_i + 1}\Bigr)
   - \frac{(\log f)^2}{2 d^2} + \mathrm{const},

with eigenvalues l of R^(-1/2) H C H' R^(-1/2) and the innovations z along its eigenvectors. The factor at the maximum
is taken (empirical Bayes; adaptive inflation, Desroziers et al. 2005). A few hundred observations determine it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xsda.diffusion.anchored import Anchored
from xsda.likelihood import Likelihood, Normal
from xsda.priors.eof import EofDenoiser
from xsda.priors.prior import Prior

MOST = 400  # observations, drawn at random
NUMBERS = 2**25  # of all gradients of H together
FACTORS = torch.linspace(math.log(0.2), math.log(10), 200, dtype=torch.float64).exp()


def variance_factor(prior: Prior, likelihood: Likelihood, shape: tuple[int, ...]) -> float:
    """Return the factor of the prior's variances at the maximum of its posterior; 1 if they are not in doubt."""
    # the factor of a prior that was widened is that of its Gaussian as fitted, so that it stays wider
    denoiser = prior.denoiser.base if isinstance(prior.denoiser, Anchored) else prior.denoiser
    gaussian = (
        likelihood.linear and likelihood.whitening is None and all(type(g.law) is Normal for g in likelihood.groups)
    )
    if not isinstance(denoiser, EofDenoiser) or not float(denoiser.doubt) or not gaussian:
        return 1.0
    count = min(len(likelihood.y), MOST, max(NUMBERS // math.prod(shape), 20))
    pick = torch.randperm(len(likelihood.y), generator=torch.Generator().manual_seed(0))[:count]
    rows, offset = _gradients(likelihood, pick, shape)
    std = likelihood.std[pick].double()
    z = (likelihood.y[pick].double() - offset.double()) / std
    with torch.no_grad():
        cov = rows.flatten(1).double() @ denoiser.covariance(rows).flatten(1).double().T
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2 / (std[:, None] * std))
    along = (vectors.T @ z) ** 2
    total = FACTORS[:, None] * values.clamp(min=0) + 1
    log_p = -(total.log() + along / total).sum(1) / 2 - (FACTORS.log() / float(denoiser.doubt)) ** 2 / 2
    return float(FACTORS[log_p.argmax()])


def _gradients(likelihood: Likelihood, pick: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the rows of H for some observations, (observation, *shape), and H of the mean."""
    with torch.enable_grad():
        x = torch.zeros(len(pick), *shape, requires_grad=True)
        seen = likelihood.operator(x)[torch.arange(len(pick)), pick]
        (rows,) = torch.autograd.grad(seen.sum(), x)
    return rows, seen.detach()
