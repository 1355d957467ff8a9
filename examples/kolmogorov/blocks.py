"""Means of the velocity over 8 x 8 blocks, every 4th of 29 states, error 0.1.

python examples/kolmogorov/blocks.py --members 16 --truths 4
"""

import common

from xsda import flow

common.run(
    common.Experiment(
        "8 x 8 means, every 4th state",
        frames=29,
        sigma=0.1,
        observed=lambda truth: flow.coarsen(truth[["u", "v"]].isel(time=slice(None, None, 4)), 8),
        interpolate=common.interpolated,
        show=(0, 14, -1),
    ),
    common.parser(__doc__).parse_args(),
)
