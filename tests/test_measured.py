"""Settings that depend on what is measured of the data, on data made for it: one policy, and two of separate skills."""

import json

import gin
import numpy as np
import pytest
import tiny
from test_advice import ONE, TWO, made

from brac_plus_tf.agents.base import Problem
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.settings import describe
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.runs import configuration, measured
from brac_plus_tf.runs.experiment import Experiment, run_experiment

STEADY = ["brac_plus/base.gin", "brac_plus/steady.gin"]
OWN = ["Experiment.dataset = 'data.hdf5'"]


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


def settings_of(files, bindings=(), data=None) -> dict[str, str]:
    """Those of the agent, as text."""
    experiment = configuration.build(Experiment, files, [*OWN, *bindings])
    if data is not None:
        measured.measure(data)
    agent = experiment.build_agent(Problem(Dimensions(2, 1)), 0)
    return {name: repr(value) for name, value in describe(agent.settings).items()}


@pytest.mark.parametrize("gains", [ONE, np.linspace(-1.0, 1.0, 40)])
def test_one_policy_and_one_that_changes_have_one_multiplier_and_slow_down_at_the_end(gains):
    slower = "(1.0, 1.0, 1.0, 0.3, 0.1, 0.03, 0.01)"
    expected = settings_of(
        ["brac_plus/base.gin", "brac_plus/short_protocol.gin"],
        [
            "BRACPlus.multiplier = @GlobalMultiplier()",
            "GlobalMultiplier.initial = 1.0",
            "Improvement.epochs = 28",
            f"Improvement.policy_decay = {slower}",
            f"Improvement.critic_decay = {slower}",
        ],
    )
    assert settings_of(STEADY, data=made(gains)) == expected


def test_separate_skills_have_settings_of_their_own(caplog):
    found = settings_of(STEADY, data=made(TWO))
    assert "the data are of separate skills" in caplog.text
    for name, values in {
        "critic": ["gamma=0.997"],
        "threshold": ["margin=2.0"],
        "multiplier": ["StateMultiplier(", "floor=3.0"],
        "entropy": ["target=2.0"],
        "behavior_fit": ["steps=150000", "most_passes=60.0"],
        "initial_policy_fit": ["steps=120000"],
        "initial_critic_fit": ["steps=60000", "learning_rate=0.001"],
        "improvement": [
            "epochs=30",
            "policy_learning_rate=3e-05",
            "policy_decay=(1.0, 1.0, 1.0, 0.3, 0.1)",
            "critic_decay=(1.0,)",
        ],
    }.items():
        assert all(value in found[name] for value in values), found[name]


@pytest.mark.parametrize(
    ("data", "bindings", "expected"),
    [
        (ONE, (), "max_q"),
        (TWO, (), "mean"),
        (TWO, ("action/by_skills.separate = 'sample'",), "sample"),
        (TWO, ("Experiment.action = 'max_q'",), "max_q"),
    ],
)
def test_the_way_to_act_depends_on_the_data_too(tmp_path, data, bindings, expected):
    """It is asked for after they are measured, and a run's configuration names it again without measuring."""
    experiment = configuration.build(Experiment, STEADY, [*OWN, *bindings])
    measured.measure(made(data))
    experiment.build_agent(Problem(Dimensions(2, 1)), 0)
    assert experiment.way_to_act == expected
    path = tmp_path / "operative_config.gin"
    path.write_text(gin.operative_config_str())
    configuration.parse([str(path)], [])
    assert Experiment().way_to_act == expected


def test_what_the_user_binds_wins():
    assert "gamma=0.9," in settings_of(STEADY, ["Critic.gamma = 0.9"], made(TWO))["critic"]
    assert "gamma=0.98," in settings_of(STEADY, ["gamma/by_skills.separate = 0.98"], made(TWO))["critic"]
    forced = settings_of(STEADY, ["by_skills.separate_skills = False"], made(TWO))
    assert forced == settings_of(STEADY, data=made(ONE))


def test_one_answer_of_the_users_leaves_the_others_to_the_data():
    found = settings_of(STEADY, ["gamma/by_skills.separate_skills = False"], made(TWO))
    assert "gamma=0.995," in found["critic"] and "margin=2.0" in found["threshold"]


def test_nothing_is_measured_that_nobody_asks_for(monkeypatch):
    monkeypatch.setattr(measured, "behavior_of", lambda data: pytest.fail("measured"))
    settings_of(["brac_plus/base.gin", "brac_plus/short_protocol.gin"], data=made(TWO))
    settings_of(STEADY, ["by_skills.separate_skills = True"], made(TWO))


def test_too_few_episodes_to_tell_are_one_policy():
    found = settings_of(STEADY, data=made([1.0, -2.0], episodes=2))
    assert "gamma=0.995," in found["critic"]


def test_without_a_measurement_there_is_no_agent():
    with pytest.raises(UserError, match=r"these settings do not fit it \(Required bindings for `by_skills`"):
        settings_of(STEADY)


def test_the_operative_configuration_builds_the_same_agent_again(tmp_path, monkeypatch):
    """It holds what was measured: nothing is measured again, whatever the data would tell now."""
    before = settings_of(STEADY, data=made(TWO))
    monkeypatch.setattr(measured, "behavior_of", lambda data: pytest.fail("measured"))
    path = tmp_path / "operative_config.gin"
    path.write_text(gin.operative_config_str())
    configuration.parse([str(path)], [])
    measured.measure(made(ONE))
    agent = Experiment().build_agent(Problem(Dimensions(2, 1)), 0)
    assert {name: repr(value) for name, value in describe(agent.settings).items()} == before


def test_a_run_is_known_by_what_was_given(tmp_path):
    """Not by what was measured, which nobody knows who only looks for its record."""
    path = tiny.write_hopper_dataset(tmp_path / "mine.hdf5")
    bindings = [
        f"Experiment.dataset = {str(path)!r}",
        "Experiment.environment = 'none'",
        "Experiment.smoke = True",
        "behavior/Actor.hidden_sizes = @sizes/by_skills()",
        "sizes/by_skills.one = (8,)",
        "sizes/by_skills.separate = (9,)",
    ]
    run = run_experiment(configuration.build(Experiment, ["bc/base.gin"], bindings), tmp_path / "runs", 0)
    configuration.parse(["bc/base.gin"], bindings)
    assert json.loads((run / "run.json").read_text())["configuration"] == configuration.fingerprint()
    assert "by_skills.separate_skills = " in (run / "operative_config.gin").read_text()
