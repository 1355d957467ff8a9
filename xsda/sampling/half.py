"""Networks in half precision, and the test whether they agree with the plain ones.

The test compares the denoised states and the products with their derivative at three noise levels, for one free
trajectory. It is the same for all members and workers, so that all of them use the same precision. It costs about as
much as half a member. The denoiser has an error of its own, which the prior stores. Another form of it agrees if it
differs by less than a third of that error, which then grows by at most 5 %.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from xsda.diffusion.anchored import Anchored
from xsda.diffusion.balance import Balanced
from xsda.diffusion.denoisers import Denoiser, Preconditioned
from xsda.diffusion.error import ErrorCurve
from xsda.diffusion.noise import MemberNoise
from xsda.diffusion.samplers import DPMpp2M

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
LEVELS = (0.1, 1.0, 10.0)  # noise levels of the test, in standard deviations of the data
STEPS = 8  # of the free trajectory
TOLERANCE = 1 / 3  # largest difference, as a share of the error of the denoiser, or of the product with its derivative


class Half(nn.Module):
    """A network that computes in half precision, and returns the precision of its input."""

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=self.dtype):
            return self.network(x, *rest).to(x.dtype)


def in_half(
    plain: Denoiser, precision: str, error: ErrorCurve | None, draw: Callable[[], MemberNoise], *, gradient: bool
) -> tuple[Denoiser, str | None]:
    """Return the denoiser with its network in half precision, if that is asked for and agrees with the plain one.

    Otherwise return the plain one, and a warning if half precision does not agree. ``error`` is the error curve of the
    prior. ``draw`` makes the noise of the test. ``gradient``: whether derivatives are needed.
    """
    if not isinstance(plain, Preconditioned | Balanced) or precision not in HALF:
        return plain, None
    half = _with_network(plain, Half(plain.network, HALF[precision]))
    found = disagreement(half, plain, error, draw(), gradient=gradient)
    if found <= TOLERANCE:
        return half, None
    return plain, (
        f"with precision={precision!r} the network differs by {found:.0%} of the error of the prior, where at most "
        f"{TOLERANCE:.0%} is accepted; members are computed in float32"
    )


def _with_network(denoiser: Preconditioned | Balanced, network: nn.Module) -> Denoiser:
    if not isinstance(denoiser, Anchored):
        return denoiser.with_network(network)
    other = copy.copy(denoiser)
    other._modules = {**denoiser._modules, "network": network}
    return other


def disagreement(
    other: Denoiser, plain: Denoiser, error: ErrorCurve | None, draw: MemberNoise, *, gradient: bool
) -> float:
    """Return the largest difference between two denoisers as a share of what may differ; infinite for NaN."""
    with torch.inference_mode(not gradient):
        x0 = DPMpp2M(steps=STEPS).sample(plain, draw)
        worst = [_difference(other, plain, error, x0, draw(), level, gradient) for level in LEVELS]
    return max(w if w == w else math.inf for w in worst)


def _difference(
    other: Denoiser, plain: Denoiser, error: ErrorCurve | None, x0: Tensor, z: Tensor, level: float, gradient: bool
) -> float:
    t = plain.schedule.time(torch.tensor(level, dtype=torch.float64, device=x0.device))
    x_t = plain.schedule.add_noise(x0, t, z)
    found = []
    for denoiser in (other, plain):
        with torch.set_grad_enabled(gradient):
            x = x_t.detach().requires_grad_(gradient)
            y = denoiser.linearised(x, t)
        slope = torch.autograd.grad(y, x, z)[0] if gradient else torch.ones_like(y)
        found.append((y.detach(), slope))
    (y, slope), (expected, plain_slope) = found
    own = torch.tensor(level / (1 + level**2) ** 0.5) if error is None else error(torch.tensor(level))
    channels = (y - expected).movedim(2, 0).flatten(1).square().mean(1).sqrt() / own.to(y)
    return max(float(channels.max()), float((slope - plain_slope).norm() / plain_slope.norm()))
