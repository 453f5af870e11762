import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from dataset_files import columns

from brac_plus_tf.agents.base import (
    Policy,
    Stage,
    candidate_noise,
    member_rows,
    mixture,
    named_variables,
    no_preparation,
    segments,
    stateless,
    uniform_rows,
)
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import standard_normal
from brac_plus_tf.core.settings import describe
from brac_plus_tf.data.loading import dataset_from_arrays


def test_names_are_component_and_position():
    first, second, third = (tf.Variable(float(index)) for index in range(3))
    named = named_variables({"actor": [first, second], "critic": [third], "empty": []})
    assert list(named) == ["actor/000", "actor/001", "critic/000"]
    assert [variable is expected for variable, expected in zip(named.values(), (first, second, third), strict=True)]
    assert named["critic/000"] is third


def test_no_variable_is_lost_to_an_equal_name():
    """Names of TensorFlow's own repeat; components whose names contain each other must not collide either."""
    variables = [tf.Variable(0.0, name="kernel") for _ in range(2100)]
    components = {"actor": variables[:1050], "actor/001": variables[1050:]}
    named = named_variables(components)
    assert len(named) == 2100
    assert {id(variable) for variable in named.values()} == {id(variable) for variable in variables}


def test_names_do_not_depend_on_other_components():
    """A cached stage holds some of the components only."""
    variables = [tf.Variable(0.0) for _ in range(3)]
    everything = named_variables({"actor": variables[:2], "critic": variables[2:]})
    assert named_variables({"critic": variables[2:]}).items() <= everything.items()


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    sizes: tuple[int, ...] = (3, 4)


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    target: float | None = None
    kernel: object = no_preparation


@dataclasses.dataclass(frozen=True)
class Twin:
    rate: float = 0.5
    sizes: tuple[int, ...] = (3, 4)


def test_description_by_hand():
    assert describe((Outer(), 7, "text")) == [
        {
            "Outer": {
                "inner": {"Inner": {"rate": 0.5, "sizes": [3, 4]}},
                "target": None,
                "kernel": "brac_plus_tf.agents.base.no_preparation",
            }
        },
        7,
        "text",
    ]


def test_a_description_survives_json():
    description = describe((Outer(),))
    assert json.loads(json.dumps(description)) == description


def other_kernel() -> None:
    """A function of another name."""


@pytest.mark.parametrize("other", [Outer(Inner(0.25)), Outer(target=0.0), Outer(kernel=other_kernel), Inner(), Twin()])
def test_different_settings_have_different_descriptions(other):
    assert describe(other) != describe(Outer())
    assert describe(Twin()) != describe(Inner())  # the class counts, not only its fields


def test_equal_settings_have_equal_descriptions():
    assert describe(Outer(Inner(rate=0.5))) == describe(Outer())


def test_a_stage_needs_steps_in_an_epoch():
    with pytest.raises(UserError, match="stage main: 0 steps per epoch"):
        Stage("main", 10, uniform_rows(4), lambda batch, seed: {}, epoch_steps=0)


def test_defaults_of_a_stage_and_a_policy():
    """A stage that says nothing may not be reused, is not evaluated and prepares nothing; a policy needs no seed."""
    stage = Stage("main", 10, uniform_rows(4), lambda batch, seed: {}, epoch_steps=1)
    assert (stage.writes, stage.settings, stage.evaluate) == ((), (), False)
    assert stage.prepare(None, 0, tf.zeros([2], tf.int32)) == ((), {}, False)
    assert stage.conclude is stage.prepare
    policy = Policy(lambda observation, state, noise: (observation, state))
    assert (policy.seeded, policy.noise, policy.noise_of(tf.zeros([2], tf.int32)).shape) == (False, 0, (1, 0))


def test_a_policy_that_draws_says_how_many_numbers():
    with pytest.raises(UserError, match="noise is 0; a way to act that is a draw"):
        Policy(lambda observation, state, noise: (observation, state), seeded=True)


def test_a_draw_is_the_answer_to_the_noise_of_its_seed():
    """[2]: one row of noise for all; [N, 2]: a row each, which is that of its seed alone."""
    policy = stateless(lambda observation, noise: observation + noise, noise=3, seeded=True)
    seeds, zeros = tf.constant([[4, 1], [9, 2]]), tf.zeros([2, 3])
    for index in range(2):
        shared, _ = policy.draw(zeros, (), seeds[index])
        np.testing.assert_array_equal(shared, np.repeat(standard_normal([1, 3], seeds[index]), 2, axis=0))
        np.testing.assert_array_equal(policy.draw(zeros, (), seeds)[0][index], shared[0])


def test_noise_of_candidates_is_dealt_out_row_by_row():
    noise = tf.reshape(tf.range(2 * 6, dtype=tf.float32), [2, 6])  # rows n, three candidates of two entries
    found = candidate_noise(noise, 3).numpy()
    assert found.shape == (3, 2, 2)
    np.testing.assert_array_equal(found[:, 0], [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(found[:, 1], [[6, 7], [8, 9], [10, 11]])


# Drawing batches --------------------------------------------------------------------------------------------------


class Numbers:
    """A source whose rows are numbers from `first` on; remembers what it was asked for."""

    def __init__(self, first: float = 0.0) -> None:
        self.first, self.asked = first, []

    def sample(self, shape, seed):
        self.asked.append((shape, tuple(seed.numpy())))
        return {"value": tf.reshape(self.first + tf.range(np.prod(shape), dtype=tf.float32), shape)}


SEED = tf.constant([3, 4], tf.int32)


def test_draws_ask_for_their_shapes_with_the_seed_they_are_given():
    data = Numbers()
    assert uniform_rows(5)(data, SEED)["value"].shape == [5]
    assert member_rows(2, 5)(data, SEED)["value"].shape == [2, 5]
    assert data.asked == [((5,), (3, 4)), ((2, 5), (3, 4))]


def test_segments_are_consecutive_steps_of_an_episode():
    arrays = columns(10) | {"terminals": np.arange(10) == 3}  # rows 0-3; 4-8, of which 9 is the unknown successor
    rows = segments(40, 3)(dataset_from_arrays(arrays, rewards=None), SEED).reward.numpy()
    np.testing.assert_array_equal(rows, rows[:, :1] + [0, 1, 2])
    assert set(rows[:, 0].astype(int).tolist()) == {0, 1, 4, 5, 6}


def test_a_mixture_is_both_parts_one_after_the_other_from_their_own_sources_and_seeds():
    data, other = Numbers(), Numbers(100.0)
    batch = mixture(uniform_rows(2), uniform_rows(3), other)(data, SEED)
    np.testing.assert_array_equal(batch["value"], [0.0, 1.0, 100.0, 101.0, 102.0])
    (shape, seed), (other_shape, other_seed) = *data.asked, *other.asked
    assert (shape, other_shape) == ((2,), (3,))
    assert len({seed, other_seed, (3, 4)}) == 3
