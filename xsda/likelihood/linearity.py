r"""Find out whether a function of the state is linear up to a constant, so that cheaper exact methods can be used.

A function f is affine if, for all states x, y and numbers a, b,

.. math:: f(a x + b y) - f(0) = a\,(f(x) - f(0)) + b\,(f(y) - f(0)).

The test evaluates f in double precision on random states from a thousandth to a thousand standard deviations, with
values of both signs, all positive and all negative. Thresholds (abs, clamp, where, rounding) and weak curvature show up
at one of these scales. A function that departs from a straight line only in a narrow range of values can pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

SCALES = (1.0, 1e3, 30.0, 0.03, 300.0, 5.0, 1e-3)  # in standard deviations; the most revealing ones first
SHIFTS = (0.0, 1.5, -1.5)  # values of both signs, all positive, all negative
TOLERANCE = 1e-9  # relative: far above rounding errors in double precision, far below any curvature that matters


def linear_offset(
    function: Callable[[Tensor], Tensor], shape: Sequence[int], *, device: torch.device | str | None = None
) -> Tensor | None:
    """Return the constant part of a function that is linear up to a constant, and None for any other function.

    It costs 25 evaluations of one state each, and fewer if the function is nonlinear. A function that fails, that
    returns a value which is not finite, or that does not work in double precision counts as nonlinear.

    Parameters
    ----------
    function
        Maps standardised states (1, *shape) to values (1, M).
    shape
        Shape of one state, (time, channel, *space).
    device
        Where to evaluate the function (default: the CPU).

    Returns
    -------
    Tensor or None
        f(0), (M,), in double precision, if the function is linear (f(0) = 0) or affine. None if it is nonlinear.

    Examples
    --------
    >>> from xsda.likelihood.linearity import linear_offset
    >>> linear_offset(lambda x: x.flatten(1).sum(1, keepdim=True) + 2, (3, 1))
    tensor([2.], dtype=torch.float64)
    >>> linear_offset(lambda x: x.flatten(1).abs(), (3, 1)) is None
    True
    """
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(2, *shape, generator=generator, dtype=torch.float64) - 0.5).to(device)  # |a x + b y| < 1
    states = torch.stack([x, y, torch.ones_like(x)])

    def value(state: Tensor) -> Tensor:
        out = function(state[None])[0]
        if not bool(torch.isfinite(out).all()):
            raise FloatingPointError("a value is not finite")
        return out.double()

    try:
        with torch.no_grad():
            offset = value(torch.zeros_like(x))
            images = torch.stack([value(state) - offset for state in states])
            for scale, shift in product(SCALES, SHIFTS):
                a, b = (0.5 + 0.5 * torch.rand(2, generator=generator)).tolist()
                weights = scale * states.new_tensor([a, -b, shift])
                error = value(torch.tensordot(weights, states, 1)) - offset - torch.tensordot(weights, images, 1)
                allowed = TOLERANCE * (offset.abs() + max(scale, 1) * images.abs().sum(0))
                if bool((error.abs() > allowed).any()):
                    return None
    except Exception:  # a function that fails is not known to be linear
        return None
    return offset
