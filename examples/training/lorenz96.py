"""Train the embedded prior `lorenz96` (about an hour and a half on one core).

    python examples/training/lorenz96.py --out lorenz96.safetensors

Data: 512 trajectories of 512 states of ``xsda.systems.Lorenz96()`` (n = 40, F = 8, steps of 0.05), seed 1, split 80/10/10.
"""

import argparse

import xsda
from xsda.nn import TemporalNet
from xsda.systems import Lorenz96

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", default="lorenz96.safetensors")
parser.add_argument("--steps", type=int, default=6_000)
parser.add_argument("--width", type=int, default=48)
arguments = parser.parse_args()

data = Lorenz96().simulate(512, 512, seed=1)
network = TemporalNet(
    1, boundaries=("periodic",), width=arguments.width, kernel=3, dilations=(1, 2, 4, 1, 2, 4), space_kernel=5
)
prior = xsda.train(
    data,
    window=24,
    shortest=8,
    periodic=("x",),
    network=network,
    steps=arguments.steps,
    batch_size=16,
    learning_rate=4e-3,
    checkpoint=arguments.out + ".checkpoint",
    log=arguments.out + ".csv",
    validate_every=250,
    validation_batches=16,
    checkpoint_every=250,
    name="lorenz96",
)
prior.info["data"] = data.attrs["history"]
prior.save(arguments.out, overwrite=True)
print(prior)
