import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from brac_plus_tf.core.randomness import (
    Purpose,
    base_seed,
    fold,
    initializer_seed,
    philox,
    row_normal,
    standard_normal,
    uniform,
)


def listed(seed: tf.Tensor) -> tuple[int, ...]:
    return tuple(seed.numpy().tolist())


def test_run_seeds_are_two_int32_and_differ():
    assert base_seed(3).dtype == tf.int32
    assert len({listed(base_seed(seed)) for seed in range(50)}) == 50
    assert base_seed(2**40 + 7).shape == [2]  # beyond int32: accepted


def test_fold_is_a_function_of_seed_and_data_in_order():
    seed = base_seed(3)
    assert listed(fold(seed, 1, 2)) == listed(fold(fold(seed, 1), 2))
    assert listed(fold(seed, 1, 2)) != listed(fold(seed, 2, 1))
    assert listed(fold(seed, 5)) == listed(fold(seed, tf.constant(5, tf.int64)))
    assert listed(fold(seed)) == listed(seed)


def test_fold_is_the_same_eagerly_in_a_graph_and_compiled():
    seed, eager = base_seed(3), listed(fold(base_seed(3), 7, Purpose.LATENT))
    for compiled in (False, True):
        traced = tf.function(lambda step: fold(seed, step, Purpose.LATENT), jit_compile=compiled)
        assert listed(traced(tf.constant(7))) == eager


def test_no_two_of_runs_steps_and_purposes_share_a_seed():
    folded = [
        listed(fold(base_seed(run), step, purpose))
        for run, step, purpose in itertools.product(range(2), range(6), Purpose)
    ]
    assert len(set(folded)) == len(folded)


def test_streams_of_neighbouring_seeds_are_uncorrelated_normals():
    count = 4000
    streams = np.stack([standard_normal([count], fold(base_seed(0), step, Purpose.LATENT)) for step in range(6)])
    correlation = np.corrcoef(streams) - np.eye(6)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(count)  # sampling error of a zero correlation
    assert stats.kstest(streams.ravel(), "norm").pvalue > 1e-4


def test_normals_are_the_same_eagerly_in_a_graph_and_compiled():
    eager = standard_normal([3, 500], base_seed(3))
    for compiled in (False, True):
        traced = tf.function(lambda seed: standard_normal([3, 500], seed), jit_compile=compiled)
        np.testing.assert_allclose(traced(base_seed(3)), eager, rtol=1e-4, atol=1e-5)


def test_normals_have_the_tails_of_a_normal():
    count = 2_000_000
    normals = standard_normal([count], base_seed(1)).numpy().astype(np.float64)
    for edge in (1.0, 3.0, 4.5):
        expected = count * 2.0 * stats.norm.sf(edge)
        assert abs(np.sum(np.abs(normals) > edge) - expected) < 4.5 * np.sqrt(expected)  # Poisson error
    assert abs(normals.mean()) < 4.5 / np.sqrt(count)


def test_the_outermost_normals_are_finite_and_symmetric(monkeypatch):
    monkeypatch.setattr(tf.random, "stateless_uniform", lambda shape, seed, low, high, *_, **__: [low, high - 1])
    outermost = standard_normal([2], base_seed(0)).numpy()
    # each of 2^23 levels stands for a probability of 2^-23; the last one's middle leaves 2^-24 above it
    np.testing.assert_allclose(outermost, [-stats.norm.isf(2.0**-24), stats.norm.isf(2.0**-24)], rtol=1e-3)


def test_uniform_draws_fill_their_range_alike_eagerly_and_compiled():
    draws = [uniform([4, 5000], fold(base_seed(2), 1), -1.0, 3.0)]
    for compiled in (False, True):
        draws.append(
            tf.function(lambda seed: uniform([4, 5000], seed, -1.0, 3.0), jit_compile=compiled)(fold(base_seed(2), 1))
        )
    np.testing.assert_allclose(draws[1], draws[0], atol=1e-6)
    np.testing.assert_allclose(draws[2], draws[0], atol=1e-6)
    assert stats.kstest(draws[0].numpy().ravel(), stats.uniform(-1.0, 4.0).cdf).pvalue > 1e-4


def test_purposes_keep_their_numbers_because_they_are_part_of_a_run():
    numbered = "BATCH POLICY_ACTION TARGET_ACTION BEHAVIOR_MEMBER LATENT POLICY_SAMPLES BEHAVIOR_LATENT UPDATE EPOCH \
        EVALUATION MEASURED_STATES BEHAVIOR_BATCH BEHAVIOR_UPDATE INTERPOLATION UNIFORM_ACTION".split()
    assert [Purpose[name].value for name in numbered] == list(range(1, 16))


@pytest.mark.parametrize("other", [(4, "critic/0/1"), (3, "critic/1/0"), (3, "actor/0/1")])
def test_initializer_seeds_differ_by_run_and_name(other):
    seed = initializer_seed(3, "critic/0/1")
    assert seed == initializer_seed(3, "critic/0/1")
    assert seed != initializer_seed(*other)
    assert 0 <= seed < 2**31  # what Keras and NumPy accept


# Noise by rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_its_authors_known_answers(counter, key, expected):
    """The vectors that Random123, the library of the algorithm's authors, ships as kat_vectors."""
    words = philox([tf.constant([word], tf.uint32) for word in counter], tuple(key))
    assert [int(word[0]) for word in words] == [int(word, 16) for word in expected.split()]


ROW_SEEDS = tf.constant([[0, 0], [5, 0], [5, 1], [-1, -(2**31)], [2**31 - 1, 77], [123456789, -3]], tf.int32)


@pytest.mark.parametrize(("size", "compiled"), [(1, False), (3, False), (4, False), (5, False), (30, False), (5, True)])
def test_a_row_has_the_noise_that_tensorflow_makes_of_its_seed(size, compiled):
    rows = tf.function(lambda seed: row_normal(size, seed), jit_compile=compiled)(ROW_SEEDS)
    alone = [standard_normal([size], seed) for seed in tf.unstack(ROW_SEEDS)]
    assert rows.shape == [6, size]
    np.testing.assert_allclose(rows, alone, rtol=1e-5)  # equal bits, of which erfinv makes floats in groups or singly
    np.testing.assert_array_equal(row_normal(size, ROW_SEEDS[3]), standard_normal([1, size], ROW_SEEDS[3]))


def test_the_number_of_rows_may_be_unknown_while_tracing():
    traced = tf.function(lambda seed: row_normal(3, seed), input_signature=[tf.TensorSpec([None, 2], tf.int32)])
    for count in (1, 6):
        np.testing.assert_allclose(traced(ROW_SEEDS[:count]), row_normal(3, ROW_SEEDS)[:count], rtol=1e-5)
