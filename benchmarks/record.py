"""Results of benchmarks as data: one JSON file per table, with what is needed to make it again.

A script calls `add_options` on its parser and `record` at its end. The documentation is generated from the files in
``results/``; see ``docs/_ext/results.py``.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import torch

from xsda.version import __version__

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def add_options(parser: argparse.ArgumentParser, name: str | None = None) -> None:
    """Add ``--results``, the folder of the results, and ``--name`` if the script writes one table."""
    if name:
        parser.add_argument("--name", default=name, help="name of the results file, without its ending")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")


def record(
    name: str, rows: Sequence[Mapping[str, object]], *, columns: Mapping[str, str | tuple[str, str]], question: str,
    seed: int | None = None, folder: Path = RESULTS, **more: object,
) -> Path:  # fmt: skip
    """Write ``rows`` to ``folder/name.json`` and return the path.

    ``columns`` gives each column its units ("1" for a pure number, "" for text), or its units and a number format.
    A row holds text, finite numbers and truth values; it leaves out what was not measured.
    """
    table = [{k: _plain(name, k, v, columns) for k, v in row.items()} for row in rows]
    pairs = {k: (c, "") if isinstance(c, str) else c for k, c in columns.items()}
    script = Path(sys.argv[0]).resolve()
    script = script.relative_to(ROOT) if script.is_relative_to(ROOT) else Path(script.name)
    result = {
        "name": name, "question": question, "command": " ".join(["python", str(script), *sys.argv[1:]]),
        "commit": commit(), "date": date.today().isoformat(), "machine": machine(), "seed": seed, "xsda": __version__,
        "columns": [{"name": k, "units": u, "format": f} for k, (u, f) in pairs.items()],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(dumps(result | more, table))
    return path


def dumps(result: Mapping[str, object], rows: Sequence[Mapping[str, object]]) -> str:
    """One line per column and per row, keys in order, so that a diff shows which numbers changed."""

    def line(value: object) -> str:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)

    def block(values: Sequence[object]) -> str:
        return "[\n" + ",\n".join(f"  {line(v)}" for v in values) + "\n ]"

    head = [f' "{k}": {block(v) if k == "columns" else line(v)}' for k, v in sorted(result.items())]
    return "{\n" + ",\n".join([*head, f' "rows": {block(rows)}']) + "\n}\n"


def _plain(name: str, key: str, value: object, columns: Mapping[str, object]) -> str | int | float | bool:
    """Text, or a number of Python with six digits."""
    if key not in columns:
        raise ValueError(
            f"{name}: the row has a value for {key!r}, which columns lacks ({list(columns)}); add it there"
        )
    value = value.item() if hasattr(value, "item") else value  # numbers of numpy and torch
    if not isinstance(value, str | int | float | bool) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{name}: {key!r} is {value!r}; give text or a finite number, or leave it out of the row")
    return float(f"{value:.6g}") if isinstance(value, float) else value


def commit() -> str:
    """Short hash of the checkout, "-dirty" if tracked files outside the results differ; "unknown" outside of git."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    dirty = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("-dirty" if dirty else "")


def machine() -> str:
    """Processor, cores, threads and release of torch."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [s.split(":")[1].strip() for s in lines if s.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cpu}{gpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
