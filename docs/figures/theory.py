"""Draw the pictures of the theory page into docs/_static.

python docs/figures/theory.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

import xsda
from xsda.diffusion.samplers import time_grid

STATIC = Path(__file__).parents[1] / "_static"


def denoising() -> None:
    """A trajectory at three noise levels, and what the denoiser makes of it."""
    system, model = xsda.systems.Lorenz63(), xsda.load_model("lorenz63")
    truth = system.simulate(length=128, seed=2)
    x0 = model.bind(truth).to_tensor(truth)[None].float()
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.4), sharey=True, layout="constrained")
    for ax, level in zip(axes, (0.1, 1.0, 5.0), strict=True):
        t = model.denoiser.schedule.time(torch.tensor(level, dtype=torch.float64))
        with torch.no_grad():
            x_t = model.denoiser.schedule.add_noise(x0, t, noise)
            denoised = model.denoiser(x_t, t)
        ax.plot(truth.time, x_t[0, :, 0], ".", color="0.7", ms=2, label="with noise, $x_t$")
        ax.plot(truth.time, x0[0, :, 0], color="k", lw=1, label="clean, $x_0$")
        ax.plot(truth.time, denoised[0, :, 0], color="tab:blue", lw=1.5, label=r"denoised, $E[x_0 \mid x_t]$")
        ax.set(title=f"noise level s = {level:g}", xlabel="time", ylim=(-5, 5))
    axes[0].set_ylabel("x (standardised)")
    axes[0].legend(fontsize=7, loc="lower left")
    figure.savefig(STATIC / "theory-denoising.png", dpi=130)


def errors() -> None:
    """The error curves of the embedded priors, and where the centred grid has its steps."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    s = torch.logspace(-2.7, 1.9, 200, dtype=torch.float64)
    for name in ("lorenz63", "lorenz96", "kolmogorov"):
        left.loglog(s, xsda.load_model(name).error(s).square().mean(-1).sqrt(), label=name)
    left.loglog(s, s, "k:", lw=1, label="r = s")
    left.axhline(1, color="0.8", lw=1)
    left.set(xlabel="noise level s", ylabel="error r(s) of the denoiser", ylim=(1e-3, 2))
    left.legend(fontsize=7)
    schedule = xsda.load_model("lorenz63").denoiser.schedule
    for i, (grid, label) in enumerate({"log_snr": "uniform in log s", "centered": "centred"}.items()):
        levels = schedule.noise_level(time_grid(schedule, 48, grid))
        right.semilogx(levels, np.full(48, i), "|", ms=16, label=label)
    right.set(xlabel="noise level s", yticks=[0, 1], yticklabels=["uniform in log s", "centred"], ylim=(-0.7, 1.7))
    right.set_title("48 steps of a sampler", fontsize=9)
    figure.savefig(STATIC / "theory-error.png", dpi=130)


if __name__ == "__main__":
    denoising()
    errors()
