"""An export behind a server: loaded as TensorFlow Serving loads it, by tag and signature, and asked by several threads.

No package of a server can be installed here; the C++ server goes through the same loader, with the same names.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from test_exports import HALF_RANGE, observations, saved, scaling
from tiny import TinyAgent

BATCHES = [1, 4096, 2, 7, 1000, 64, 1, 333, 4096, 31]


def mean_action(given: np.ndarray) -> np.ndarray:
    """TinyAgent's: tanh of the two first normalised entries."""
    own = scaling(3)
    return [0.5, -1.0] + np.tanh(
        ((given - own.observation_shift.astype(np.float64)) / own.observation_scale)[:, :2]
    ) * HALF_RANGE


@pytest.fixture
def server(tmp_path):
    """(signature, {input: array}) -> {output: array}, by a session as a server has one."""
    directory = saved(tmp_path, TinyAgent()).directory
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        signatures = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(directory)).signature_def

        def answer(name, given):
            signature = signatures[name]
            assert signature.method_name == "tensorflow/serving/predict" and set(signature.inputs) == set(given)
            fed = {signature.inputs[key].name: values for key, values in given.items()}
            return session.run({key: tensor.name for key, tensor in signature.outputs.items()}, fed)

        yield answer


def test_batches_of_all_sizes_from_several_threads_are_answered_each_by_its_own(server):
    given = [observations(3, size + 10)[10:] * (1.0 + 0.1 * index) for index, size in enumerate(BATCHES)]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda rows: server("serving_default", {"observation": rows}), given * 3))
    for rows, answer in zip(given * 3, answers, strict=True):
        assert set(answer) == {"action"} and answer["action"].shape == (len(rows), 2)
        np.testing.assert_allclose(answer["action"], mean_action(rows), atol=1e-6)


def test_noise_and_seed_may_come_with_the_request(server):
    """sample: half the mean and half the squashed noise; equal seeds, equal draws, in whatever batch."""
    rows, noise = observations(3, 50), np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    action = server("sample_with_noise", {"observation": rows, "noise": noise})["action"]
    mean = (mean_action(rows) - [0.5, -1.0]) / HALF_RANGE
    expected = [0.5, -1.0] + (0.5 * mean + 0.5 * np.tanh(noise)) * HALF_RANGE
    np.testing.assert_allclose(action, expected, atol=1e-6)
    seeds = np.arange(50, dtype=np.int32)
    drawn = server("sample", {"observation": rows, "seed": seeds})["action"]
    alone = server("sample", {"observation": rows[7:8], "seed": seeds[7:8]})["action"]
    np.testing.assert_array_equal(drawn[7:8], alone)
    assert np.abs(drawn - action).max() > 0.01


@pytest.mark.parametrize("broken", [np.zeros([4, 2], np.float32), np.full([4, 3], np.nan, np.float32)])
def test_a_wrong_request_is_an_error_and_the_next_one_is_answered(server, broken):
    with pytest.raises((tf.errors.OpError, ValueError)):  # the width is checked by Python, values by the graph
        server("serving_default", {"observation": broken})
    rows = observations(3, 4)
    np.testing.assert_allclose(server("serving_default", {"observation": rows})["action"], mean_action(rows), atol=1e-6)
