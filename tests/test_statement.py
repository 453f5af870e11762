"""What data state of themselves is used; where a setting contradicts it, that is refused; what is guessed is said."""

import json

import gin
import h5py
import numpy as np
import pytest
import tensorflow as tf
import tiny
from dataset_files import columns, small_task, write_file
from minari_files import BOX, write_minari

import brac_plus_tf as bp
from brac_plus_tf.agents.td3_bc import TD3BC
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.data.loading import dataset_from_arrays, load_dataset
from brac_plus_tf.data.sources import dataset_task, stated_by
from brac_plus_tf.environments.tasks import find_task
from brac_plus_tf.runs.session import problem_of

SOURCE = "minari:robot/walk-v0"
ACTIONS = np.array([[0.0, 2.0, -9.0], [0.5, 6.0, 9.0], [0.25, 4.0, 0.0], [0.1, 3.0, 4.5], [0.2, 5.0, -4.5]])
LOW, HIGH = [0.0, 2.0, -9.0], [0.5, 6.0, 9.0]
# by hand: (a - center) / half range with centers 0.25, 4, 0 and half ranges 0.25, 2, 9
SCALED = [[-1, -1, -1], [1, 1, 1], [0, 0, 0], [-0.6, -0.5, 0.5], [-0.2, 0.5, -0.5]]


@pytest.fixture(autouse=True)
def forgotten():
    yield
    gin.clear_config()


def stating(path, **attributes) -> str:
    """A file of ACTIONS with these attributes."""
    name = write_file(path, actions=ACTIONS)
    with h5py.File(name, "a") as file:
        for key, value in attributes.items():
            file.attrs[key] = value
    return name


def minari(folder, monkeypatch, low=LOW, high=HIGH, **changes) -> str:
    """A dataset of one episode of ACTIONS in a Box of these bounds."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    one = columns()
    episode = {
        "observations": np.concatenate([one["observations"], one["observations"][-1:] + 1]),
        "actions": ACTIONS,
        "rewards": one["rewards"],
        "terminations": one["terminals"],
        "truncations": one["timeouts"],
    }
    box = BOX | {"shape": [3], "low": low, "high": high}
    write_minari(folder / "robot" / "walk-v0", [episode], action_space=json.dumps(box), **changes)
    return SOURCE


def test_a_files_own_bounds_scale_its_actions(tmp_path, caplog):
    dataset = load_dataset(stating(tmp_path / "a.hdf5", action_low=LOW, action_high=HIGH))
    np.testing.assert_allclose(dataset.transitions.action, SCALED, rtol=1e-6, atol=1e-7)
    assert "taken to be" not in caplog.text


def test_a_minari_boxs_bounds_scale_its_actions(tmp_path, monkeypatch, caplog):
    dataset = load_dataset(minari(tmp_path, monkeypatch))
    np.testing.assert_allclose(dataset.transitions.action, SCALED, rtol=1e-6, atol=1e-7)
    assert "taken to be" not in caplog.text


def test_one_number_is_every_entrys(tmp_path):
    dataset = load_dataset(stating(tmp_path / "a.hdf5", action_low=-9, action_high=np.float64(9.0)))
    np.testing.assert_allclose(dataset.transitions.action, ACTIONS / 9.0, rtol=1e-6)


def test_bounds_that_nothing_states_are_a_guess_and_said_to_be(tmp_path, monkeypatch, caplog):
    path = write_file(tmp_path / "a.hdf5")
    assert load_dataset(path).scaling.action_half_range.tolist() == [1.0] * 3
    assert f"{path}: nothing states the bounds of actions, which are taken to be [-1, 1]" in caplog.text
    caplog.clear()
    dataset_from_arrays(columns())
    assert "arrays: nothing states the bounds of actions" in caplog.text
    caplog.clear()
    load_dataset(path, action_high=1.0)
    load_dataset(path, small_task())
    assert caplog.text == ""
    # an unbounded box states none, either: what lies outside [-1, 1] is then the user's to explain
    source = minari(tmp_path, monkeypatch, low=[-np.inf] * 3, high=[np.inf] * 3)
    with pytest.raises(UserError, match=r"row 0: entry 1 is 2, outside \[-1, 1\]"):
        load_dataset(source)
    assert "nothing states the bounds" in caplog.text


def test_settings_that_contradict_the_data_are_refused(tmp_path, monkeypatch):
    path = stating(tmp_path / "a.hdf5", action_low=LOW, action_high=HIGH)
    same = load_dataset(path, action_low=LOW, action_high=HIGH)
    np.testing.assert_allclose(same.transitions.action, SCALED, rtol=1e-6, atol=1e-7)
    with pytest.raises(
        UserError, match=r"a\.hdf5: action entry 2 is within \[-9, 9\] where that of load_dataset.*10\]"
    ):
        load_dataset(path, action_low=LOW, action_high=[0.5, 6.0, 10.0])
    # of the same width elsewhere, and about the same center but wider
    for low, high, shown in ((0.1, 0.6, r"\[0.1, 0.6\]"), (-0.1, 0.6, r"\[-0.1, 0.6\]")):
        with pytest.raises(UserError, match=rf"action entry 0 is within \[0, 0.5\] .* within {shown}"):
            load_dataset(path, action_low=[low, *LOW[1:]], action_high=[high, *HIGH[1:]])
    with pytest.raises(
        UserError, match=r"entry 0 is within \[0, 0.5\] where that of task Hopper-v4 is within \[-1, 1\]"
    ):
        load_dataset(minari(tmp_path, monkeypatch), small_task())
    with pytest.raises(UserError, match=r"load_dataset.action_low and action_high: action entry 0 is within \[-1, 3\]"):
        load_dataset(write_file(tmp_path / "b.hdf5"), small_task(), action_high=3.0)


def test_files_that_contradict_each_other_are_refused(tmp_path):
    one = stating(tmp_path / "a.hdf5", action_low=LOW, action_high=HIGH)
    other = stating(tmp_path / "b.hdf5", action_low=LOW, action_high=[0.6, 6.0, 9.0])
    with pytest.raises(UserError, match=r"b\.hdf5: action entry 0 is within \[0, 0.6\] where that of .*a\.hdf5"):
        load_dataset([one, other])
    silent = stating(tmp_path / "c.hdf5")
    np.testing.assert_allclose(load_dataset([one, silent]).transitions.action, SCALED * 2, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(load_dataset([silent, one]).transitions.action, SCALED * 2, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"action_low": LOW}, "states one of action_low and action_high without the other"),
        ({"action_low": [0.0, 1.0], "action_high": 9.0}, "one for each of 3 entries"),
        ({"action_low": 1.0, "action_high": 1.0}, "the low ones below the high ones"),
        ({"action_low": "small", "action_high": "large"}, "states action_low as 'small'; store one number"),
        ({"action_low": np.nan, "action_high": 1.0}, "states action_low as"),
        ({"horizon": "long"}, "states horizon as 'long'"),
        ({"horizon": 0}, "states a horizon of 0"),
        ({"horizon": 2.5}, "states a horizon of 2.5"),
        ({"discount": 1.5}, "states a discount of 1.5"),
        ({"discount": 0.0}, "states a discount of 0"),
        ({"discount": [0.9, 0.9]}, "states discount as"),
    ],
)
def test_statements_that_cannot_be_meant(tmp_path, attributes, message):
    path = stating(tmp_path / "a.hdf5", **attributes)
    with pytest.raises(UserError, match=rf"a\.hdf5: .*{message}"):
        load_dataset(path)


@pytest.mark.parametrize("space", [{"low": [[0], [1, 2]]}, {"low": "x"}, {"low": {"a": 1}}, {"low": [0.0] * 3}])
def test_a_minari_box_whose_bounds_cannot_be_meant(tmp_path, monkeypatch, space):
    source = minari(tmp_path, monkeypatch, **({"low": None, "high": None} | space))
    with pytest.raises(UserError, match=r"metadata\.json: states (one of )?action_low"):
        load_dataset(source)


@pytest.mark.parametrize("key", ["horizon", "max_episode_steps"])
def test_a_files_horizon_is_its_tasks(tmp_path, key):
    path = tiny.write_hopper_dataset(tmp_path / "a.hdf5", steps=20)
    assert dataset_task(path).horizon == 1000
    with h5py.File(path, "a") as file:
        file.attrs[key] = 300
    assert dataset_task(path).horizon == dataset_task(path, "Hopper-v4").horizon == 300
    assert dataset_task(path, "HalfCheetah-v4").horizon == 1000  # it speaks of its own
    gin.parse_config("Task.horizon = 300")
    assert dataset_task(path).horizon == 300
    gin.parse_config("Task.horizon = 200")
    with pytest.raises(UserError, match=r"a\.hdf5: states a horizon of 300 steps where Task.horizon is 200"):
        dataset_task(path)


def test_of_two_horizons_the_packages_own_name_counts(tmp_path):
    path = stating(tmp_path / "a.hdf5", action_low=-9, action_high=9, horizon=300, max_episode_steps=500)
    assert stated_by(path).horizon == 300


def test_a_minari_time_limit_is_the_tasks(tmp_path, monkeypatch):
    specification = json.dumps({"id": "Hopper-v4", "max_episode_steps": 77})
    assert dataset_task(minari(tmp_path, monkeypatch, env_spec=specification)).horizon == 77


def test_of_a_tasks_horizon_and_a_stated_one_the_tasks_counts(tmp_path):
    path = stating(tmp_path / "a.hdf5", action_low=-9, action_high=9, horizon=3)
    with h5py.File(path, "a") as file:
        del file["timeouts"]
    task = small_task(horizon=4, action_low=-9.0, action_high=9.0)
    assert load_dataset(path, task).episodes.lengths.tolist() == [4, 1]


def test_without_a_task_the_stated_horizon_cuts_and_checks(tmp_path):
    path = stating(tmp_path / "a.hdf5", action_low=-9, action_high=9, horizon=3)
    with pytest.raises(UserError, match="has 5 steps, more than the task's 3"):
        load_dataset(path)
    with h5py.File(path, "a") as file:
        del file["timeouts"]
    assert load_dataset(path).episodes.lengths.tolist() == [3, 2]


def test_a_discount_that_the_agent_does_not_have_is_refused(tmp_path):
    path = stating(tmp_path / "a.hdf5", action_low=-9, action_high=9, discount=0.9)
    problem = problem_of(load_dataset(path), None)
    assert problem.discount == 0.9
    with pytest.raises(
        UserError, match=r"Critic.gamma is 0.99 where the data state a discount of 0.9; bind Critic.gamma"
    ):
        TD3BC(problem, 0)
    TD3BC(problem, 0, critic=tiny.critic((8,), gamma=0.9))
    other = stating(tmp_path / "b.hdf5", action_low=-9, action_high=9, discount=0.95)
    with pytest.raises(UserError, match=r"different discounts: .*a\.hdf5 0\.9, .*b\.hdf5 0\.95"):
        load_dataset([path, other])
    part, _ = load_dataset(path).split_rows(0.5, 0)
    assert problem_of(part, None).discount == 0.9


def test_an_agent_is_told_of_its_data_by_hand():
    two_ends = columns(7) | {"terminals": np.arange(7) % 3 == 2, "rewards": np.float32([3, -1, 2, 0, 5, 1, 4])}
    problem = problem_of(dataset_from_arrays(two_ends, rewards=None), None)
    # row 6 begins an episode that goes on after the data: what followed it is not known
    assert (problem.terminals, problem.transitions, problem.reward_range) == (2, 6, (-1.0, 5.0))
    assert problem_of(dataset_from_arrays(two_ends), None).reward_range == (0.0, 1.0)


def test_rewards_that_are_all_the_same_teach_cloning_alone():
    dataset = dataset_from_arrays(columns() | {"rewards": np.full(5, 2.0)})
    problem = problem_of(dataset, None)
    with pytest.raises(UserError, match="key 'rewards' is the same in every transition"):
        TD3BC(problem, 0)
    bp.BC(problem, 0)
    TD3BC(problem_of(dataset_from_arrays(columns() | {"rewards": np.full(5, 2.0)}, rewards=None), None), 0)


def test_what_is_collected_in_an_environment_of_ones_own_states_its_bounds():
    from brac_plus_tf.data.hdf5_writer import task_facts

    task = find_task("own_environments:Track-v0")
    facts = task_facts(task, [1.0])
    assert facts["action_low"] == tuple(task.action_low.tolist()) and facts["horizon"] == task.horizon
    assert "action_low" not in task_facts(find_task("Hopper-v4"), [1.0])  # everybody knows that


def test_a_policy_trained_on_them_stays_within_them(tmp_path, monkeypatch):
    source = minari(tmp_path, monkeypatch)
    config = tmp_path / "clone.gin"
    config.write_text("include 'bc/base.gin'\n")
    run = tiny.run_here("train", f"--gin_file={config}", f"--dataset={source}", "--smoke", f"--root_dir={tmp_path}")
    assert run.status == 0, run.stderr
    (exported,) = tmp_path.rglob("saved_model")
    signatures = tf.saved_model.load(str(exported)).signatures
    observation = tf.constant(np.random.default_rng(0).normal(scale=1e3, size=(400, 2)), tf.float32)
    drawn = signatures["sample"](observation=observation, seed=tf.range(400))["action"].numpy()
    assert (drawn >= LOW).all() and (drawn <= HIGH).all()
    assert np.abs(drawn[:, 2]).max() > 4.5  # and use their range


def test_statements_of_other_sources():
    assert stated_by("hopper-medium-v0").environment == "hopper-medium-v0"
