"""Noise belongs to a member."""

import numpy as np
import pytest
import torch
from scipy import stats

from xsda.diffusion.noise import MemberNoise


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_member_sees_the_same_numbers_in_any_batch(dtype):
    whole = MemberNoise(3, range(6), (4, 2), dtype=dtype)
    some = MemberNoise(3, [4, 1], (4, 2), dtype=dtype)
    for _ in range(3):
        a, b = whole(), some()
        assert a.dtype == dtype
        assert torch.equal(a[[4, 1]], b)


def test_seeds_members_and_draws_are_independent_standard_normals():
    draws = np.stack([MemberNoise(seed, range(4), (5000,))().numpy() for seed in (0, 1)]).reshape(8, -1)
    noise = MemberNoise(0, range(2), (5000,))
    draws = np.concatenate([draws, np.stack([noise().numpy(), noise().numpy()])[1]])
    covariance = draws @ draws.T / draws.shape[1]
    np.testing.assert_allclose(covariance, np.eye(10), atol=4.5 * np.sqrt(2 / 5000))
    assert stats.kstest(draws.ravel(), "norm").pvalue > 1e-3


def test_large_seeds_and_members_are_allowed():
    assert not torch.equal(MemberNoise(2**63, [10**9], (3,))(), MemberNoise(0, [10**9], (3,))())


def test_numbers_drawn_ahead_are_the_same():
    plain, ahead = MemberNoise(3, [5, 2], (4, 2)), MemberNoise(3, [5, 2], (4, 2), ahead=True)
    for _ in range(3):
        assert torch.equal(plain(), ahead())
    with pytest.raises(ValueError, match="ahead=False"):
        ahead.uniform()
