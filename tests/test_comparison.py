"""The comparison's numbers against hand calculations, from run directories written by hand."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from brac_plus_tf.comparison.curves import draw_curves, draw_profiles
from brac_plus_tf.comparison.records import Cell, find_record, keep_record
from brac_plus_tf.comparison.report import write_comparison
from brac_plus_tf.comparison.results import Result, collect, published_score
from brac_plus_tf.core.errors import UserError

SCORES = {  # (agent, dataset) -> scores of seeds 0, 1, 2
    ("bc", "hopper-medium-replay"): (0.0, 3.0, 6.0),
    ("bc", "halfcheetah-medium-replay"): (40.0, 40.0, 40.0),
    ("brac_plus", "hopper-medium-replay"): (70.0, 80.0, 90.0),
    ("brac_plus", "halfcheetah-medium-replay"): (50.0, 52.0, 54.0),
}


def write_run(directory, score, **changes):
    """A finished run as the trainer leaves it: two calls of 100 steps, the first slowed down by compiling."""
    directory.mkdir(parents=True)
    facts = {"format": 1, "dataset": {"sha256": "ab", "transitions": 10}, "environment": {"task": "Hopper-v4"}}
    evaluation = {"episodes": 100, "score_mean": score, "last_evaluations": {"count": 2, "score_mean": score - 1.0}}
    for content in (facts, evaluation):
        content.update({key: value for key, value in changes.items() if key in content})
    (directory / "run.json").write_text(json.dumps(facts))
    (directory / "evaluation.json").write_text(json.dumps(evaluation))
    rows = [(100, score / 2.0), (200, score)]
    (directory / "metrics.csv").write_text(
        "stage,step,metric,value\n" + "".join(f"main,{step},evaluation/score_mean,{value}\n" for step, value in rows)
    )
    (directory / "timing.csv").write_text(
        "stage,step,steps,seconds\nmain,100,100,50.000000\nmain,2main,200,100,2.000000\nmain,200,100,2.000000\n"
        "main,300,100,2.500000\nmain,400,1"
    )
    return directory


@pytest.fixture
def cells(tmp_path):
    return [
        Cell(agent, dataset, seed, write_run(tmp_path / dataset / agent / str(seed), score))
        for (agent, dataset), scores in SCORES.items()
        for seed, score in enumerate(scores)
    ]


def rows_of(markdown):
    """First cell of each row -> the rest, in order of appearance."""
    lines = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("|")]
    return [(line[0], line[1:]) for line in lines]


def test_the_table_holds_means_intervals_and_the_papers_numbers(cells, tmp_path):
    rows = rows_of(write_comparison(collect(cells), tmp_path / "out").read_text())
    assert rows[0] == ("dataset", ["bc", "brac_plus"])
    # of the 27 resamples of (0, 3, 6) one has the mean 0 and one 6: more than 2.5 % each, so they bound the interval
    assert rows[2] == ("hopper-medium-replay", ["3.0 [0.0, 6.0]", "80.0 [70.0, 90.0] (paper 72.7)"])
    assert rows[3] == ("halfcheetah-medium-replay", ["40.0 [40.0, 40.0]", "52.0 [50.0, 54.0] (paper 46.1)"])


def test_the_last_evaluations_have_a_table_of_their_own(cells, tmp_path):
    rows = rows_of(write_comparison(collect(cells), tmp_path / "out").read_text())
    # each run's file says that they were 1 below its last score
    # on the way they had a half of it and then all: the halves 0 1.5 3 and 35 40 45 are the worst, and nothing is lost
    entries = ["2.0 [-1.0, 5.0], worst 1.5, drop 0.0", "79.0 [69.0, 89.0], worst 40.0, drop 0.0"]
    assert ("hopper-medium-replay", entries) in rows


def test_the_last_ten_evaluations_count_and_the_peak_of_all():
    """Of 12 the first two are lower and the third is the peak; the last policy scores 50."""
    curve = tuple(enumerate([1.0, 2.0, 90.0, 30.0, 40.0, 60.0, 61.0, 62.0, 63.0, 64.0, 65.0, 66.0]))
    result = Result(Cell("bc", "d", 0, Path()), 50.0, 54.0, "score", 100, {}, curve)
    assert (result.worst, result.drop) == (30.0, 40.0)
    assert (lambda one: (one.worst, one.drop))(dataclasses.replace(result, curve=())) == (None, None)


def test_agents_are_set_against_each_other(cells, tmp_path):
    """bc's 0 3 6 and 40 40 40 never reach brac_plus's; of 1 2 3 and 2 2 5, P is (1 + 1/2 + 1/2) / 9 + .. by hand."""
    rows = rows_of(write_comparison(collect(cells), tmp_path / "out").read_text())
    assert ("bc", ["", "0.00 [0.00, 0.00]"]) in rows
    runs = [
        write_run(tmp_path / f"{agent}{seed}", score)
        for agent in "ab"
        for seed, score in enumerate({"a": (1.0, 2.0, 3.0), "b": (2.0, 2.0, 5.0)}[agent])
    ]
    some = [Cell(agent, "d", seed, runs[3 * place + seed]) for place, agent in enumerate("ab") for seed in range(3)]
    rows = rows_of(write_comparison(collect(some), tmp_path / "some").read_text())
    (entry,) = [values[1] for name, values in rows if name == "a" and values[0] == ""]
    assert entry.startswith("0.33 [")  # 2 is as good as two of three, 3 better than these: (2 / 2 + 2) / 9


def test_agents_are_set_against_each_other_where_both_have_runs(cells, tmp_path):
    """Of brac_plus's 70 80 90 and bc's, on the one dataset that is left of bc's, and of an agent on the other alone."""
    other = Cell("sac", "halfcheetah-medium-replay", 0, write_run(tmp_path / "sac", 52.0))
    some = [cell for cell in cells if (cell.agent, cell.dataset[:4]) != ("bc", "half")]
    rows = rows_of(write_comparison(collect([*some, other]), tmp_path / "out").read_text())
    assert ("bc", ["", "0.00 [0.00, 0.00] (1 of 2 datasets)", "missing"]) in rows
    (entry,) = [values[2] for name, values in rows if name == "brac_plus" and values[:2] == ["", ""]]
    assert entry.startswith("0.50 [") and entry.endswith(" (1 of 2 datasets)")  # of 50 52 54 against 52
    assert not (tmp_path / "out" / "profiles.png").exists()  # of no dataset there are runs of all three


def test_a_run_that_was_not_evaluated_on_the_way(tmp_path):
    run = write_run(tmp_path / "run", 4.0, last_evaluations={"count": 0})
    table = write_comparison(collect([Cell("bc", "d", 0, run)]), tmp_path / "out").read_text()
    assert rows_of(table)[2] == ("d", ["4.0"]) and ("d", ["none"]) in rows_of(table)


def test_speeds_are_medians_of_the_calls(cells, tmp_path):
    rows = rows_of(write_comparison(collect(cells), tmp_path / "out").read_text())
    # 2, 50 and 40 steps/s: the call that compiled does not count for more than one
    assert rows[-1] == ("halfcheetah-medium-replay", ["main 40", "main 40"])
    # and a seed that ran on another machine at 100 does not count for more than the other two
    (cells[5].directory / "timing.csv").write_text("stage,step,steps,seconds\nmain,100,100,1.000000\n")
    rows = rows_of(write_comparison(collect(cells), tmp_path / "out").read_text())
    assert rows[-1] == ("halfcheetah-medium-replay", ["main 40", "main 40"])


def test_iqm_row_is_over_tasks_and_seeds(cells, tmp_path):
    table = write_comparison(collect(cells), tmp_path / "out").read_text()
    (iqm,) = [values for name, values in rows_of(table) if name == "IQM"]
    # 0 3 6 40 40 40: scipy's trimming cuts floor(6/4) = 1 at either end; 50 52 54 70 80 90 likewise
    assert iqm[0].startswith("22.2 [") and iqm[1].startswith("64.0 [")
    (gap,) = [values for name, values in rows_of(table) if name == "optimality gap"]
    # 100 less the means 21.5 and 66, for none is above 100; of two tasks mean and median are one
    assert gap[0].startswith("78.5 [") and gap[1].startswith("34.0 [")
    (mean,), (median,) = ([values for name, values in rows_of(table) if name == key] for key in ("mean", "median"))
    assert mean == median and mean[1].startswith("66.0 [")


def test_scores_csv_has_one_row_per_run(cells, tmp_path):
    write_comparison(collect(cells), tmp_path / "out")
    with open(tmp_path / "out" / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert rows[3]["dataset"] == "halfcheetah-medium-replay" and rows[3]["agent"] == "bc" and rows[3]["seed"] == "0"
    assert (float(rows[3]["mean"]), float(rows[3]["last_evaluations"])) == (40.0, 39.0)
    assert (rows[3]["published"], rows[6]["published"]) == ("", "72.7")
    for figure in ("curves.png", "profiles.png"):
        assert (tmp_path / "out" / figure).read_bytes().startswith(b"\x89PNG")


def test_one_seed_has_no_interval_and_a_failed_run_says_so(cells, tmp_path):
    some = [cell for cell in cells if cell.seed == 0 and (cell.agent, cell.dataset[:4]) != ("bc", "half")]
    rows = rows_of(write_comparison(collect(some), tmp_path / "out").read_text())
    assert rows[2] == ("hopper-medium-replay", ["0.0", "70.0 (paper 72.7)"])
    assert rows[3][1][0] == "missing"
    assert ("IQM", ["0.0", "70.0"]) in rows  # over the dataset that both have


def test_seeds_that_are_not_there_are_counted_and_not_averaged_over(cells, tmp_path):
    some = [cell for cell in cells if (cell.agent, cell.seed) != ("bc", 1)]
    text = write_comparison(collect(some), tmp_path / "out").read_text()
    assert dict(rows_of(text))["IQM"][0] == "2 runs missing"
    assert dict(rows_of(text))["IQM"][1].startswith("64.0 [") and "\nOver all of the above and all seeds: " in text


def test_aggregates_are_over_the_datasets_that_all_agents_have_whole(cells, tmp_path):
    """bc lacks a seed on one of two datasets: both agents' 0 3 6 and 70 80 90 on the other one count."""
    some = [cell for cell in cells if (cell.agent, cell.seed, cell.dataset[:4]) != ("bc", 1, "half")]
    text = write_comparison(collect(some), tmp_path / "out").read_text()
    assert "\nOver hopper-medium-replay and all seeds: " in text
    rows = {name: values for name, values in rows_of(text) if name in ("IQM", "mean", "optimality gap")}
    assert [entry.partition(" ")[0] for entry in rows["IQM"]] == ["3.0", "80.0"]
    assert [entry.partition(" ")[0] for entry in rows["optimality gap"]] == ["97.0", "20.0"]
    each = [cell for cell in some if (cell.agent, cell.seed, cell.dataset[:4]) != ("brac_plus", 1, "hopp")]
    text = write_comparison(collect(each), tmp_path / "each").read_text()
    assert "\nOver no dataset and all seeds: " in text
    assert dict(rows_of(text))["IQM"] == ["1 run missing", "1 run missing"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset", {"sha256": "cd", "transitions": 10}),
        ("environment", {"task": "hopper-medium-v0"}),
        ("episodes", 10),
    ],
)
def test_runs_on_other_terms_are_refused(tmp_path, key, value):
    first = Cell("bc", "d", 0, write_run(tmp_path / "a", 1.0))
    second = Cell("sac", "d", 0, write_run(tmp_path / "b", 1.0, **{key: value}))
    with pytest.raises(UserError, match=f"{tmp_path / 'b'}: its {key} is not that of {tmp_path / 'a'}"):
        collect([first, second])


def test_published_scores_are_the_papers():
    # Table 1, last row, and Table 2, first row
    agents = ("bear", "brac_p", "brac_v", "cql", "brac_plus")
    assert [published_score("hopper-medium-replay-v0", agent) for agent in agents] == [33.7, 0.6, 0.6, 48.6, 72.7]
    agents = ("bc", "bear", "brac_p", "brac_v", "cql", "cql/rho", "brac_plus")
    assert [published_score("pen-human", agent) for agent in agents] == [34.4, -1.0, 8.1, 0.6, 37.5, 55.8, 64.9]
    model_based = [published_score("halfcheetah-medium-expert", agent) for agent in ("mopo", "mbop")]
    assert model_based == [57.9, 105.9]
    assert published_score("hopper-medium+hopper-expert", "brac_plus") == 112.9  # medium-expert in Table 1
    assert published_score("hopper-medium+walker2d-expert", "brac_plus") is None
    assert published_score("my_data", "bc") is None


def test_curves_are_means_over_seeds_with_their_range(cells):
    """Each run has evaluations at 100 and 200 of half its score and all of it."""
    figure = draw_curves(collect(cells))
    hopper, halfcheetah = figure.axes
    assert (hopper.get_title(), halfcheetah.get_title()) == ("hopper-medium-replay", "halfcheetah-medium-replay")
    lines = {line.get_label(): line.get_xydata().tolist() for line in hopper.lines}
    assert lines == {"bc": [[100, 1.5], [200, 3.0]], "brac_plus": [[100, 40.0], [200, 80.0]]}
    corners = [{tuple(vertex) for vertex in band.get_paths()[0].vertices.tolist()} for band in hopper.collections]
    assert corners[1] == {(100.0, 35.0), (100.0, 45.0), (200.0, 70.0), (200.0, 90.0)}
    colors = [[line.get_color() for line in panel.lines] for panel in figure.axes]
    assert colors[0] == colors[1] and len(set(colors[0])) == 2


def test_curves_of_seeds_that_were_evaluated_at_other_steps_meet_where_both_were(tmp_path):
    runs = [write_run(tmp_path / name, score) for name, score in (("a", 2.0), ("b", 4.0))]
    (runs[1] / "metrics.csv").write_text("stage,step,metric,value\nmain,200,evaluation/score_mean,4.0\n")
    figure = draw_curves(collect([Cell("bc", "d", seed, run) for seed, run in enumerate(runs)]))
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[200, 3.0]]


def test_profiles_are_shares_of_runs_above_each_score(cells):
    """bc's six are 0 3 6 40 40 40, brac_plus's 50 52 54 70 80 90, over tau from 0 to 90 in 200 steps of 0.45."""
    (panel,) = draw_profiles(collect(cells)).axes
    shares = {line.get_label(): dict(np.round(line.get_xydata(), 6).tolist()) for line in panel.lines}
    at = [0.0, 2.7, 3.15, 39.6, 40.05, 50.4, 89.55, 90.0]
    np.testing.assert_allclose([6 * shares["bc"][tau] for tau in at], [5, 5, 4, 3, 0, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose([6 * shares["brac_plus"][tau] for tau in at], [6, 6, 6, 6, 6, 5, 1, 0], atol=1e-5)
    bands = [np.ptp(band.get_paths()[0].vertices[:, 1]) for band in panel.collections]
    assert len(bands) == 2 and min(bands) > 0.0


# Without an environment -----------------------------------------------------------------------------------------------


def write_judged(directory, mean, verdict="better than the data", **changes):
    """A run without an environment, as `train` leaves it."""
    write_run(directory, 0.0, environment=None)
    (directory / "evaluation.json").unlink()
    content = {"gamma": 0.99, "episodes": 40, "estimate": {"mean": mean, "half_width": 1.25}, "verdict": verdict}
    content |= {"data": {"mean": 5.0, "half_width": 0.5}, "clone": {"mean": 4.75, "half_width": 0.5}} | changes
    (directory / "estimate").mkdir()
    (directory / "estimate" / "estimate.json").write_text(json.dumps(content))
    return directory


def test_estimates_stand_in_for_scores_and_every_heading_says_so(tmp_path):
    cells = [
        Cell("bc", "mine", 0, write_judged(tmp_path / "0", 4.5, "not told apart from the data")),
        Cell("cql", "mine", 0, write_judged(tmp_path / "1", 9.0)),
    ]
    text = write_comparison(collect(cells), tmp_path / "out").read_text()
    headings = [line for line in text.splitlines() if line and not line.startswith("|")]
    assert headings[0].startswith("Estimates, no simulator") and "gamma 0.99" in headings[0] and "score" not in text
    assert all("stimate" in heading for heading in headings if "steps per second" not in heading)
    rows = rows_of(text)
    expected = ["4.5 +- 1.2 (not told apart from the data)", "9 +- 1.2 (better than the data)"]
    assert rows[2] == ("mine", expected)
    assert ("mine", ["5 +- 0.5", "4.75 +- 0.5"]) in rows
    with open(tmp_path / "out" / "scores.csv", newline="") as file:
        assert [(row["unit"], float(row["mean"])) for row in csv.DictReader(file)] == [
            ("estimate", 4.5),
            ("estimate", 9),
        ]
    assert not (tmp_path / "out" / "profiles.png").exists()
    (panel,) = [axes for axes in draw_curves(collect(cells)).axes if axes.get_title() == "mine"]
    assert "no simulator" in panel.get_ylabel()
    (bc, cql) = panel.containers
    assert [bar.lines[0].get_ydata()[0] for bar in (bc, cql)] == [4.5, 9.0]
    np.testing.assert_allclose(cql.lines[2][0].get_segments()[0][:, 1], [7.75, 10.25])  # the interval's ends
    band = [patch.get_extents().get_points() for patch in panel.patches]
    np.testing.assert_allclose(panel.transData.inverted().transform(band[0])[:, 1], [4.5, 5.5])


def test_estimates_of_several_seeds(tmp_path):
    runs = [write_judged(tmp_path / str(seed), mean, verdict) for seed, (mean, verdict) in enumerate(SEVERAL)]
    cells = [Cell("bc", "mine", seed, run) for seed, run in enumerate(runs)]
    rows = rows_of(write_comparison(collect(cells), tmp_path / "out").read_text())
    assert rows[2] == ("mine", ["4 [2, 6] (better than the data, not reliable on this data)"])


SEVERAL = [(2.0, "better than the data"), (4.0, "not reliable on this data"), (6.0, "better than the data")]


@pytest.mark.parametrize("change", [{"gamma": 0.9}, {"episodes": 39}])
def test_estimates_of_different_quantities_are_not_compared(tmp_path, change):
    runs = [write_judged(tmp_path / "0", 1.0), write_judged(tmp_path / "1", 1.0, **change)]
    with pytest.raises(UserError, match=f"its {next(iter(change))} is not that of"):
        collect([Cell("bc", "mine", seed, run) for seed, run in enumerate(runs)])


def test_a_run_with_neither_is_refused(tmp_path):
    run = write_judged(tmp_path / "0", 1.0)
    (run / "estimate" / "estimate.json").unlink()
    with pytest.raises(UserError, match="neither evaluated nor judged"):
        collect([Cell("bc", "mine", 0, run)])


# Records ------------------------------------------------------------------------------------------------------------


def kept(cells, directory):
    """The same cells with a record each, and without their runs."""
    with_records = [
        dataclasses.replace(cell, record=directory / f"{cell.dataset}-{cell.agent}-{cell.seed}.json") for cell in cells
    ]
    for cell in with_records:
        keep_record(cell)
        shutil.rmtree(cell.directory)
    return with_records


def test_records_give_the_very_table_and_curves_of_their_runs(cells, tmp_path):
    before = collect(cells)
    table = write_comparison(before, tmp_path / "out").read_text()
    after = collect(kept(cells, tmp_path / "records"))
    assert write_comparison(after, tmp_path / "again").read_text() == table
    assert [result.curve for result in after] == [result.curve for result in before]


def test_a_record_says_what_made_it_and_leaves_out_single_episodes(tmp_path):
    run = write_run(tmp_path / "run", 4.0, episodes=100)
    (run / "operative_config.gin").write_text("A.b = 1\nExperiment.dataset = ('d',)\nC.d = 2\n")
    evaluation = json.loads((run / "evaluation.json").read_text()) | {"scores": [4.0] * 100, "lengths": [7] * 100}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    (cell,) = kept([Cell("bc", "d", 0, run)], tmp_path)
    record = find_record(cell)
    assert record["settings"] == ["A.b = 1", "C.d = 2"]  # the path is nobody's business, the contents' hash is there
    assert record["run"]["dataset"]["sha256"] == "ab" and record["curve"] == [[100, 2.0], [200, 4.0]]
    assert record["evaluation"]["score_mean"] == 4.0 and "scores" not in record["evaluation"]
    assert "lengths" not in record["evaluation"] and record["steps_per_second"] == {"main": 40.0}


def test_a_record_has_q_where_the_policy_was_evaluated(tmp_path):
    """Not of other steps, nor of another stage's steps of the same number."""
    run = write_run(tmp_path / "run", 4.0)
    with open(run / "metrics.csv", "a") as file:
        file.write("initial_critic,100,q_mean,1.0\nmain,100,q_mean,5.0\nmain,150,q_mean,6.0\nmain,200,q_mean,7.0\n")
    (cell,) = kept([Cell("bc", "d", 0, run)], tmp_path)
    assert find_record(cell)["value_curve"] == [[100, 5.0], [200, 7.0]]
    assert collect([cell])[0].value_curve == ((100, 5.0), (200, 7.0))


def test_the_run_itself_goes_before_its_record_and_an_unfinished_one_does_not(tmp_path):
    run = write_run(tmp_path / "run", 4.0)
    cell = Cell("bc", "d", 0, run, record=tmp_path / "record.json")
    keep_record(cell)
    (run / "evaluation.json").write_text(json.dumps({"episodes": 100, "score_mean": 5.0, "last_evaluations": {}}))
    assert find_record(cell)["evaluation"]["score_mean"] == 5.0
    (run / "evaluation.json").unlink()
    keep_record(cell)  # of what is not finished nothing is kept
    assert find_record(cell)["evaluation"]["score_mean"] == 4.0
    assert find_record(dataclasses.replace(cell, record=None)) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"record": 2}'])
def test_another_file_is_no_record(tmp_path, content):
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(UserError, match=r"record\.json: "):
        find_record(Cell("bc", "d", 0, tmp_path / "absent", record=tmp_path / "record.json"))


def test_seeds_of_an_agent_by_different_protocols_are_not_averaged(tmp_path):
    runs = [write_run(tmp_path / str(seed), 1.0) for seed in range(2)]
    facts = json.loads((runs[1] / "run.json").read_text())
    (runs[1] / "run.json").write_text(json.dumps(facts | {"configuration": "other"}))
    with pytest.raises(UserError, match=r"its configuration is not that of"):
        collect([Cell("bc", "d", seed, run) for seed, run in enumerate(runs)])
    assert len(collect([Cell("bc", "d", 0, runs[0]), Cell("sac", "d", 0, runs[1])])) == 2
