"""Velocity at every 2nd, 4th, 8th or 16th point of all 8 states, error 0.1.

python examples/kolmogorov/points.py --every 8 --members 16 --truths 4
"""

import common

parser = common.parser(__doc__)
parser.add_argument("--every", type=int, default=8, help="distance of the observed points")
o = parser.parse_args()
step = slice(o.every // 2, None, o.every)
common.run(
    common.Experiment(
        f"every {o.every}{'nd' if o.every == 2 else 'th'} point",
        frames=8,
        sigma=0.1,
        observed=lambda truth: truth[["u", "v"]].isel(y=step, x=step),
        interpolate=common.interpolated,
        localization={2: 0.3, 16: 0.8}.get(o.every, 0.5),
        inflation={8: 1.3, 16: 1.3}.get(o.every, 1.05),
    ),
    o,
)
