"""Posteriors with several modes: what each guidance makes of them, and how weighted particles converge.

    python benchmarks/multimodality.py [--members 4096] [--figure multimodality.png]

Five cases: four modes in the plane at (+-2, +-2) with standard deviation 0.5, of which x (linear) or |x| is observed; two
clusters of means +-(1, 1); a trajectory of 32 states that goes up or down, observed early, where it has hardly parted; and
one that goes up, or half as far down, of which |x| is observed. Within a mode all numbers are independent, so that weights of the
modes, and means and spreads within, are integrals over one number at a time, and known to many digits.
"""

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from record import add_options, record
from torch import Tensor

from xsda.diffusion.error import measure_error
from xsda.diffusion.noise import MemberNoise
from xsda.diffusion.samplers import TDS, DPMpp2M, DPMpp2MSDE, Sampler
from xsda.guidance import DPS, MMPS, TMPD, Calibrated, GaussianScore, Guidance, PiGDM, Projection, Proximal
from xsda.likelihood import Likelihood
from xsda.priors.exact import MixtureDenoiser

SDE = DPMpp2MSDE(steps=128)
METHODS: dict[str, tuple[Guidance, Sampler]] = {
    "mmps, 2M 32 steps": (MMPS(), DPMpp2M(steps=32)),
    "mmps": (MMPS(), SDE),
    "calibrated": (Calibrated(), SDE),
    "calibrated, 2 corrections": (Calibrated(), DPMpp2MSDE(steps=128, corrections=2, tau=0.5)),
    "sda, gamma 0.1": (GaussianScore(gamma=0.1), SDE),
    "pigdm": (PiGDM(), SDE),
    "tmpd": (TMPD(), SDE),
    "dps": (DPS(), SDE),
    "projection": (Projection(), SDE),
    "proximal": (Proximal(), SDE),
}
PARTICLES = (4, 16, 64, 256, 1024)


@dataclass
class Case:
    """A mixture of equally likely modes with independent numbers, some of which (or their size) are observed."""

    means: Tensor  # of the modes: (modes, numbers)
    std: float
    points: slice
    y: list[float]
    folded: bool = False
    error: float = 0.5

    def observe(self, x: Tensor) -> Tensor:
        seen = x[:, self.points, 0]
        return seen.abs() if self.folded else seen

    @property
    def likelihood(self) -> Likelihood:
        y = torch.tensor(self.y)
        return Likelihood(self.observe, y, torch.full_like(y, self.error), linear=not self.folded)

    def denoiser(self) -> MixtureDenoiser:
        k, n = self.means.shape
        covs = self.std**2 * torch.eye(n).expand(k, n, n)
        return MixtureDenoiser.of(self.means, covs, torch.full((k,), 1 / k), (n, 1))

    def exact(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and standard deviations of the modes, by quadrature over each number that is observed."""
        x = torch.linspace(-8, 8, 16001, dtype=torch.float64)
        means = self.means.double()
        seen = x.abs() if self.folded else x
        y = torch.tensor(self.y, dtype=torch.float64)[:, None]
        p = torch.exp(
            -(((x - means[:, self.points, None]) / self.std) ** 2) / 2 - ((seen - y) / self.error) ** 2 / 2
        )  # (modes, observed, x)
        mass = p.sum(-1)
        variances = torch.full_like(means, self.std**2)
        means[:, self.points] = (p * x).sum(-1) / mass
        variances[:, self.points] = (p * x**2).sum(-1) / mass - means[:, self.points] ** 2
        return mass.log().sum(1).softmax(0), means, variances.mean(1).sqrt()

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same of samples, each counted to the nearest mode."""
        x = x.double()
        nearest = torch.cdist(x, self.means.double()).argmin(1)
        parts = [x[nearest == k] for k in range(len(self.means))]
        weights = torch.tensor([len(p) / len(x) for p in parts], dtype=torch.float64)
        return (
            weights,
            torch.stack([p.mean(0) for p in parts]),
            torch.stack([p.var(0, correction=0).mean().sqrt() for p in parts]),
        )


def cases() -> dict[str, Case]:
    corners = torch.tensor([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]])
    pair = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    course = torch.linspace(0, 1, 32) ** 2 * 3
    first = slice(0, 1)
    return {
        "four modes, x": Case(corners, 0.5, first, [0.3]),
        "four modes, |x|": Case(corners, 0.5, first, [1.6], folded=True),
        "two modes, x": Case(pair, 0.25, first, [0.3]),
        "trajectory, x": Case(torch.stack([course, -course]), 0.25, slice(8, 17, 4), [0.2, 0.1, 0.3]),
        "trajectory, |x|": Case(
            torch.stack([course, -course / 2]), 0.25, slice(8, 25, 8), [0.2, 0.6, 1.3], folded=True
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=4096)
    parser.add_argument("--figure", help="draw the rate of convergence there")
    add_options(parser, "multimodality")
    a = parser.parse_args()
    curves, rows, exact = {}, [], []
    for name, case in cases().items():
        weights, means, stds = case.exact()
        alive = weights > 0.01
        exact += [{"case": name, "mode": i + 1, "weight": w} for i, w in enumerate(weights.tolist())]
        denoiser = case.denoiser()
        curve = measure_error(denoiser, [(denoiser, denoiser.draw(8192, torch.Generator().manual_seed(1)))])
        print(
            f"\n{name}: exact weights {np.round(weights.numpy(), 3)}, spread within {np.round(stds[alive].numpy(), 3)}"
        )

        def sample(guidance: Guidance, sampler: Sampler, members: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
            notes: dict[str, Tensor] = {}
            guided = guidance.guide(denoiser, case.likelihood, curve)  # noqa: B023
            draw = MemberNoise(seed, range(members), (case.means.shape[1], 1))  # noqa: B023
            return sampler.sample(guided, draw, notes=notes)[..., 0], notes

        def report(label: str, x: Tensor, extra: str = "") -> None:
            w, m, s = case.moments(x)  # noqa: B023
            off = (m - means)[alive].norm(dim=1).max()  # noqa: B023
            ratio = np.round((s / stds)[alive].numpy(), 2)  # noqa: B023
            rows.append({"case": name, "method": label, "weight_error": (w - weights).abs().max(),  # noqa: B023
                         "spread_low": ratio.min(), "spread_high": ratio.max(), "mode_mean_off": off})  # fmt: skip
            print(f"  {label:<36} weights {np.round(w.numpy(), 3)}  largest error {float((w - weights).abs().max()):.3f}  "  # noqa: B023
                  f"mean within off by {float(off):.3f}  spread ratio {ratio}{extra}", flush=True)  # fmt: skip

        for label, (guidance, sampler) in METHODS.items():
            report(label, sample(guidance, sampler, a.members, 1)[0])
        errors = []
        for count in PARTICLES:
            x, notes = sample(Calibrated(), TDS(steps=128, particles=count), a.members, 2)
            share = float(notes["effective_sample_size"].mean()) / count
            report(f"tds, {count} particles", x, f"  least effective share {share:.2f}")
            each = x.reshape(-1, count, x.shape[1])
            spread = torch.stack([case.moments(p)[0] for p in each[:64]]) - weights
            bias = (case.moments(x)[0] - weights).abs().max()
            errors.append((float(spread.square().mean().sqrt()), float(bias)))
        curves[name] = np.array(errors)
        print(
            f"  error of one population's weights by particles {dict(zip(PARTICLES, np.round(curves[name][:, 0], 3).tolist(), strict=True))}"
        )
    formats = {"weight_error": ".3f", "spread_low": ".2f", "spread_high": ".2f", "mode_mean_off": ".2f"}
    record(
        a.name, rows, folder=a.results, seed=1, question="Does the ensemble give each mode of the posterior its weight?",
        columns={"case": "", "method": "", **{k: ("1", f) for k, f in formats.items()}},
    )  # fmt: skip
    record(
        f"{a.name}_exact", exact, folder=a.results, question="What are the exact weights of the modes?",
        columns={"case": "", "mode": ("1", ".0f"), "weight": ("1", ".3f")},
    )  # fmt: skip
    if a.figure:
        draw(curves, a.figure)


def draw(curves: dict[str, np.ndarray], path: str) -> None:
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
    titles = ("one population (root mean square)", "all populations together (largest)")
    for k, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        for name, errors in curves.items():
            ax.loglog(PARTICLES, errors[:, k], "o-", label=name)
        ax.loglog(PARTICLES, 0.6 / np.sqrt(PARTICLES), "k:", label="1 / sqrt(particles)")
        ax.set(xlabel="particles in a population", title=title)
    axes[0].set_ylabel("error of the modes' weights")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    fig.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
