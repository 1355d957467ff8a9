"""Extrapolation: means over 4 x 4 blocks in a quarter of the domain, every 3rd of 8 states, error 0.01.

python examples/kolmogorov/patch.py --members 16 --truths 4
"""

import common

from xsda import flow

quarter = {"time": slice(None, None, 3), "y": slice(0, 8), "x": slice(0, 8)}
common.run(
    common.Experiment(
        "4 x 4 means in a quarter of the domain, every 3rd state",
        frames=8,
        sigma=0.01,
        observed=lambda truth: flow.coarsen(truth[["u", "v"]], 4).isel(quarter),
        localization=0.3,
    ),
    common.parser(__doc__).parse_args(),
)
