"""Print pip constraints that pin every dependency in pyproject.toml to its lower bound.

python .ci/minimum.py > minimum.txt && pip install -c minimum.txt -e ".[test]"

``--without NAME`` omits a dependency, for one whose oldest release is not at hand. It can be given several times.
"""

import argparse
import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[\w,]+\])?>=(?P<version>[\d.]+)")


def lower_bounds(project: dict) -> dict[str, str]:
    """The lowest version allowed of each dependency, required or optional."""
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    found = {}
    for requirement in (r for group in groups for r in group if not r.startswith(f"{project['name']}[")):
        match = REQUIREMENT.fullmatch(requirement)
        if match is None:
            raise SystemExit(f"{requirement!r} in {PYPROJECT.name} has no lower bound; write it as 'name>=version'")
        found[match["name"]] = match["version"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Print constraints that pin dependencies to their lower bounds.")
    parser.add_argument("--without", metavar="NAME", action="append", default=[], help="omit this dependency")
    without = parser.parse_args().without
    bounds = lower_bounds(tomllib.loads(PYPROJECT.read_text())["project"])
    if unknown := set(without) - set(bounds):
        raise SystemExit(
            f"no dependency is called {', '.join(sorted(unknown))}; choose from {', '.join(sorted(bounds))}"
        )
    for name in sorted(set(bounds) - set(without), key=str.lower):
        print(f"{name}=={bounds[name]}")


if __name__ == "__main__":
    main()
