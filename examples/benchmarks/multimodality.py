"""Posteriors with several modes: what each guidance makes of them, and how weighted particles converge.

    python examples/benchmarks/multimodality.py [--members 4096] [--figure multimodality.png]

Four cases with a closed-form (or numerically integrated) posterior: four modes in the plane at (+-2, +-2) with standard
deviation 0.5, of which x (linear) or |x| is observed; two clusters of means +-(1, 1); and a trajectory of 32 states that
goes up or down, observed early, where it has hardly parted. Weights of the modes, and mean and spread within the modes.
"""

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xsda.diffusion.error import measure_error
from xsda.diffusion.noise import MemberNoise
from xsda.diffusion.samplers import TDS, DPMpp2M, DPMpp2MSDE, Sampler
from xsda.guidance import DPS, MMPS, TMPD, Calibrated, GaussianScore, Guidance, Likelihood, PiGDM, Projection, Proximal
from xsda.priors.exact import MixtureDenoiser

SDE = DPMpp2MSDE(steps=128)
METHODS: dict[str, tuple[Guidance, Sampler]] = {
    "mmps, 2M 32": (MMPS(), DPMpp2M(steps=32)),
    "mmps, SDE 128": (MMPS(), SDE),
    "calibrated, SDE 128": (Calibrated(), SDE),
    "calibrated, SDE 128, 2 corrections": (Calibrated(), DPMpp2MSDE(steps=128, corrections=2, tau=0.5)),
    "sda gamma 1e-1, SDE 128": (GaussianScore(gamma=0.1), SDE),
    "pigdm, SDE 128": (PiGDM(), SDE),
    "tmpd, SDE 128": (TMPD(), SDE),
    "dps, SDE 128": (DPS(), SDE),
    "projection, SDE 128": (Projection(), SDE),
    "proximal, SDE 128": (Proximal(), SDE),
}
PARTICLES = (4, 16, 64, 256, 1024)


@dataclass
class Case:
    """A mixture with isotropic components, and observations."""

    means: Tensor
    std: float
    likelihood: Likelihood

    def denoiser(self) -> MixtureDenoiser:
        k, n = self.means.shape
        covs = self.std**2 * torch.eye(n).expand(k, n, n)
        return MixtureDenoiser.of(self.means, covs, torch.full((k,), 1 / k), (n, 1))

    def exact(self, count: int = 400_000) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and standard deviations of the modes, by importance sampling of the prior."""
        generator = torch.Generator().manual_seed(0)
        k, n = self.means.shape
        which = torch.arange(k).repeat_interleave(count // k)
        x = self.means[which] + self.std * torch.randn(len(which), n, generator=generator)
        w = self.likelihood.log_prob(x[..., None]).double().softmax(0)
        return self.moments(x, w)

    def moments(self, x: Tensor, w: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The same of (weighted) samples, each counted to the nearest mode."""
        w = torch.full((len(x),), 1 / len(x), dtype=torch.float64) if w is None else w
        nearest = torch.cdist(x, self.means).argmin(1)
        rows = []
        for k in range(len(self.means)):
            p = torch.where(nearest == k, w, 0)
            mean = (p[:, None] * x).sum(0) / p.sum()
            var = (p[:, None] * (x - mean) ** 2).sum(0) / p.sum()
            rows.append((p.sum(), mean, var.mean().sqrt()))
        weights, means, stds = zip(*rows, strict=True)
        return torch.stack(weights), torch.stack(means), torch.stack(stds)


def flat(x: Tensor) -> Tensor:
    return x[..., 0]


def cases() -> dict[str, Case]:
    corners = torch.tensor([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]])
    pair = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    course = torch.linspace(0, 1, 32) ** 2 * 3
    std = torch.tensor([0.5])
    return {
        "four modes, x1 = 0.3 +- 0.5": Case(corners, 0.5, Likelihood(lambda x: flat(x)[:, :1], torch.tensor([0.3]), std)),
        "four modes, |x1| = 1.6 +- 0.5": Case(
            corners, 0.5, Likelihood(lambda x: flat(x)[:, :1].abs(), torch.tensor([1.6]), std, linear=False)
        ),
        "two modes, x1 = 0.3 +- 0.5": Case(pair, 0.25, Likelihood(lambda x: flat(x)[:, :1], torch.tensor([0.3]), std)),
        "trajectory, states 8 to 16": Case(
            torch.stack([course, -course]), 0.25,
            Likelihood(lambda x: flat(x)[:, 8:17:4], torch.tensor([0.2, 0.1, 0.3]), torch.full((3,), 0.5)),
        ),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=4096)
    parser.add_argument("--figure", help="draw the rate of convergence there")
    a = parser.parse_args()
    curves = {}
    for name, case in cases().items():
        weights, means, stds = case.exact()
        alive = weights > 0.01
        denoiser = case.denoiser()
        curve = measure_error(denoiser, [(denoiser, denoiser.draw(8192, torch.Generator().manual_seed(1)))])
        print(
            f"\n{name}: exact weights {np.round(weights.numpy(), 3)}, spread within {np.round(stds[alive].numpy(), 3)}"
        )

        def sample(guidance: Guidance, sampler: Sampler, members: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
            notes: dict[str, Tensor] = {}
            guided = guidance.guide(denoiser, case.likelihood, curve)  # noqa: B023
            draw = MemberNoise(seed, range(members), (case.means.shape[1], 1))  # noqa: B023
            return flat(sampler.sample(guided, draw, notes=notes)), notes

        def report(label: str, x: Tensor, extra: str = "") -> None:
            w, m, s = case.moments(x)  # noqa: B023
            off = (m - means)[alive].norm(dim=1).max()  # noqa: B023
            ratio = np.round((s / stds)[alive].numpy(), 2)  # noqa: B023
            print(f"  {label:<36} weights {np.round(w.numpy(), 3)}  largest error {float((w - weights).abs().max()):.3f}  "  # noqa: B023
                  f"mean within off by {float(off):.3f}  spread ratio {ratio}{extra}", flush=True)  # fmt: skip

        for label, (guidance, sampler) in METHODS.items():
            report(label, sample(guidance, sampler, a.members, 1)[0])
        errors = []
        for count in PARTICLES:
            x, notes = sample(Calibrated(), TDS(steps=128, particles=count), a.members, 2)
            share = float(notes["effective_sample_size"].mean()) / count
            report(f"calibrated, TDS 128, {count} particles", x, f"  least effective share {share:.2f}")
            each = x.reshape(-1, count, x.shape[1])
            spread = torch.stack([case.moments(p)[0] for p in each[:64]]) - weights
            bias = (case.moments(x)[0] - weights).abs().max()
            errors.append((float(spread.square().mean().sqrt()), float(bias)))
        curves[name] = np.array(errors)
        print(
            f"  error of one population's weights by particles {dict(zip(PARTICLES, np.round(curves[name][:, 0], 3), strict=True))}"
        )
    if a.figure:
        draw(curves, a.figure)


def draw(curves: dict[str, np.ndarray], path: str) -> None:
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    titles = ("one population (root mean square)", "all populations together (largest)")
    for k, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        for name, errors in curves.items():
            ax.loglog(PARTICLES, errors[:, k], "o-", label=name)
        ax.loglog(PARTICLES, 0.6 / np.sqrt(PARTICLES), "k:", label="1 / sqrt(particles)")
        ax.set(xlabel="particles in a population", title=title)
    axes[0].set_ylabel("error of the modes' weights")
    axes[1].legend(fontsize=7)
    fig.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
