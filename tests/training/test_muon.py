"""Muon: orthogonal steps for convolutions, Adam for the rest."""

import pytest
import torch
from torch import nn

from xsda.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_orthogonal_keeps_the_directions_and_evens_out_the_lengths(shape):
    u, _, vh = torch.linalg.svd(torch.randn(shape, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    m = 1e3 * u @ torch.diag(torch.logspace(0, -1.5, min(shape))) @ vh
    core = u.T @ orthogonal(m) @ vh.T
    lengths = core.diagonal()
    assert (lengths > 0.6).all()
    assert (lengths < 1.3).all()
    assert (core - torch.diag(lengths)).abs().max() < 0.05  # bfloat16


def test_a_step_turns_with_the_coordinates_and_does_not_know_the_unit_of_the_loss():
    generator = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    gradient = torch.randn(8, 6, 1, generator=generator)

    def moved(gradient):
        p = nn.Parameter(torch.zeros(8, 6, 1))
        p.grad = gradient
        Muon([p], lr=0.1).step()
        return p.detach()

    step = moved(gradient)
    turned = turn.T @ moved((turn @ gradient[..., 0])[..., None])[..., 0]
    for other in (moved(1e-3 * gradient), turned[..., None]):
        assert (other - step).norm() < 0.1 * step.norm()  # bfloat16
    assert float(step.square().mean().sqrt()) == pytest.approx(0.2 * 0.1, rel=0.25)  # as Adam's, 0.2 lr


def test_vectors_and_matrices_of_linear_layers_move_as_with_adamw():
    generator = torch.Generator().manual_seed(2)
    start, target = torch.randn(2, 5, 3, generator=generator)
    ends = []
    for make in (Muon, torch.optim.AdamW):
        p = nn.Parameter(start.clone())
        optimizer = make([p], lr=0.05, weight_decay=0.1, betas=(0.9, 0.99))
        for _ in range(30):
            optimizer.zero_grad()
            ((p - target) ** 2).sum().backward()
            optimizer.step()
        ends.append(p.detach())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_a_stretched_filter_is_learnt_in_fewer_steps_than_with_adamw():
    """Inputs whose directions differ in size a hundredfold: most of the loss is soon gone, the small directions are not."""
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(32, 32, generator=generator)).Q
    x = torch.randn(512, 32, generator=generator) * torch.logspace(0, -2, 32) @ basis
    truth = torch.randn(32, 32, generator=generator) / 32**0.5
    left = {}
    for make in (Muon, torch.optim.AdamW):
        layer = nn.Conv1d(32, 32, 1, bias=False)
        nn.init.zeros_(layer.weight)
        optimizer = make(layer.parameters(), lr=0.02)
        for k in range(200):
            optimizer.param_groups[0]["lr"] = 0.02 * (1 - k / 200)
            optimizer.zero_grad()
            ((layer(x[..., None])[..., 0] - x @ truth) ** 2).sum(1).mean().backward()
            optimizer.step()
        left[make] = float((layer.weight[..., 0].detach().T - truth).norm() / truth.norm())
    assert left[Muon] < 0.6 * left[torch.optim.AdamW]
