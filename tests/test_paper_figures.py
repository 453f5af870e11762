"""The paper's figures: toy examples against closed forms, curves by hand, probes of a run against what it left."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import gin
import numpy as np
import pytest
import tensorflow as tf
import tiny
from matplotlib.colors import to_hex
from scipy import integrate, stats

from brac_plus_tf.comparison.plan import Study, plan
from brac_plus_tf.comparison.records import Cell
from brac_plus_tf.comparison.results import Result
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.paper import probes, toys
from brac_plus_tf.paper.ablations import FIGURES, ablation, kept_results
from brac_plus_tf.paper.picture import Line, Panel, Picture, draw, read_picture, write_picture
from brac_plus_tf.policies.saved_policy import LoadedPolicy
from brac_plus_tf.runs import configuration

# Appendix A ---------------------------------------------------------------------------------------------------------


def test_toy_rows_are_where_the_paper_has_them():
    rows = toys.toy_rows(0)
    assert all(len(values) == 100 for values in rows)
    assert np.abs(rows.x).max() < 0.8 and 0.8 < np.abs(rows.beyond).min() and np.abs(rows.beyond).max() < 2.0
    assert (rows.beyond < 0).any() and (rows.beyond > 0).any()
    residual = rows.y - 5.0 * np.sin(np.pi * rows.x)
    assert abs(residual.mean()) < 0.15 and 0.4 < residual.std() < 0.6
    assert not np.array_equal(toys.toy_rows(1).x, rows.x)


def test_the_penalty_flattens_what_lies_beyond_the_data_and_leaves_the_data_alone():
    rows, inside, outside = toys.toy_rows(0), np.linspace(-0.75, 0.75, 31), np.linspace(1.2, 1.9, 15)
    slope = {}
    for penalty in (0.0, 0.1):
        network = toys.fit_toy(rows, penalty, 0, steps=600)
        error = toys.toy_values(network, inside) - 5.0 * np.sin(np.pi * inside)
        assert np.sqrt(np.mean(error**2)) < 0.6  # the noise has 0.5
        both = [np.diff(toys.toy_values(network, side * outside)) / np.diff(outside) for side in (-1.0, 1.0)]
        slope[penalty] = np.abs(both).mean()
    assert slope[0.1] < 0.2 and slope[0.0] > 3.0 * slope[0.1]


def test_what_is_minimised_is_the_mean_of_both_squares(monkeypatch):
    rows, losses = toys.toy_rows(0), []
    monkeypatch.setattr(toys, "gradient_step", lambda loss, variables, optimizer: losses.append(float(loss()[0])))
    tf.config.run_functions_eagerly(True)
    try:
        network = toys.fit_toy(rows, 1000.0, 0, steps=1)  # as it was initialised: nearly flat
    finally:
        tf.config.run_functions_eagerly(False)
    slope = (toys.toy_values(network, rows.beyond + 0.01) - toys.toy_values(network, rows.beyond - 0.01)) / 0.02
    error = toys.toy_values(network, rows.x) - rows.y
    assert losses == [pytest.approx(np.mean(error**2) + 1000.0 * np.mean(slope**2), rel=1e-4)]
    assert np.mean(error**2) < 0.99 * losses[0]


def test_figure_4_names_its_fits(monkeypatch):
    monkeypatch.setattr(toys, "fit_toy", lambda rows, penalty, seed: penalty)
    monkeypatch.setattr(toys, "toy_values", lambda penalty, x: np.full_like(x, penalty))
    drawn = {
        line.label: set(line.y) for line in toys.extrapolation().panels[0].lines if " gradient penalty" in line.label
    }
    assert drawn == {"without gradient penalty": {0.0}, "with gradient penalty": {0.1}}


# Appendix B ---------------------------------------------------------------------------------------------------------


def expected_kernel(mean: float, variance: float, width: float) -> float:
    """E exp(-|Z| / (2 width)) of Z ~ N(mean, variance), in closed form."""
    t, s = 1.0 / (2.0 * width), np.sqrt(variance)
    tail = [np.exp(sign * mean * t) * stats.norm.cdf(-sign * mean / s - s * t) for sign in (-1.0, 1.0)]
    return float(np.exp(0.5 * variance * t * t) * sum(tail))


def test_divergences_of_two_gaussians_have_closed_forms():
    centers = np.array([-2.0, 0.0, 0.7])
    found = toys.divergences_from(toys.ONE_MODE, centers)
    np.testing.assert_allclose(found["KL(pi || pi_b)"], np.log(5.0) + (0.04 + centers**2 - 1.0) / 2.0, rtol=1e-6)
    np.testing.assert_allclose(found["KL(pi_b || pi)"], -np.log(5.0) + (1.0 + centers**2) / 0.08 - 0.5, rtol=1e-6)
    squared = [
        expected_kernel(0.0, 0.08, 10.0) + expected_kernel(0.0, 2.0, 10.0) - 2.0 * expected_kernel(x, 1.04, 10.0)
        for x in centers
    ]
    np.testing.assert_allclose(found["MMD, Laplacian"], np.sqrt(squared), rtol=1e-3)


def test_divergences_from_the_mixture_are_integrals():
    def behavior(u):
        return 0.3 * stats.norm.pdf(u, -1.5, 0.3) + 0.7 * stats.norm.pdf(u, 1.0, 0.5)

    for x in (-1.5, 0.2):
        policy = stats.norm(x, 0.2)
        forward = integrate.quad(lambda u: policy.pdf(u) * (policy.logpdf(u) - np.log(behavior(u))), x - 2, x + 2)[0]  # noqa: B023
        backward = integrate.quad(lambda u: behavior(u) * (np.log(behavior(u)) - policy.logpdf(u)), -4, 5, limit=200)[0]  # noqa: B023
        found = toys.divergences_from(toys.TWO_MODES, np.array([x]))
        assert found["KL(pi || pi_b)"][0] == pytest.approx(forward, rel=1e-6)
        assert found["KL(pi_b || pi)"][0] == pytest.approx(backward, rel=1e-6)


def test_only_the_divergence_from_the_policy_has_a_minimum_at_each_mode():
    one, two = toys.divergence_shapes().panels
    minima = {}
    for line in two.lines:
        y = np.array(line.y)
        inner = np.flatnonzero((y[1:-1] < y[:-2]) & (y[1:-1] <= y[2:])) + 1
        minima[line.label] = [round(line.x[place], 1) for place in inner]
    assert minima["KL(pi || pi_b)"] == [-1.5, 1.0]
    assert len(minima["KL(pi_b || pi)"]) == len(minima["MMD, Laplacian"]) == 1
    assert one.lines[0].black and max(one.lines[0].y) == 1.0 == max(one.lines[1].y)


# Pictures -----------------------------------------------------------------------------------------------------------

PICTURE = Picture(
    "9",
    "of $nothing",
    (
        Panel("a", "x", "y", (Line("p", (0.0, 1.0), (1.0, 2.0), (0.5, 1.5), (1.5, 2.5)), Line("q", (0.0,), (3.0,)))),
        Panel("b", "x", "y", (Line("q", (0.0, 1.0), (1.0, 2.0), kind="steps"),), (("edge", 0.5),), upright=False),
    ),
)


def test_a_picture_is_its_numbers(tmp_path):
    paths = write_picture(tmp_path / "new", PICTURE)
    assert [path.name for path in paths] == ["figure_9.json", "figure_9.svg", "figure_9.png"]
    assert read_picture(paths[0]) == PICTURE
    before = paths[1].read_bytes()
    assert write_picture(tmp_path / "again", read_picture(paths[0]))[1].read_bytes() == before


def test_a_label_has_one_colour_in_all_panels_and_an_interval_its_band():
    figure = draw(PICTURE)
    first, second = figure.axes
    assert to_hex(first.lines[1].get_color()) == to_hex(second.patches[0].get_edgecolor())
    assert first.lines[0].get_color() != first.lines[1].get_color()
    (band,) = first.collections
    assert band.get_paths()[0].vertices[:, 1].min() == 0.5 and band.get_paths()[0].vertices[:, 1].max() == 2.5
    assert list(second.lines[0].get_ydata()) == [0.5, 0.5]


@pytest.mark.parametrize("content", ["", "[]", '{"figure": "1"}', '{"figure": "1", "caption": "", "panels": [{}]}'])
def test_what_is_no_picture_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match="not the numbers of a figure"):
        read_picture(tmp_path / "x.json")


# Ablations ----------------------------------------------------------------------------------------------------------


def result(agent: str, seed: int, curve, values=()) -> Result:
    return Result(Cell(agent, "hopper", seed, Path("r")), 1.0, 1.0, "score", 10, {}, tuple(curve), tuple(values))


def test_curves_are_means_over_seeds_at_the_steps_that_all_have():
    results = [
        result("b", 0, [(10, 1.0), (20, 5.0), (30, 0.0)], [(10, 7.0)]),
        result("b", 2, [(10, 3.0), (20, 5.0)], [(10, 9.0)]),
        result("b x", 0, [(10, 4.0)], [(10, 1.0)]),
    ]
    picture = ablation("1", "Said.", results, {"b x": "other", "b": "own", "b y": "absent"}, value=True)
    score, q = picture.panels
    assert [line.label for line in score.lines] == ["other (1 seed)", "own (2 seeds)"]
    assert score.lines[1].x == (10.0, 20.0) and score.lines[1].y == (2.0, 5.0)
    assert score.lines[1].low == (1.0, 5.0) and score.lines[1].high == (3.0, 5.0)  # all means of two draws of two
    assert score.lines[0].low == () and q.lines[1].y == (8.0,) and q.y_label == "mean of Q"
    assert picture.caption.startswith("Said. Mean over seeds 0, 2 as far as they are kept")
    assert len(ablation("2a", "Said.", results, {"b": "own"}).panels) == 1


def test_figure_2bs_curves_are_called_what_their_variants_have():
    study = configuration.build(Study, [str(tiny.PROJECT / "studies" / "ablations.gin")], [])
    gin.clear_config()  # else the next test's studies would have what this one leaves open
    for variant, words in FIGURES["2b"][0].items():
        one_for_all = any("GlobalMultiplier" in text for text in study.variants[variant])
        assert words == ("global" if one_for_all else "state-wise")


def test_kept_runs_of_the_variants_that_are_asked_for(tmp_path):
    study = Study(("bc",), ("d.hdf5",), (0, 1), variants={"": (), "mine": ("Actor.hidden_sizes = (8,)",), "other": ()})
    cells = plan(study, [["d.hdf5"]], Path("runs"), records=tmp_path)
    content = {"record": 1, "run": {"dataset": {}, "environment": {}}, "settings": [], "estimate": None}
    content |= {"evaluation": {"episodes": 3, "score_mean": 2.0, "last_evaluations": {}}, "curve": [[10, 2.0]]}
    with pytest.raises(UserError, match="holds none of the study's runs"):
        kept_results(study, [["d.hdf5"]], tmp_path, ["mine"])
    for cell in cells[:-1]:
        configuration.parse(cell.gin_files, cell.bindings)
        run = {"configuration": configuration.fingerprint()}
        cell.record.write_text(json.dumps(content | {"steps_per_second": {}, "run": content["run"] | run}))
    found = kept_results(study, [["d.hdf5"]], tmp_path, ["mine", "other"])
    assert [(r.cell.agent, r.cell.seed) for r in found] == [("bc mine", 0), ("bc other", 0), ("bc mine", 1)]
    assert [(r.cell.agent, r.cell.seed) for r in kept_results(study, [["d.hdf5"]], tmp_path, [""])] == [
        ("bc", 0),
        ("bc", 1),
    ]
    with pytest.raises(UserError, match="the study has no variant 'yours', only '', 'mine', 'other'"):
        kept_results(study, [["d.hdf5"]], tmp_path, ["yours"])
    with pytest.raises(UserError, match=r"bc__0\.json: the record of a run with other settings"):
        changed = dataclasses.replace(study, bindings=("behavior/Fit.steps = 1",))
        kept_results(changed, [["d.hdf5"]], tmp_path, [""])


def test_variants_have_files_bindings_and_directories_of_their_own():
    variants = {"": (), "no gp": ("ablations/kl_state.gin", "Critic.tau = 0.5")}
    plain, varied = plan(Study(("brac_plus",), (), (0,), variants=variants), [["d.hdf5"]], Path("r"))
    assert varied.agent == "brac_plus no gp" and varied.bindings[-1] == "Critic.tau = 0.5"
    assert [Path(file).name for file in varied.gin_files] == ["base.gin", "kl_state.gin"]
    assert str(varied.directory) == "r/d/brac_plus_no_gp/0" and str(plain.directory) == "r/d/brac_plus/0"
    assert len(plain.gin_files) == 1 and not any("tau" in binding for binding in plain.bindings)


# Probes -------------------------------------------------------------------------------------------------------------


def test_the_norm_of_a_gradient():
    observation, action = tf.zeros([5, 2]), tf.constant(np.random.default_rng(0).normal(size=(5, 2)), tf.float32)

    def critic(observation, action):
        return 3.0 * action[:, 0] - 4.0 * action[:, 1] + tf.reduce_sum(observation, 1)

    np.testing.assert_allclose(probes.gradient_norms(critic, observation, action), np.full(5, 5.0), rtol=1e-6)
    squares = probes.gradient_norms(lambda s, a: tf.reduce_sum(a**2, 1), observation, action)
    np.testing.assert_allclose(squares, 2.0 * np.linalg.norm(action, axis=1), rtol=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished tiny run of BRAC+, with its data and an environment."""
    folder = tmp_path_factory.mktemp("paper")
    dataset = tiny.write_hopper_dataset(folder / "hopper.hdf5")
    sizes = ["Actor.hidden_sizes", "Critic.hidden_sizes", "VAEEnsemble.hidden_sizes", "StateMultiplier.hidden_sizes"]
    bindings = [
        *(f"{name} = (8,)" for name in sizes),
        "Improvement.policy_learning_rate = 1e-2",
        "Loop.compiled = False",
    ]
    outcome = tiny.run_here(
        "train",
        *("--gin_file=brac_plus/short.gin", f"--dataset={dataset}", f"--root_dir={folder / 'runs'}", "--smoke"),
        *(f"--gin_bindings={binding}" for binding in bindings),
    )
    assert outcome.status == 0, outcome.stderr
    return Path(outcome.stdout.strip().rpartition("results: ")[2])


def test_a_probed_run_has_its_last_networks(run):
    probed = probes.probe(run)
    scaling, observation = probed.parts.dataset.scaling, probed.parts.dataset.transitions.observation[:7]
    exported = LoadedPolicy(run / "saved_model").way("mean")
    raw = scaling.to_environment_observation(observation)
    expected = exported.act(raw, exported.initial_state(7), np.arange(7))[0]
    own = probed.agent.policies()["mean"].draw(tf.constant(observation), (), tf.constant([0, 0]))[0].numpy()
    np.testing.assert_allclose(scaling.to_environment_action(own), expected, atol=1e-6)


def test_histograms_are_shares_of_all_states(run):
    picture = probes.divergence_histogram([probes.probe(run, "mine")])
    (panel,) = picture.panels
    assert sum(panel.lines[0].y) == pytest.approx(1.0, abs=1e-4) and panel.title == "hopper"
    (label, threshold), *_ = panel.marks
    rows = (run / "metrics.csv").read_text().splitlines()
    last = [row.split(",")[-1] for row in rows if row.startswith("main") and ",divergence_threshold," in row][-1]
    assert threshold == pytest.approx(float(last), rel=1e-5) and label == "threshold" and panel.lines[0].label == "mine"
    gradients = probes.gradient_histogram([probes.probe(run)]).panels[0].lines[0]
    assert sum(gradients.y) == pytest.approx(1.0, abs=1e-4) and min(gradients.x) >= 0.0


def test_the_divergence_along_the_first_episode_of_the_evaluation(run):
    (panel,) = probes.episode_divergence([probes.probe(run)]).panels
    length = json.loads((run / "evaluation.json").read_text())["lengths"][0]
    assert len(panel.lines[0].y) == length and not panel.upright
    probed = probes.probe(run)
    seen = probes._episodes(probed, 1)[0].observation
    scaling = probed.parts.dataset.scaling
    network_units = (seen - scaling.observation_shift) / scaling.observation_scale
    expected = probed.divergence(tf.constant(network_units, tf.float32))
    np.testing.assert_allclose(panel.lines[0].y, expected, rtol=1e-3)
    # the first state of a Hopper is near 1.25 m high, upright
    assert abs(seen[0, 0] - 1.25) < 0.01


def test_what_follows_is_discounted_by_hand():
    np.testing.assert_array_equal(probes.returns_to_go(np.array([1.0, 2.0, 4.0]), 0.5), [3.0, 4.0, 4.0])


def test_values_are_qs_beside_what_the_evaluations_first_episode_earns(run):
    """In the networks' units, by the run's own record of that episode; one that falls has no more to come."""
    probed, record = probes.probe(run), json.loads((run / "evaluation.json").read_text())
    (panel,) = probes.values_along_episodes([probed]).panels
    value, earned = (np.array(line.y) for line in panel.lines)
    assert len(value) == len(earned) == record["lengths"][0] < probed.parts.task.horizon
    # as many side by side as were evaluated: a matrix product of another number of rows rounds otherwise
    scaling, (steps, *_) = probed.parts.dataset.scaling, probes._episodes(probed, record["episodes"])
    assert steps.reward.sum() == pytest.approx(record["returns"][0], rel=1e-9)
    rescaled = (steps.reward - scaling.reward_shift) / scaling.reward_scale
    assert earned[0] == pytest.approx(np.polyval(rescaled[::-1], 0.995), rel=1e-3)  # short.gin's discount
    assert earned[-1] == pytest.approx(rescaled[-1], rel=1e-3)
    observation = tf.constant((steps.observation - scaling.observation_shift) / scaling.observation_scale, tf.float32)
    action = tf.constant((steps.action - scaling.action_center) / scaling.action_half_range, tf.float32)
    np.testing.assert_allclose(
        value, probed.agent.critic(observation, action).numpy().min(axis=0), rtol=1e-2, atol=1e-3
    )


def test_returns_beyond_the_tasks_horizon_count(run):
    """With a horizon of 5 the same steps are shown, up to the fifth, and what comes after it is in their returns."""
    probed = probes.probe(run)
    short = dataclasses.replace(probed.parts.task, horizon=5)
    picture = probes.values_along_episodes([probed._replace(parts=probed.parts._replace(task=short))])
    whole = probes.values_along_episodes([probed])
    for line, other in zip(picture.panels[0].lines, whole.panels[0].lines, strict=True):
        assert len(line.y) == 5 and line.y == pytest.approx(other.y[:5], rel=1e-5, abs=1e-6)
    assert ", 0 of 10 episodes fall" in picture.caption and ", 10 of 10 episodes fall" in whole.caption


def test_a_run_of_another_agent_or_other_data_is_refused(run, tmp_path):
    dataset = tiny.write_hopper_dataset(tmp_path / "hopper.hdf5")
    outcome = tiny.run_here(
        "train", "--gin_file=bc/base.gin", f"--dataset={dataset}", f"--root_dir={tmp_path / 'runs'}", "--smoke"
    )
    other = outcome.stdout.strip().rpartition("results: ")[2]
    for flags, message in (
        ([f"--runs={other}", "--figure=3"], "this figure is of runs of BRAC+"),
        (["--figure=7"], "--runs: this figure needs finished runs of BRAC+"),
        ([f"--runs={run}", "--figure=3", "--labels=a,b"], "--labels: 2 for 1 runs; give one for each"),
        (["--figure=9"], "--figure: 9 is none of 1, 2a, 2b, 2c, 3, 4, 5, 6, 7, 8, values"),
        ([], "--figure: none is none of"),
        (["--figure=2a", f"--records={tmp_path}"], "holds none of the study's runs"),
    ):
        refused = tiny.run_here("figures", *flags, f"--output={tmp_path / 'figures'}")
        assert refused.status == 1 and message in refused.stderr and len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "figures").exists()
    first, second = probes.probe(run), probes.probe(run)
    origin = dataclasses.replace(second.parts.dataset.origin, sha256="other")
    parts = second.parts._replace(dataset=dataclasses.replace(second.parts.dataset, origin=origin))
    with pytest.raises(UserError, match="learned from other data"):
        probes._data([first, second._replace(parts=parts)])


def test_the_command_draws_and_draws_again(run, tmp_path):
    out = tmp_path / "figures"
    outcome = tiny.run_here("figures", "--figure=3,5", f"--runs={run}", f"--output={out}")
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout.splitlines()[-1] == f"figure: {out / 'figure_5.png'}"
    assert re.search(
        r"D at 20000 states of the data, brac_plus_short-smoke, seed 0: standard deviation", outcome.stdout
    )
    again = tiny.run_here("figures", f"--numbers={out / 'figure_3.json'}", f"--output={tmp_path / 'again'}")
    assert again.status == 0, again.stderr
    assert (tmp_path / "again" / "figure_3.svg").read_bytes() == (out / "figure_3.svg").read_bytes()


def test_the_noise_of_the_divergence_is_parted_by_its_sources():
    """Against numbers of known parts: actions move a state's value by 2, latents by 0.5, on the average."""
    sys.path.insert(0, str(tiny.PROJECT / "scripts"))
    from divergence_noise import components

    generator = np.random.default_rng(0)
    state, action = 10.0 * generator.normal(size=(1, 1, 400)), 2.0 * generator.normal(size=(40, 1, 400))
    between, within = components(state + action + 0.5 * generator.normal(size=(40, 8, 400)))
    assert between == pytest.approx(4.0, rel=0.03) and within == pytest.approx(0.25, rel=0.03)
    # two actions, two latents, one state, by hand: within 2 each; means 1 and 5 have 8, less 2 / 2
    assert components(np.array([[[0.0], [2.0]], [[4.0], [6.0]]])) == (7.0, 2.0)
