"""Train the embedded prior `lorenz63` (about an hour on two cores).

    python examples/training/lorenz63.py --out lorenz63.safetensors

Data: 1,024 trajectories of 1,024 states of ``xsda.systems.Lorenz63()`` (steps of 0.025, transition noise of variance
0.025), seed 1, split 80/10/10.
"""

import argparse

import xsda
from xsda.nn import TemporalNet
from xsda.systems import Lorenz63

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", default="lorenz63.safetensors")
parser.add_argument("--steps", type=int, default=40_000)
parser.add_argument("--width", type=int, default=48)
arguments = parser.parse_args()

data = Lorenz63().simulate(1024, 1024, seed=1)
prior = xsda.train(
    data,
    window=96,
    shortest=16,
    network=TemporalNet(3, width=arguments.width, kernel=5),
    steps=arguments.steps,
    batch_size=64,
    learning_rate=5e-3,
    checkpoint=arguments.out + ".checkpoint",
    log=arguments.out + ".csv",
    validate_every=1000,
    validation_batches=16,
    checkpoint_every=1000,
    name="lorenz63",
)
prior.info["data"] = data.attrs["history"]
prior.save(arguments.out, overwrite=True)
print(prior)
