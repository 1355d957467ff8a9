"""Make the prior ``uk-t2m`` of the package: two-metre temperature over the British Isles, ERA5, 1 to 25 March 2019.

All choices are those of ``xsda.train`` for regional fields. It takes four minutes on one core::

    python examples/training/uk_t2m.py uk-t2m.safetensors
"""

import argparse
from pathlib import Path

import xsda


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="file of the prior")
    parser.add_argument("--days", type=int, default=25, help="the last days until 25 March to learn from")
    args = parser.parse_args()
    ds = xsda.data.fetch("era5-t2m-uk").sel(time=slice(None, "2019-03-25")).isel(time=slice(-24 * args.days, None))
    prior = xsda.train(ds.load(), window=24, name="uk-t2m", log=args.out.with_suffix(".csv"))
    prior.info["data"] = f"ERA5, 1 to 25 March 2019, the last {args.days} days"
    prior.save(args.out)
    print(prior)


if __name__ == "__main__":
    main()
