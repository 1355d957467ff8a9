"""Results of benchmarks are data that can be read back, trusted and made again."""

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from record import record  # noqa: E402

RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
KEYS = {"name", "question", "command", "commit", "date", "machine", "seed", "xsda", "columns", "rows"}
COLUMNS = {"method": "", "rmse": ("K", ".3f"), "count": "1"}


def written(folder, rows, **more):
    return record("trial", rows, columns=COLUMNS, question="Which is better?", seed=3, folder=folder, **more)


def test_rows_survive_the_round_trip(tmp_path):
    rows = [{"method": "a, b", "rmse": 0.25, "count": 2}, {"method": "c"}]
    result = json.loads(written(tmp_path, rows, note="by night").read_text())
    assert result["rows"] == rows
    assert set(result) == KEYS | {"note"}
    assert result["columns"][1] == {"name": "rmse", "units": "K", "format": ".3f"}
    assert (result["seed"], result["note"]) == (3, "by night")


def test_numbers_of_numpy_become_numbers_with_six_digits(tmp_path):
    rows = [{"rmse": np.float32(1 / 3), "count": np.int64(7)}]
    assert json.loads(written(tmp_path, rows).read_text())["rows"] == [{"rmse": 0.333333, "count": 7}]


@pytest.mark.parametrize("value", [math.nan, math.inf, None, [1.0]])
def test_what_is_no_finite_number_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="'rmse' is"):
        written(tmp_path, [{"method": "a", "rmse": value}])
    assert not list(tmp_path.iterdir())


def test_a_value_without_a_column_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'bias'"):
        written(tmp_path, [{"bias": 1.0}])


def test_the_file_depends_on_the_values_alone(tmp_path):
    first = written(tmp_path, [{"method": "a", "rmse": 1.0}]).read_text()
    assert written(tmp_path, [{"rmse": 1.0, "method": "a"}]).read_text() == first


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_stored_results_say_where_they_come_from(path):
    result = json.loads(path.read_text())
    assert result.keys() >= KEYS
    assert result["name"] == path.stem
    assert re.fullmatch(r"[0-9a-f]{7,}(-dirty)?", result["commit"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", result["date"])
    columns = {c["name"] for c in result["columns"]}
    assert result["rows"]
    assert all(row.keys() <= columns for row in result["rows"])
    assert not [v for row in result["rows"] for v in row.values() if isinstance(v, float) and not math.isfinite(v)]


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_stored_results_name_a_script_that_exists(path):
    result = json.loads(path.read_text())
    scripts = re.findall(r"\S+\.py", result["command"])
    if result.get("by_hand"):
        assert result["transcribed"]
        assert not scripts
    elif result["command"] != "xsda demo":
        assert scripts
        assert all((ROOT / s).exists() for s in scripts)


@pytest.fixture
def result(tmp_path):
    pytest.importorskip("sphinx")
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    from results import Result

    rows = [
        {"method": "a", "rmse": 0.5, "count": 1},
        {"method": "a", "rmse": 0.25, "count": 2},
        {"method": "b", "rmse": -2.0, "count": 1},
        {"method": "b", "count": 2},
    ]
    written(tmp_path, rows)
    return Result("trial", tmp_path)


def test_a_page_shows_a_number_of_the_file(result):
    assert result.number("a; count=2", "rmse") == "0.250"
    assert result.number("method=a; count=2", "rmse:.1f") == "0.2"
    assert result.number("a", "max rmse") == "0.500"
    assert result.number("count=1", "min rmse") == "−2.000"


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        ("c", "rmse", "no row"),
        ("a", "rmse", "2 rows"),
        ("a; count=1", "mae", "no column"),
        ("b; count=2", "rmse", "has no"),
    ],
)
def test_a_page_cannot_show_what_the_file_lacks(result, row, column, message):
    with pytest.raises(ValueError, match=message):
        result.number(row, column)


def test_a_table_has_the_rows_and_columns_that_are_asked_for(result):
    assert result.table(["Method | {method}", "Error | {rmse} ({count})"], "count=2") == [
        ["Method", "Error"],
        ["a", "0.250 (2)"],
        ["b", "–"],
    ]
    assert result.table(["Count | {count}", "- | {rmse:.1f}"], pivot="method") == [
        ["Count", "a", "b"],
        ["1", "0.5", "-2.0"],
        ["2", "0.2", "–"],
    ]
    whole = result.table([])
    assert whole[0] == ["method", "rmse (K)", "count"]
    assert [row[0] for row in whole[1:]] == ["a", "", "b", ""]  # what repeats is said once
