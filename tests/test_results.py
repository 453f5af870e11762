"""The published tables are what the kept records say, by the gin files of today."""

import dataclasses
import pathlib
import sys

import numpy as np
import pytest
import tiny

from brac_plus_tf.comparison.plan import is_done
from brac_plus_tf.comparison.records import Cell
from brac_plus_tf.comparison.results import Result, collect
from brac_plus_tf.comparison.tables import markdown, scores_csv
from brac_plus_tf.paper import ablations
from brac_plus_tf.paper.picture import read_picture

sys.path.insert(0, str(tiny.PROJECT / "scripts"))

import update_results

RESULTS = tiny.PROJECT / "results"


@pytest.mark.parametrize("name", update_results.studies())
def test_a_studys_tables_are_made_from_its_records(name):
    """A record whose settings no gin file gives any more would be refused or missing here."""
    done = [cell for cell in update_results.cells(name) if is_done(cell)]
    kept = {path.name for path in (RESULTS / name).glob("*__*.json")}
    assert {cell.record.name for cell in done} == kept
    results = collect(done)
    assert (RESULTS / name / "table.md").read_text() == markdown(results)
    assert (RESULTS / name / "scores.csv").read_text() == scores_csv(results)


@pytest.mark.parametrize("name", ablations.FIGURES)
def test_an_ablations_figure_is_made_from_its_records(name):
    made = ablations.figure(name, *update_results.content("ablations"), RESULTS / "ablations")
    kept = read_picture(RESULTS / "figures" / f"figure_{name}.json")
    assert kept.caption == made.caption
    for panel, kept_panel in zip(made.panels, kept.panels, strict=True):
        assert kept_panel.title == panel.title
        for line, kept_line in zip(panel.lines, kept_panel.lines, strict=True):
            assert kept_line.label == line.label and kept_line.x == line.x
            for numbers in ("y", "low", "high"):
                np.testing.assert_allclose(getattr(kept_line, numbers), getattr(line, numbers), rtol=1e-5)


@pytest.mark.parametrize("name", update_results.DOCUMENTS)
def test_the_documents_tables_are_what_the_records_give(name):
    text = (tiny.PROJECT / name).read_text()
    assert update_results.filled(text) == text
    marked = text.count("<!-- ")
    assert marked == len(update_results.MARK.findall(text)) >= 1


def test_the_crosschecks_table_is_made_anew():
    """An old one goes, what follows it stays."""
    after = update_results.filled("<!-- crosscheck -->\n| old |\n| 1.0 |\nCloning\n")
    mark, head, _, *rows, last = after.splitlines()
    assert (mark, last) == ("<!-- crosscheck -->", "Cloning")
    assert head.startswith("| dataset | agent | last policy: d3rlpy")
    assert rows and not {"| old |", "| 1.0 |"} & set(rows)


def test_a_row_by_hand():
    """Scores, mean, its interval, last ten, worst, published, and the last stage's speed."""
    curve = tuple((step, float(step)) for step in range(1, 13))
    one = Result(
        Cell("bear", "hopper-medium-replay", 0, pathlib.Path("a")), 40.0, 7.5, "score", 100, {"main": 12.4}, curve
    )
    two = dataclasses.replace(one, score=20.0, last_evaluations=8.5, speeds={"pre": 900.0, "main": 14.0})
    row = update_results._row("hopper-medium-replay", "bear", [one, two])
    assert row == "| BEAR | 40.0, 20.0 | 30.0 [20.0, 40.0] | 8.0, worst 3.0 | 33.7 | 13 |\n"


def test_a_table_of_scores_by_hand(monkeypatch):
    """A gap where a seed is missing; IQM and comparison over the datasets without one."""
    scores = {
        ("bear", "hopper-medium"): (10.0, 20.0),
        ("bear", "halfcheetah-medium"): (0.0, 100.0),
        ("bear", "hopper-random"): (3.0,),
        ("brac_plus", "hopper-medium"): (15.0, 30.0),
        ("brac_plus", "halfcheetah-medium"): (50.0, 50.0),
        ("brac_plus", "hopper-random"): (5.0, 7.0),
    }
    results = [
        Result(Cell(agent, dataset, seed, pathlib.Path("a")), score, None, "score", 100, {}, ())
        for (agent, dataset), runs in scores.items()
        for seed, score in enumerate(runs)
    ]
    monkeypatch.setattr(update_results, "cells", lambda study: [result.cell for result in results])
    monkeypatch.setattr(update_results, "is_done", lambda cell: True)
    monkeypatch.setattr(update_results, "collect", lambda cells: results)
    assert update_results.filled("<!-- scores: any -->\n| old |\n") == (
        "<!-- scores: any -->\n"
        "| agent | hopper-medium | halfcheetah-medium | hopper-random | IQM | above BRAC+ |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| BEAR | 15.0 [10.0, 20.0] | 50.0 [0.0, 100.0] |  | 15.0 [5.0, 60.0] | 0.38 [0.00, 0.75] |\n"
        "| BRAC+ | 22.5 [15.0, 30.0] | 50.0 [50.0, 50.0] | 6.0 [5.0, 7.0] | 40.0 [32.5, 40.0] |  |\n"
    )
