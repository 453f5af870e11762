"""The package from Python: data in arrays, an agent of settings, a policy that acts; no file, no flag."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from tiny import PROJECT, run_here, write_hopper_dataset

import brac_plus_tf as bp
from brac_plus_tf.environments.environment import make_environment
from brac_plus_tf.environments.tasks import find_task
from brac_plus_tf.policies.evaluation import starting_seed

OBSERVATION, ACTION, ROWS = 3, 2, 120
LOOP = bp.Loop(steps_per_call=5, compiled=False)


def arrays():
    """Four episodes of independent numbers, the last row of each terminal."""
    generator = np.random.default_rng(0)
    return {
        "observations": 5.0 + 2.0 * generator.normal(size=(ROWS, OBSERVATION)),
        "actions": generator.uniform(0.1, 0.4, size=(ROWS, ACTION)),
        "rewards": generator.uniform(size=ROWS),
        "terminals": np.arange(ROWS) % 30 == 29,
        "timeouts": np.zeros(ROWS, bool),
    }


def dataset():
    return bp.dataset_from_arrays(arrays(), action_low=0.0, action_high=0.5, normalize_observations=True)


def agent(steps: int = 20):
    fit = bp.Fit(steps=steps, batch_size=8, learning_rate=1e-3, decay=(1.0,))
    return bp.build(bp.BC, dataset(), seed=1, cloning=bp.Cloning(actor=bp.Actor((8,)), fit=fit, epoch_steps=10))


@pytest.fixture(scope="module")
def run():
    return bp.train(agent(), dataset(), seed=2, loop=LOOP)


def test_actions_are_in_the_datas_units_for_one_observation_and_for_many(run):
    many = run.policy.act(arrays()["observations"])
    assert many.shape == (ROWS, ACTION) and many.min() >= 0.0 and many.max() <= 0.5
    np.testing.assert_allclose(run.policy.act(arrays()["observations"][7]), many[7], atol=1e-6)
    np.testing.assert_array_equal(run.policy(arrays()["observations"][7]), run.policy.act(arrays()["observations"][7]))
    # the clone's mean before any normalisation was undone would be that of [-1, 1], 0, or 0.25 here
    draws = [run.policy.act(arrays()["observations"][7], action="sample", seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_a_saved_policy_acts_the_same_and_both_say_what_they_are(run, tmp_path):
    run.policy.save(tmp_path / "policy")
    loaded = bp.LoadedPolicy(tmp_path / "policy")
    np.testing.assert_allclose(loaded(arrays()["observations"]), run.policy(arrays()["observations"]), atol=1e-6)
    assert (
        repr(run.policy) == "DeployedPolicy(3 -> 2, mean, sample)"
        and repr(loaded) == "LoadedPolicy(3 -> 2, mean, sample)"
    )
    assert repr(run).startswith("Run(BC, not evaluated, ")


def test_observations_of_another_size_and_unknown_ways_are_refused(run):
    with pytest.raises(bp.UserError, match=r"observation of shape \(4,\): it must be \[3\]"):
        run.policy.act(np.zeros(4))
    with pytest.raises(bp.UserError, match="'best' is none of this policy's ways to act: mean, sample"):
        run.policy.act(np.zeros(3), action="best")


def test_curves_are_what_was_recorded(run):
    steps, values = run.curve("negative_log_likelihood")
    assert steps == [5, 10, 15, 20]
    assert values == [row.value for row in run.metrics if row.metric == "negative_log_likelihood"]
    assert run.curve("negative_log_likelihood", "behavior") == (steps, values)
    assert run.curve("negative_log_likelihood", "main") == ([], [])  # cloning has no such stage


def test_without_a_directory_nothing_stays(run):
    another = bp.train(agent(5), dataset(), loop=LOOP)
    directory = another.directory
    assert (directory / "metrics.csv").exists()
    del another
    assert not directory.exists() and run.directory.exists()


def test_a_directory_goes_on_where_it_was_stopped_and_refuses_another_configuration(tmp_path):
    whole = bp.train(agent(), dataset(), directory=tmp_path / "whole", loop=LOOP)
    interrupted = agent()

    stages = interrupted.stages

    def stopping():
        (stage,) = stages()
        calls = []

        def prepare(data, step, seed):
            calls.append(step)
            if step == 10:
                raise KeyboardInterrupt
            return bp.Preparation()

        return (bp.Stage(**(vars(stage) | {"prepare": prepare})),)

    interrupted.stages = stopping
    loop = bp.Loop(steps_per_call=5, checkpoint_interval=5, compiled=False)
    with pytest.raises(KeyboardInterrupt):
        bp.train(interrupted, dataset(), directory=tmp_path / "resumed", loop=loop)
    resumed = bp.train(agent(), dataset(), directory=tmp_path / "resumed", loop=loop)
    assert resumed.metrics == whole.metrics
    with pytest.raises(bp.UserError, match="another configuration"):
        bp.train(agent(25), dataset(), directory=tmp_path / "resumed", loop=loop)
    with pytest.raises(bp.UserError, match="another configuration"):
        bp.train(agent(), dataset(), directory=tmp_path / "resumed", loop=dataclasses.replace(loop, steps_per_call=4))


def test_noise_on_observations_changes_what_is_learned_and_belongs_to_the_runs_configuration(tmp_path, run):
    noisy = bp.train(agent(), dataset(), seed=2, directory=tmp_path / "noisy", observation_noise=0.5, loop=LOOP)
    assert repr(noisy).startswith("Run(BC, ")
    observation = arrays()["observations"]
    assert np.abs(noisy.policy.act(observation) - run.policy.act(observation)).max() > 1e-5
    quiet = bp.train(agent(), dataset(), seed=2, observation_noise=0.0, loop=LOOP)
    assert quiet.metrics == run.metrics
    with pytest.raises(bp.UserError, match="another configuration"):
        bp.train(agent(), dataset(), seed=2, directory=tmp_path / "noisy", observation_noise=0.4, loop=LOOP)


def test_evaluation_is_the_commands(tmp_path):
    """The same agent by the command and from Python: the same episodes, the same returns, bit for bit."""
    data = write_hopper_dataset(tmp_path / "hopper.hdf5")
    bindings = [
        *("behavior/Fit.steps = 10", "behavior/Fit.batch_size = 8", "behavior/Actor.hidden_sizes = (8,)"),
        *("Experiment.action = 'mean'", "Experiment.final_episodes = 3", "Experiment.evaluation_episodes = 2"),
        *("Loop.compiled = False", "load_dataset.rewards = None"),
    ]
    flags = [f"--gin_bindings={binding}" for binding in bindings]
    outcome = run_here("train", "--gin_file=bc/base.gin", f"--dataset={data}", f"--root_dir={tmp_path}", *flags)
    assert outcome.status == 0, outcome.stderr
    by_command = json.loads((tmp_path / "hopper" / "bc" / "0" / "evaluation.json").read_text())

    loaded = bp.load_dataset(data, rewards=None)
    fit = bp.Fit(steps=10, batch_size=8, learning_rate=5e-4, decay=(1.0,))
    clone = bp.build(bp.BC, loaded, cloning=bp.Cloning(actor=bp.Actor((8,), (-5.0, 0.0)), fit=fit))
    counts = {"final_episodes": 3, "evaluation_episodes": 2}
    run = bp.train(clone, loaded, environment="Hopper-v4", action="mean", loop=bp.Loop(compiled=False), **counts)
    assert run.evaluation["returns"] == by_command["returns"]
    assert repr(run).startswith("Run(BC, score ")
    again = bp.evaluate(run.policy, "Hopper-v4", episodes=2, seed=5)
    np.testing.assert_array_equal(again.returns, bp.evaluate(run.policy, "Hopper-v4", episodes=2, seed=5).returns)
    environment = make_environment(find_task("Hopper-v4"))  # of its first step alone, where nothing later counts
    observation = environment.reset(seed=starting_seed(5, 0))[0]
    first = environment.step(run.policy.act(np.asarray(observation)))[1]
    (discounted,) = bp.evaluate(run.policy, "Hopper-v4", episodes=1, seed=5, gamma=0.0).returns
    assert discounted == pytest.approx(first, rel=1e-5) and discounted < again.returns[0]
    with pytest.raises(bp.UserError, match="does not fit HalfCheetah-v4"):
        bp.evaluate(run.policy, "HalfCheetah-v4", episodes=1)


def test_every_public_name_is_there_and_has_a_docstring():
    for name in bp.__all__:
        assert name == "__version__" or getattr(bp, name).__doc__, name
    assert set(bp.__all__) <= set(dir(bp))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = bp.nonsense


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, brac_plus_tf; print(sorted({'tensorflow', 'gymnasium', 'gin'} & set(sys.modules)))"
    outcome = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "[]"
