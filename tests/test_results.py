"""The published tables are what the kept records say, by the gin files of today."""

import pathlib

import pytest
import tiny

from brac_plus_tf.comparison.plan import Study, is_done, plan
from brac_plus_tf.comparison.results import collect
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
