"""What is drawn of runs is what their metrics.csv holds: every line's numbers, and which lines there are."""

import json

import numpy as np
import pytest
import tiny
from matplotlib.colors import to_hex

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import write_figure
from brac_plus_tf.runs.curves import COLORS, draw_runs, look_of, read_curves

# Two stages of 40 and 60 steps; by hand the second's steps are 40 more on the common axis
ROWS = [
    *[("behavior", step, "negative_elbo", 5.0 - step / 10) for step in (20, 40)],
    *[("behavior", step, "q_mean", 0.5 * step) for step in (20, 40)],
    *[("main", step, "q_mean", 30.0 + step) for step in (30, 60)],
    *[("main", step, "divergence_mean", 1.0 + step / 60) for step in (30, 60)],
    *[("main", step, "divergence_threshold", 1.75) for step in (30, 60)],
    *[("main", step, "multiplier_mean", step / 10) for step in (30, 60)],
    *[("main", step, "entropy_multiplier", step / 1000) for step in (30, 60)],
    *[("main", step, "evaluation/score_mean", float(step)) for step in (30, 60)],
    *[("main", step, "evaluation/score_std", step / 10) for step in (30, 60)],
    *[("main", step, "evaluation/return_mean", 10.0 * step) for step in (30, 60)],
    *[("main", step, "latent_kl", 9.0) for step in (30, 60)],
]
BREAK = (40.5, np.nan)  # parts the stages


def write_run(directory, rows=ROWS, agent="brac_plus", data="hopper.hdf5", **facts):
    directory.mkdir(parents=True)
    content = {"format": 1, "agent": agent, "seed": 0, "environment": None, "dataset": {"files": [data]}, **facts}
    (directory / "run.json").write_text(json.dumps(content))
    lines = ["stage,step,metric,value", *(f"{stage},{step},{metric},{value!r}" for stage, step, metric, value in rows)]
    (directory / "metrics.csv").write_text("\n".join(lines) + "\n")
    return directory


def scaled(factor: float, drop: int = 0):
    """The rows with other values, but for the thresholds; the last `drop` steps of the main stage are not there yet."""
    kept = [row for row in ROWS if not (row[0] == "main" and row[1] > 60 - drop)]
    return [(s, step, name, value * (1.0 if "threshold" in name else factor)) for s, step, name, value in kept]


def drawn(*directories):
    """Panel title -> lines as ((x, y), ...) with colour and style."""
    figure = draw_runs([read_curves(directory) for directory in directories])
    panels = {}
    for axes in figure.axes:
        lines = [line for line in axes.lines if line.get_linestyle() != ":"]  # those mark the stages
        panels[axes.get_title()] = [
            (list(zip(*line.get_data(), strict=True)), to_hex(line.get_color()), line.get_linestyle()) for line in lines
        ]
    return figure, panels


def points(lines) -> list:
    return [line[0] for line in lines]


def test_one_runs_lines_are_its_rows(tmp_path):
    _, panels = drawn(write_run(tmp_path / "run"))
    assert list(panels) == ["score", "divergence", "multiplier", "entropy multiplier", "Q", "negative elbo"]
    assert points(panels["score"]) == [[(70.0, 30.0), (100.0, 60.0)]]
    assert points(panels["divergence"]) == [[(70.0, 1.5), (100.0, 2.0)], [(70.0, 1.75), (100.0, 1.75)]]
    assert [style for *_, style in panels["divergence"]] == ["-", "--"]
    assert points(panels["multiplier"]) == [[(70.0, 3.0), (100.0, 6.0)]]
    assert points(panels["entropy multiplier"]) == [[(70.0, 0.03), (100.0, 0.06)]]
    (curve,) = points(panels["Q"])
    np.testing.assert_array_equal(curve, [(20, 10), (40, 20), BREAK, (70, 60), (100, 90)])
    assert points(panels["negative elbo"]) == [[(20.0, 3.0), (40.0, 1.0)]]


def test_each_stage_goes_on_where_the_one_before_ended(tmp_path):
    rows = [(stage, step, "q_mean", 1.0) for stage, steps in (("a", 40), ("b", 60), ("c", 10)) for step in (5, steps)]
    curves = read_curves(write_run(tmp_path / "run", rows))
    assert curves.stages == {"a": 0, "b": 40, "c": 100}
    np.testing.assert_array_equal(curves.series["q_mean"][0], [5, 40, 40.5, 45, 100, 100.5, 105, 110])


def test_the_spread_is_a_standard_deviation_either_way(tmp_path):
    figure, _ = drawn(write_run(tmp_path / "run"))
    (band,) = figure.axes[0].collections
    # around 30 and 60 with deviations 3 and 6
    corners = {(70.0, 27.0), (70.0, 33.0), (100.0, 54.0), (100.0, 66.0)}
    assert {tuple(vertex) for vertex in band.get_paths()[0].vertices.tolist()} == corners


def test_stages_are_marked_where_they_begin(tmp_path):
    figure, _ = drawn(write_run(tmp_path / "run"))
    for axes in figure.axes:
        assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [40]
    names = {text.get_text(): text.get_position()[0] for text in figure.axes[0].texts}
    assert names == {"behavior": 0, "main": 40}


def test_seeds_of_one_agent_share_a_colour_and_have_a_mean(tmp_path):
    """The second run is half as far: the mean is of what both have."""
    runs = [write_run(tmp_path / "0"), write_run(tmp_path / "1", scaled(3.0, drop=30))]
    other = write_run(tmp_path / "2", [row for row in ROWS if row[0] == "main"], agent="bc")
    figure, panels = drawn(*runs, other)
    first, second, mean, of_other = panels["score"]
    assert first[0] == [(70.0, 30.0), (100.0, 60.0)] and second[0] == [(70.0, 90.0)]
    assert mean[0] == [(70.0, 60.0)]
    assert [color for _, color, _ in (first, second, mean)] == [COLORS[0].lower()] * 3
    assert of_other == ([(30.0, 30.0), (60.0, 60.0)], COLORS[1].lower(), "-")
    (curve,) = points(panels["Q"])[2:3]
    np.testing.assert_array_equal(curve, [(20, 20), (40, 40), BREAK, (70, 120)])
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert labels[:2] == ["brac_plus, mean of 2 runs", "bc"]
    assert not [line for axes in figure.axes for line in axes.lines if line.get_linestyle() == ":"]  # stages differ


def test_agents_on_several_datasets_are_told_apart(tmp_path):
    runs = [write_run(tmp_path / name, data=f"{name}.hdf5") for name in ("hopper", "walker")]
    figure, panels = drawn(*runs)
    assert [text.get_text() for text in figure.legends[0].texts][:2] == ["brac_plus on hopper", "brac_plus on walker"]
    assert [color for _, color, _ in panels["score"]] == [color.lower() for color in COLORS[:2]]
    (title,) = {drawn(runs[0])[0].legends[0].get_title().get_text()}
    assert title == "hopper"


def test_a_run_without_an_environment_or_with_returns_alone(tmp_path):
    none = [row for row in ROWS if not row[2].startswith("evaluation/")]
    assert "score" not in drawn(write_run(tmp_path / "none", none))[1]
    returns = [row for row in ROWS if "score" not in row[2]]
    assert points(drawn(write_run(tmp_path / "returns", returns))[1]["return"]) == [[(70.0, 300.0), (100.0, 600.0)]]
    loss = [row for row in ROWS if row[2] == "negative_elbo"]
    assert list(drawn(write_run(tmp_path / "loss", loss))[1]) == ["negative elbo"]


def test_a_row_that_is_being_written_is_left_out(tmp_path):
    run = write_run(tmp_path / "run")
    whole = drawn(run)[1]
    for part in ("main", "main,90,q_mean", "main,90,q_mean,1", "main,90,q_mean,12"):
        with open(run / "metrics.csv", "a") as file:
            file.write(part)
        np.testing.assert_equal(drawn(run)[1], whole)
        text = (run / "metrics.csv").read_text()
        (run / "metrics.csv").write_text(text.removesuffix(part))


def test_what_learned_online_is_drawn_over_environment_steps(tmp_path):
    """Its record has a task and no dataset; beside a run on data there is but one name for both: gradient steps."""
    facts = {"dataset": None, "environment": {"task": "Hopper-v4"}}
    online, offline = write_run(tmp_path / "online", **facts), write_run(tmp_path / "offline")
    figure, _ = drawn(online)
    assert figure.axes[-1].get_xlabel() == "environment steps"
    assert figure.legends[0].get_title().get_text() == "Hopper-v4"
    assert drawn(online, offline)[0].axes[-1].get_xlabel() == "gradient steps"


def test_an_axis_is_logarithmic_only_for_what_spans_much(tmp_path):
    values = {"divergence_mean": (100.0, 1.0), "multiplier_mean": (10.0, 1.0), "q_mean": (1.0, 1000.0)}
    rows = [("main", step, name, pair[step - 1]) for name, pair in values.items() for step in (1, 2)]
    figure, _ = drawn(write_run(tmp_path / "run", rows))
    scales = {axes.get_title(): axes.get_yscale() for axes in figure.axes}
    assert scales == {"divergence": "log", "multiplier": "linear", "Q": "linear"}
    for least in (0.0, -0.5):  # has no logarithm
        rows = [("main", 1, "divergence_mean", 100.0), ("main", 2, "divergence_mean", least)]
        figure, _ = drawn(write_run(tmp_path / f"least {least}", rows))
        assert figure.axes[0].get_yscale() == "linear"


def test_no_two_of_many_agents_look_the_same():
    """All nine of the package's in one figure."""
    assert len({look_of(index) for index in range(14)}) == 14


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_draws_into_the_run_or_where_it_is_told(tmp_path, monkeypatch):
    run, other = write_run(tmp_path / "run"), write_run(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    assert tiny.run_here("plot", str(run)).stdout == f"figure: {run / 'curves.png'}\n"
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert tiny.run_here("plot", "run", "other").stdout == "figure: curves.png\n"
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert tiny.run_here("plot", str(other), "--output=two.svg").status == 0
    assert "<svg" in (tmp_path / "two.svg").read_text() and not (other / "curves.png").exists()


def test_equal_runs_give_equal_figures_byte_for_byte(tmp_path):
    run = write_run(tmp_path / "run")
    for name in ("a.png", "b.png", "a.svg", "b.svg"):
        write_figure(tmp_path / name, draw_runs([read_curves(run)]))
    for kind in ("png", "svg"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no run is named"),
        (["absent"], "absent: not a run directory"),
        (["empty"], "empty: nothing has been measured yet"),
        (["unread"], "unread: metrics.csv cannot be read"),
        (["run", "--output=a.pdf"], "a.pdf: figures are written as .png or .svg"),
        (["run", "--output=absent/a.png"], "absent/a.png: cannot be written"),
    ],
)
def test_what_the_command_refuses(tmp_path, monkeypatch, arguments, message):
    write_run(tmp_path / "run")
    write_run(tmp_path / "empty", [])
    (write_run(tmp_path / "unread") / "metrics.csv").unlink()
    monkeypatch.chdir(tmp_path)
    outcome = tiny.run_here("plot", *arguments)
    (line,) = outcome.stderr.splitlines()
    assert outcome.status == 1 and line.startswith(f"error: {message}") and outcome.stdout == ""


def test_a_run_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a run directory"):
        read_curves(tmp_path)
