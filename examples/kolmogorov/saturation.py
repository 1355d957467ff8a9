"""A nonlinear instrument: w / (1 + |w|) of the vorticity w of 12 x 12 of the 4 x 4 means, every 3rd of 8 states, error 0.05.

Where the vorticity is strong the instrument saturates. w is the difference of velocities between neighbouring blocks.

    python examples/kolmogorov/saturation.py --members 16 --truths 4
"""

import common

from xsda import flow

BLOCKS = 16


def saturated(state):
    """On all points of the grid (the prior's, or the simulator's for the filter), the same in each block."""
    factor = state["u"].shape[-1] // BLOCKS
    means = {name: flow.coarsen(state[name], factor) for name in ("u", "v")}
    w = flow.vorticity(means, spacing=1.0)
    return (w / (1 + w.abs())).repeat_interleave(factor, -2).repeat_interleave(factor, -1)


one = slice(2 * 4 + 1, 14 * 4, 4)  # the blocks 2 to 13, a point each, as in the paper
common.run(
    common.Experiment(
        "saturating vorticity of 4 x 4 means, every 3rd state",
        frames=8,
        sigma=0.05,
        observed=lambda truth: truth[["u"]].isel(time=slice(None, None, 3), y=one, x=one).rename(u="signal"),
        derived={"signal": saturated},
        steps=512,
        localization=0.3,
    ),
    common.parser(__doc__).parse_args(),
)
