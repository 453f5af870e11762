"""When an imagined episode ends: by a known rule, by one that was learned, or never."""

import dataclasses
import logging

import numpy as np
import pytest
import tensorflow as tf
import tiny

from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.termination import (
    AnyTermination,
    KnownTermination,
    LearnedTermination,
    NoTermination,
    _Known,
    _Learned,
    _Never,
)
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.scaling import Scaling
from brac_plus_tf.environments.tasks import find_task
from brac_plus_tf.runs.compiled_stage import compile_stage

SEED, DIMENSIONS = base_seed(2), Dimensions(2, 1)
HOPPER = find_task("Hopper-v4")
ROBOT = dataclasses.replace(HOPPER, name="Robot-v0", healthy=None)  # of which nothing is known


def test_a_known_rule_is_asked_of_the_next_observation_in_the_environments_units():
    """Hopper lies below 0.7 or leans by 0.2 or more; observations are in units of 0.1 from 1 on."""
    scaling = Scaling(
        np.full(11, 1.0, np.float32), np.full(11, 0.1, np.float32), np.zeros(3, np.float32), np.ones(3, np.float32)
    )
    ends = KnownTermination().build(Problem(HOPPER.dimensions, scaling, HOPPER), 0)
    heights, angles = [0.71, 0.69, 1.2, 1.2], [0.0, 0.0, 0.19, 0.21]
    observation = np.zeros((4, 11))
    observation[:, 0], observation[:, 1] = heights, angles
    following = tf.constant((observation - 1.0) / 0.1, tf.float32)
    safe, fallen = following[:1], following[1:2]
    assert ends(tf.repeat(safe, 4, axis=0), tf.zeros([4, 3]), following).numpy().tolist() == [False, True, False, True]
    # where it was does not count, where it is does
    assert not ends(fallen, tf.zeros([1, 3]), safe).numpy()[0]


def test_where_no_rule_is_known_it_is_refused():
    with pytest.raises(UserError, match=r"Robot-v0 ends cannot be read off .* @LearnedTermination\(\)"):
        KnownTermination().build(Problem(ROBOT.dimensions, None, ROBOT), 0)
    with pytest.raises(UserError, match="the data's environment ends cannot be read off"):
        KnownTermination().build(Problem(DIMENSIONS), 0)


def test_never_says_so_where_the_data_know_better(caplog):
    problem = Problem(DIMENSIONS, terminals=1234)
    with caplog.at_level(logging.WARNING):
        ends = NoTermination().build(problem, 0)
    assert "1,234 transitions of the data end their episode" in caplog.text
    assert ends(tf.zeros([3, 2]), tf.zeros([3, 1]), tf.fill([3, 2], np.nan)).numpy().tolist() == [False] * 3
    caplog.clear()
    NoTermination().build(Problem(DIMENSIONS, terminals=0), 0)
    assert not caplog.records


def test_any_is_the_best_that_there_is():
    """The known rule whatever the data hold; a learned one where data hold terminals; else none."""
    found = [
        type(AnyTermination().build(problem, 0))
        for problem in (
            Problem(HOPPER.dimensions, None, HOPPER, terminals=0),
            Problem(ROBOT.dimensions, None, ROBOT, terminals=0),
            Problem(ROBOT.dimensions, None, ROBOT, terminals=100),
            Problem(DIMENSIONS, terminals=0),
        )
    ]
    assert found == [_Known, _Never, _Learned, _Never]


@pytest.mark.parametrize("rule", [LearnedTermination(), AnyTermination()])
def test_too_few_terminals_to_learn_from_are_refused(rule):
    with pytest.raises(UserError, match=r"99 transitions of the data end their episode, too few .* \(100\)"):
        rule.build(Problem(DIMENSIONS, terminals=99), 0)


# A learned rule -------------------------------------------------------------------------------------------------------


def falling(rows: int, seed: int = 0):
    """Episodes end exactly where the first entry of the next observation is above 0.8: in a tenth of the rows."""
    generator = np.random.default_rng(seed)
    data = tiny.make_dataset(rows, DIMENSIONS)
    observation, following = generator.uniform(-1.0, 1.0, (2, rows, 2))
    return tiny.with_columns(
        data, observation=observation, next_observation=following, discount=(following[:, 0] <= 0.8)
    )


def learned(data, **settings):
    terminals = int((data.transitions.discount == 0.0).sum())
    ends = LearnedTermination((32,), **settings).build(Problem(DIMENSIONS, terminals=terminals), 0)
    return ends, ends.stages()[0]


def test_it_finds_the_rule_and_says_how_well():
    data = falling(3000)
    ends, stage = learned(data, steps=1500, epoch_steps=1500, batch_size=64, learning_rate=1e-2)
    stage.prepare(data, 0, SEED)
    compile_stage(stage, data, SEED)(0, 1500)
    unseen = falling(2000, seed=1).transitions
    found = ends(*(tf.constant(column) for column in (unseen.observation, unseen.action, unseen.next_observation)))
    wrong = (found.numpy() != (unseen.discount == 0.0)) & (np.abs(unseen.next_observation[:, 0] - 0.8) > 0.05)
    assert wrong.mean() < 0.005
    metrics = stage.conclude(data, 1500, SEED).metrics
    assert metrics["recall"] > 0.9 and metrics["precision"] > 0.7


def test_inputs_are_scaled_by_the_data_wherever_they_lie():
    """The same states far from 0, and in other units, are answered alike; what scales them is kept with the weights."""
    data = falling(2000)
    columns = data.transitions
    far = {name: getattr(columns, name) * 50.0 + 1000.0 for name in ("observation", "action", "next_observation")}
    answers = []
    for one in (data, tiny.with_columns(data, **far)):
        ends, stage = learned(one)
        stage.prepare(one, 0, SEED)
        inputs = (one.transitions.observation, one.transitions.action, one.transitions.next_observation)
        answers.append(ends._logit(*(tf.constant(column, tf.float32) for column in inputs)).numpy())
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-3)
    shift, scale = (variable.numpy() for variable in ends.components()["termination"] if variable.shape == [5])
    assert shift[0] == pytest.approx(1000.0, rel=0.1) and scale[0] == pytest.approx(50.0 / np.sqrt(3.0), rel=0.1)


def test_recall_and_precision_by_hand(monkeypatch):
    """It takes a next observation above 0.6 for an end: all are found, and others beside them."""
    data = falling(3000)
    ends, stage = learned(data)
    monkeypatch.setattr(type(ends), "_logit", lambda self, observation, action, following: following[:, 0] - 0.6)
    *_, on, end = ends._parts(data)
    false = int((data.transitions.next_observation[on, 0] > 0.6).sum())
    assert false > 20
    metrics = stage.conclude(data, 0, SEED).metrics
    assert metrics == {"recall": 1.0, "precision": len(end) / (len(end) + false)}
    monkeypatch.setattr(type(ends), "_logit", lambda self, observation, action, following: following[:, 0] - 2.0)
    assert stage.conclude(data, 0, SEED).metrics == {"recall": 0.0, "precision": 0.0}


def test_half_of_a_batch_are_ends_and_nothing_held_out_or_unknown_is_drawn():
    data = falling(2000)
    known = np.random.default_rng(3).uniform(size=2000) < 0.5
    number = np.arange(2000)[:, None]
    data = tiny.with_columns(dataclasses.replace(data, places=data.places._replace(known=known)), action=number)
    ends, stage = learned(data, batch_size=40)
    on, end, held_on, held_end = ends._parts(data)
    drawn = [stage.draw(data, tf.constant([step, 0])) for step in range(250)]
    going, ending = ({int(row) for batch in drawn for row in np.ravel(batch.action[half])} for half in (0, 1))
    assert drawn[0].discount.shape == (2, 20)
    assert all((batch.discount[0].numpy() == 1.0).all() and (batch.discount[1].numpy() == 0.0).all() for batch in drawn)
    assert going <= set(on) and len(going) > 0.97 * len(on) and ending == set(end)
    everything = set(on) | set(end) | set(held_on) | set(held_end)
    assert everything == set(np.flatnonzero(known)) and len(held_on) == round(0.1 * (len(on) + len(held_on)))
    assert len(everything) == len(on) + len(end) + len(held_on) + len(held_end)


def test_ends_whose_next_observation_was_not_recorded_teach_nothing():
    data = falling(2000)
    known = data.transitions.discount == 1.0
    data = dataclasses.replace(data, places=data.places._replace(known=known))
    with pytest.raises(UserError, match="do not store the next observations of transitions that end"):
        learned(data)[1].draw(data, SEED)


def test_the_loss_is_the_cross_entropy():
    data = falling(2000)
    ends, stage = learned(data, batch_size=40)
    batch = stage.draw(data, SEED)
    logit = ends._logit(*(batch[index] for index in (0, 1, 4))).numpy().astype(np.float64)
    probability = 1.0 / (1.0 + np.exp(-logit))
    expected = -0.5 * (np.log(1.0 - probability[0]).mean() + np.log(probability[1]).mean())
    assert float(stage.update(batch, SEED)["loss"]) == pytest.approx(expected, rel=1e-4)
