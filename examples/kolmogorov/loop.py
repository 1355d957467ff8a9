"""A closed loop: the last of 127 states is the first, to 0.01.

python examples/kolmogorov/loop.py --members 4 --truths 1
"""

import common
import xarray as xr


def no_change(truth):
    """The change since the first state is zero in the last."""
    last = xr.zeros_like(truth[["u", "v"]].isel(time=[-1]))
    return last.rename(u="change_u", v="change_v")


common.run(
    common.Experiment(
        "a closed loop",
        frames=127,
        sigma=0.01,
        observed=no_change,
        derived={f"change_{name}": lambda state, name=name: state[name] - state[name][:, :1] for name in ("u", "v")},
        values=no_change,
        gamma=0.1,
        show=(0, 42, 84, -1),
        means=False,
    ),
    common.parser(__doc__).parse_args(),
)
