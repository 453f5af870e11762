"""The published tables are what the kept records say, by the gin files of today."""

import dataclasses
import importlib.util
import pathlib

import pytest
import tiny

from brac_plus_tf.comparison.plan import Study, is_done, plan
from brac_plus_tf.comparison.records import Cell
from brac_plus_tf.comparison.results import Result, collect
from brac_plus_tf.comparison.tables import markdown, scores_csv
from brac_plus_tf.runs import configuration

RESULTS = tiny.PROJECT / "results"
BEGUN = [
    path.stem for path in sorted((tiny.PROJECT / "studies").glob("*.gin")) if any(RESULTS.glob(f"{path.stem}/*__*"))
]


@pytest.mark.parametrize("name", BEGUN)
def test_a_studys_tables_are_made_from_its_records(name):
    """A record whose settings no gin file gives any more would be refused or missing here."""
    study = configuration.build(Study, [str(tiny.PROJECT / "studies" / f"{name}.gin")], [])
    sources = [dataset.split("+") for dataset in study.datasets]
    cells = plan(study, sources, pathlib.Path("runs"), records=RESULTS / name)
    done = [cell for cell in cells if is_done(cell)]
    kept = {path.name for path in (RESULTS / name).glob("*__*.json")}
    assert {cell.record.name for cell in done} == kept
    results = collect(done)
    assert (RESULTS / name / "table.md").read_text() == markdown(results)
    assert (RESULTS / name / "scores.csv").read_text() == scores_csv(results)


def updating():
    """scripts/update_results.py as a module."""
    path = tiny.PROJECT / "scripts" / "update_results.py"
    specification = importlib.util.spec_from_file_location("update_results", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["README.md", "docs/comparison.md", "docs/steadiness.md"])
def test_the_documents_tables_are_what_the_records_give(name):
    text = (tiny.PROJECT / name).read_text()
    assert updating().filled(text) == text
    marked = text.count("<!-- runs: ")
    assert marked == len(updating().MARK.findall(text)) >= 1


def test_a_row_by_hand():
    """Scores, mean, interval of one seed, last ten and worst, as a record of five lines gives them."""
    curve = tuple((step, float(step)) for step in range(1, 13))
    one = Result(
        Cell("bear", "hopper-medium-replay", 0, pathlib.Path("a")), 40.0, 7.5, "score", 100, {"main": 12.4}, curve
    )
    two = dataclasses.replace(one, score=20.0, last_evaluations=8.5, speeds={"pre": 900.0, "main": 14.0})
    row = updating()._row("hopper-medium-replay", "bear", [one, two])
    assert row == "| BEAR | 40.0, 20.0 | 30.0 [20.0, 40.0] | 8.0, worst 3.0 | 33.7 | 13 |\n"
