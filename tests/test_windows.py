"""What the steps before and after a transition say, on episodes small enough to see through."""

import dataclasses

import numpy as np
import tiny

from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.episodes import Places
from brac_plus_tf.data.windows import previous_actions, window_returns


def dataset():
    """Rows 0-3: an episode that a terminal ends. 4-6: one cut off after 3 steps. 7-8: steps 0 and 2 of one whose step 1
    is not among the data. 9-10: from step 5 on of one whose first steps are not, with a terminal.
    """
    data = tiny.make_dataset(11, Dimensions(1, 1))
    data = tiny.with_columns(
        data,
        reward=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024],
        discount=[1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0],
        action=np.arange(11)[:, None] / 100 + 0.01,
    )
    episode, step = [0] * 4 + [1] * 3 + [2] * 2 + [3] * 2, [0, 1, 2, 3, 0, 1, 2, 0, 2, 5, 6]
    places = Places(np.array(episode, np.int32), np.array(step, np.int32), np.ones(11, bool))
    return dataclasses.replace(data, places=places)


def test_windows_end_at_terminals_and_are_dropped_where_anything_else_cuts_them():
    for horizon, expected in (
        (1, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]),
        (2, [3, 6, 12, 8, 48, 96, None, None, None, 1536, 1024]),
        (3, [7, 14, 12, 8, 112, None, None, None, None, 1536, 1024]),
        (4, [15, 14, 12, 8, None, None, None, None, None, 1536, 1024]),
        (9, [15, 14, 12, 8, None, None, None, None, None, 1536, 1024]),
    ):
        returns, known = window_returns(dataset(), horizon)
        np.testing.assert_array_equal(known, [value is not None for value in expected])
        np.testing.assert_array_equal(returns[known], [value for value in expected if value is not None])


def test_the_action_before_is_0_at_a_beginning_and_unknown_after_a_gap():
    before, known = previous_actions(dataset())
    np.testing.assert_array_equal(known, [True] * 8 + [False, False, True])
    np.testing.assert_allclose(before[known, 0], [0, 0.01, 0.02, 0.03, 0, 0.05, 0.06, 0, 0.10], atol=1e-7)
