"""Tables and numbers of the pages come from ``benchmarks/results/*.json``.

A table, one line a column (heading, bar, what stands in the cells)::

    ```{results} error_laws
    :where: observations=clean|gross
    Observations | {observations}
    RMSE         | {rmse} ({spread_skill:.1f})
    ```

With ``:pivot: column`` the first line gives the rows, the second the cells, and each value of that column a column of the
table. Without lines all columns are shown. Under the table stand its command, commit, date and machine.

A number: ``{result}`error_laws :: clean; Gaussian :: rmse```. The row is given by the values of its first columns, or by
``column=value``; ``max rmse`` and ``min rmse`` go over all rows that fit. What does not exist is a warning, which fails
the build with ``-W``.
"""

import json
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.logging import getLogger

FOLDER = Path(__file__).parents[2] / "benchmarks" / "results"
EMPTY = "–"


class Result:
    """One file: rows, columns, and where they come from."""

    def __init__(self, name: str, folder: Path = FOLDER):
        path = folder / f"{name}.json"
        if not path.exists():
            raise ValueError(f"there is no results file {name!r} in {folder.name}")
        self.name, self.path = name, path
        self.about: dict[str, Any] = json.loads(path.read_text())
        self.columns = {c["name"]: c for c in self.about["columns"]}
        self.rows: list[dict[str, Any]] = self.about["rows"]

    def select(self, where: str, order: Iterable[str] = ()) -> list[dict[str, Any]]:
        """Rows in which each ``column=value|value`` holds; a bare value belongs to the next of the columns in ``order``."""
        names, rows = iter(order or self.columns), self.rows
        for item in filter(None, map(str.strip, where.split(";"))):
            head, equals, tail = item.partition("=")
            name, wanted = (
                (head.strip(), tail.split("|")) if equals and head.strip() in self.columns else (next(names), [item])
            )
            rows = [r for r in rows if str(r.get(name, "")) in [w.strip() for w in wanted]]
        if not rows:
            raise ValueError(f"{self.name}: no row fits {where!r}")
        return rows

    def cell(self, template: str, row: dict[str, Any]) -> str:
        """``{column}`` in the column's own format, ``{column:.1f}`` in another; a dash where the row lacks a value."""
        out = []
        for text, name, spec, _ in string.Formatter().parse(template):
            out.append(text)
            if name is None:
                continue
            if name not in self.columns:
                raise ValueError(f"{self.name}: there is no column {name!r} among {list(self.columns)}")
            if name not in row:
                return EMPTY
            value = row[name]
            out.append(
                value if isinstance(value, str) else format(value, spec or self.columns[name]["format"]).rstrip(".")
            )
        return "".join(out)

    def number(self, row: str, column: str) -> str:
        """One cell, or the least or largest of several."""
        name, _, spec = column.partition(":")
        how, _, rest = name.strip().partition(" ")
        name = (rest if how in ("min", "max") else name).strip()
        rows = self.select(row)
        if how in ("min", "max"):
            rows = [(max if how == "max" else min)((r for r in rows if name in r), key=lambda r: r[name], default={})]
        if len(rows) != 1:
            raise ValueError(f"{self.name}: {len(rows)} rows fit {row!r}; name one, or write 'min' or 'max'")
        text = self.cell(f"{{{name}:{spec}}}" if spec else f"{{{name}}}", rows[0])
        if text == EMPTY:
            raise ValueError(f"{self.name}: the row {row!r} has no {name!r}")
        return text.replace("-", "−", 1) if text.startswith("-") else text

    def heading(self, name: str) -> str:
        units = self.columns[name]["units"]
        return name.replace("_", " ") + (f" ({units})" if units not in ("", "1", "see measure") else "")

    def table(self, lines: list[str], where: str = "", pivot: str | None = None) -> list[list[str]]:
        """Headings, then one list of texts per row."""
        rows = self.select(where)
        pairs = [tuple(part.strip() for part in line.split("|", 1)) for line in lines if line.strip()]
        pairs = pairs or [(self.heading(c), f"{{{c}}}") for c in self.columns if any(c in r for r in rows)]
        if pivot is None:
            body = [[self.cell(t, r) for _, t in pairs] for r in rows]
            for above, row in zip(body[-2::-1], body[:0:-1], strict=True):  # from the end: what repeats is said once
                row[0] = "" if row[0] == above[0] else row[0]
            return [[h for h, _ in pairs], *body]
        (title, label), (_, inner) = pairs
        across = list(dict.fromkeys(self.cell(f"{{{pivot}}}", r) for r in rows))
        cells: dict[str, dict[str, str]] = {}
        for r in rows:
            cells.setdefault(self.cell(label, r), {})[self.cell(f"{{{pivot}}}", r)] = self.cell(inner, r)
        return [[title, *across], *([k, *(c.get(a, EMPTY) for a in across)] for k, c in cells.items())]


class ResultsDirective(SphinxDirective):
    required_arguments = 1
    has_content = True
    option_spec = {  # noqa: RUF012
        "where": directives.unchanged,
        "pivot": directives.unchanged,
        "caption": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        try:
            result = Result(self.arguments[0])
            table = result.table(list(self.content), self.options.get("where", ""), self.options.get("pivot"))
        except (ValueError, StopIteration) as error:
            raise self.error(str(error)) from None
        self.env.note_dependency(str(result.path))
        node = nodes.table(classes=["results"])
        if "caption" in self.options:
            node += nodes.title("", self.options["caption"])
        group = nodes.tgroup(cols=len(table[0]))
        group += [nodes.colspec(colwidth=1) for _ in table[0]]
        body = [nodes.row("", *(nodes.entry("", nodes.paragraph(text=t)) for t in texts)) for texts in table]
        group += [nodes.thead("", body[0]), nodes.tbody("", *body[1:])]
        node += group
        return [node, self.provenance(result.about)]

    def provenance(self, about: dict[str, Any]) -> nodes.Node:
        line = nodes.paragraph(classes=["provenance"])
        line += (
            nodes.literal(text=about["command"])
            if about["command"]
            else nodes.Text("Measured by hand; no script is kept")
        )
        copied = " · transcribed" if about.get("transcribed") else ""
        line += nodes.Text(f" · commit {about['commit']}, {about['date']} · {about['machine']}{copied}")
        return line


class ResultRole(SphinxRole):
    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        parts = [p.strip() for p in self.text.split("::")]
        try:
            if len(parts) != 3:
                raise ValueError(f"{self.text!r} is not 'file :: row :: column'")
            result = Result(parts[0])
            text = result.number(parts[1], parts[2])
        except (ValueError, StopIteration) as error:
            getLogger(__name__).warning("result: %s", error, location=self.get_location())
            return [nodes.problematic(text=self.text)], []
        self.env.note_dependency(str(result.path))
        return [nodes.inline(text=text, classes=["result"])], []


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("results", ResultsDirective)
    app.add_role("result", ResultRole())
    return {"parallel_read_safe": True}
