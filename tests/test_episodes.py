import dataclasses

import h5py
import numpy as np
import pytest
from dataset_files import shared_file
from hypothesis import given
from hypothesis import strategies as st

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.data.episodes import (
    RecordedEpisodes,
    breaks,
    check_lengths,
    cut_rows,
    record_episodes,
    to_transitions,
)
from brac_plus_tf.data.hdf5_reader import read_rows
from brac_plus_tf.data.rows import Rows


def make_rows(terminals, timeouts=None, stored=False) -> Rows:
    """Row i has observation [i], action [i, 10 i] and reward 2^i mod 97.

    stored: its next observation is [i + 1], at the end of an episode [i + 1000].
    """
    count = len(terminals)
    index = np.arange(count, dtype=np.float32)[:, None]
    rewards = np.array([2**i % 97 for i in range(count)], np.float32)
    timeouts = None if timeouts is None else np.array(timeouts, bool)
    ends = np.array(terminals, bool) | (np.zeros(count, bool) if timeouts is None else timeouts)
    ends[-1] = True
    following = index + np.where(ends, 1000, 1)[:, None].astype(np.float32) if stored else None
    actions = index * np.array([[1, 10]], np.float32)
    return Rows(index, actions, rewards, np.array(terminals, bool), timeouts, following, name="a.hdf5")


def listed(rows: Rows, horizon=None) -> list[tuple[int, float, int]]:
    """(row, discount, next observation) of every transition, having checked that action and reward belong to row."""
    observation, action, reward, discount, following, _ = to_transitions(rows, cut_rows(rows, horizon))[0]
    kept = observation[:, 0].astype(int)
    np.testing.assert_array_equal(action, np.stack([kept, 10 * kept], axis=1))
    np.testing.assert_array_equal(reward, [2 ** int(i) % 97 for i in kept])
    return [(int(i), float(d), int(f)) for i, d, f in zip(kept, discount, following[:, 0], strict=True)]


#  row         0  1  2  3  4  5  6  7  8
TERMINALS = [0, 0, 1, 0, 0, 1, 0, 0, 0]
TIMEOUTS_ = [0, 0, 0, 0, 1, 1, 0, 0, 0]  # row 4: timed out; row 5: an episode of one row, both flags; 6..8 unfinished


def test_transitions_without_stored_next_observations():
    assert listed(make_rows(TERMINALS, TIMEOUTS_)) == [
        (0, 1.0, 1),
        (1, 1.0, 2),
        (2, 0.0, 2),
        (3, 1.0, 4),
        (5, 0.0, 5),
        (6, 1.0, 7),
        (7, 1.0, 8),
    ]


def test_transitions_with_stored_next_observations():
    ends = [2, 4, 5, 8]
    expected = [(row, 0.0 if TERMINALS[row] else 1.0, row + (1000 if row in ends else 1)) for row in range(9)]
    assert listed(make_rows(TERMINALS, TIMEOUTS_, stored=True)) == expected


@pytest.mark.parametrize("stored", [False, True])
def test_next_action_is_the_following_rows_within_the_episode_and_the_own_at_its_end(stored):
    rows = make_rows(TERMINALS, TIMEOUTS_, stored)
    transitions, _ = to_transitions(rows, cut_rows(rows, None))
    #           row 0  1  2  3  4  5  6  7  8; rows 4 and 8 are transitions only if next observations are stored
    expected = [1, 2, 2, 4, 4, 5, 7, 8, 8] if stored else [1, 2, 2, 4, 5, 7, 8]
    np.testing.assert_array_equal(transitions.next_action, np.outer(expected, [1, 10]))


def test_last_row_that_is_terminal_yields_a_transition():
    assert listed(make_rows([0, 1], [0, 0])) == [(0, 1.0, 1), (1, 0.0, 1)]


def test_single_unfinished_row_yields_nothing():
    assert listed(make_rows([0], [0])) == []


def test_episode_statistics():
    rows = make_rows(TERMINALS, TIMEOUTS_)
    episodes = record_episodes(rows, cut_rows(rows, None))
    # Rewards 1 2 4 | 8 16 | 32 | 64 128-97=31 62.
    np.testing.assert_array_equal(episodes.returns, [7, 24, 32, 157])
    np.testing.assert_array_equal(episodes.lengths, [3, 2, 1, 3])
    np.testing.assert_array_equal(episodes.complete, [True, True, True, False])


def test_returns_are_summed_in_double_precision():
    rows = make_rows([0] * 3000, [0] * 2999 + [1])
    rows.rewards[:] = 1.0
    rows.rewards[0] = 16777216.0
    assert record_episodes(rows, cut_rows(rows, None)).returns[0] == 16777216.0 + 2999.0


def test_missing_timeouts_are_inferred_from_the_horizon():
    # Horizon 3. Rows 0-2: cut. 3-4: terminal. 5-7: terminal, exactly at the horizon. 8-10: cut. 11: unfinished.
    rows = make_rows([0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0])
    assert np.flatnonzero(cut_rows(rows, 3)).tolist() == [2, 10]
    assert record_episodes(rows, cut_rows(rows, 3)).lengths.tolist() == [3, 2, 3, 3, 1]
    assert [row for row, _, _ in listed(rows, 3)] == [0, 1, 3, 4, 5, 6, 7, 8, 9]


def test_missing_timeouts_and_unknown_horizon():
    with pytest.raises(UserError, match=r"a\.hdf5: key 'timeouts' is missing"):
        cut_rows(make_rows([0, 0, 1]), None)
    assert not cut_rows(make_rows([0, 0, 1], stored=True), None).any()


def recorded_walk(lengths: list[int], noise: float = 0.0) -> Rows:
    """Episodes of those lengths, none terminal, of two entries that move by about 1 a step; each begins elsewhere."""
    generator = np.random.default_rng(4)
    paths = [
        np.cumsum(generator.normal(size=(length + 1, 2)), axis=0) + generator.normal(scale=20, size=2)
        for length in lengths
    ]
    ends = np.cumsum(lengths) - 1
    timeouts = np.isin(np.arange(sum(lengths)), ends)
    observations = np.concatenate([path[:-1] for path in paths]).astype(np.float32)
    following = np.concatenate([path[1:] for path in paths])
    following = (following + noise * generator.normal(size=following.shape)).astype(np.float32)
    return Rows(
        observations,
        np.zeros((len(timeouts), 1), np.float32),
        np.arange(len(timeouts), dtype=np.float32),
        np.zeros(len(timeouts), bool),
        timeouts,
        following,
        name="a.hdf5",
    )


@pytest.mark.parametrize("shift", [-3, -1, 1, 3])
def test_timeouts_beside_their_rows_are_refused_where_next_observations_tell(shift):
    rows = recorded_walk([30, 40, 50])
    assert np.flatnonzero(cut_rows(rows, 100)).tolist() == [29, 69, 119]
    shifted = dataclasses.replace(rows, timeouts=np.roll(rows.timeouts, shift))
    with pytest.raises(UserError, match=r"a\.hdf5: key 'timeouts', row 29: 0, .* of row 30 \(2 such rows\)"):
        cut_rows(shifted, 100)


def test_timeouts_that_are_all_zero_join_no_episodes():
    rows = recorded_walk([5] * 100)
    none = dataclasses.replace(rows, timeouts=np.zeros_like(rows.timeouts))
    with pytest.raises(UserError, match=r"row 4: 0, .* of row 5 \(99 such rows\); set timeouts to 1"):
        cut_rows(none, None)
    # an episode that goes on from the state it was cut at is no false join: nothing tells it from one episode
    one = recorded_walk([20])
    assert not cut_rows(dataclasses.replace(one, timeouts=np.zeros(20, bool)), None).any()


def test_next_observations_rounded_otherwise_are_the_same_states():
    rows = recorded_walk([30, 40], noise=1e-4)
    assert np.flatnonzero(cut_rows(rows, None)).tolist() == [29, 69]
    halves = dataclasses.replace(rows, next_observations=rows.next_observations.astype(np.float16).astype(np.float32))
    assert np.flatnonzero(cut_rows(halves, None)).tolist() == [29, 69]
    with pytest.raises(UserError, match="such rows"):
        cut_rows(recorded_walk([30, 40], noise=0.3), None)


@pytest.mark.parametrize("block", [65_536, 2])
def test_what_counts_as_another_state_by_hand(monkeypatch, block):
    """A thousandth of the entry's deviation, here 10 and 0, and of the next row's value, here 0 and 1000."""
    monkeypatch.setattr("brac_plus_tf.data.episodes._BLOCK_ROWS", block)
    rows = make_rows([0] * 7)
    # of the rows that follow, four times 0: 0.01 may be missing there
    observations = np.array([[20.0, 1000], [0, 1000], [0, 1000], [0, 1000], [0, 1000], [-20, 1000], [0, 1000]])
    observations[:, 0] *= 10.0 / observations[:, 0].std()
    stated = np.append(observations[1:], observations[:1], axis=0)
    stated[:4, 0] += [0.005, 0.015, -0.005, -0.015]
    stated[4, 1] += 0.9
    stated[5, 1] -= 1.1
    observations, stated = observations.astype(np.float32), stated.astype(np.float32)
    rows = dataclasses.replace(rows, observations=observations, next_observations=stated)
    assert breaks(rows).tolist() == [False, True, False, True, False, True, False]


def test_what_is_known_of_next_observations():
    rows = make_rows(TERMINALS, TIMEOUTS_)
    places = to_transitions(rows, cut_rows(rows, None))[1]
    assert places.known.tolist() == [True, True, False, True, False, True, True]  # not after the terminals 2 and 5
    rows = make_rows(TERMINALS, TIMEOUTS_, stored=True)
    assert to_transitions(rows, cut_rows(rows, None))[1].known.all()


def test_a_terminal_is_never_a_cut():
    """Its next observation is elsewhere, too, and the horizon may be reached with it."""
    rows = make_rows(TERMINALS, stored=True)
    assert not cut_rows(rows, None).any()
    assert cut_rows(make_rows([0, 0, 1, 0, 0, 0]), 3).tolist() == [False] * 5 + [True]


@pytest.mark.parametrize("horizon", [None, 25])
def test_missing_timeouts_are_found_in_next_observations_before_the_horizon_is_asked(horizon, caplog):
    rows = dataclasses.replace(recorded_walk([30, 40, 50]), timeouts=None)
    assert np.flatnonzero(cut_rows(rows, horizon)).tolist() == [29, 69]  # the last row's end is the data's
    assert "has no 'timeouts'" in caplog.text and "(2 cuts)" in caplog.text


def test_episode_longer_than_the_horizon():
    episodes = RecordedEpisodes(np.zeros(3), np.array([3, 2, 5]), np.ones(3, bool))
    check_lengths("a.hdf5", episodes, 5)
    with pytest.raises(UserError, match=r"a\.hdf5: key 'timeouts', row 5: .* has 5 steps, more than the task's 4"):
        check_lengths("a.hdf5", episodes, 4)


def walk(terminals, timeouts, stored, horizon):
    """Row by row, as a recorder would: transitions and (rows, complete) of each episode."""
    transitions, episodes, steps = [], [], []
    for row, terminal in enumerate(terminals):
        steps.append(row)
        timed_out = (not stored and len(steps) == horizon) if timeouts is None else timeouts[row]
        last = row == len(terminals) - 1
        if stored:
            following = row + (1000 if terminal or timed_out or last else 1)
            transitions.append((row, 0.0 if terminal else 1.0, following))
        elif terminal:
            transitions.append((row, 0.0, row))
        elif not timed_out and not last:
            transitions.append((row, 1.0, row + 1))
        if terminal or timed_out or last:
            episodes.append((steps, bool(terminal or timed_out)))
            steps = []
    return transitions, episodes


flags = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@given(flags, st.booleans(), st.booleans(), st.integers(1, 6))
def test_any_interleaving_of_flags_equals_the_row_by_row_walk(pairs, has_timeouts, stored, horizon):
    terminals = [terminal for terminal, _ in pairs]
    timeouts = [timeout for _, timeout in pairs] if has_timeouts else None
    rows = make_rows(terminals, timeouts, stored)
    transitions, walked = walk(terminals, timeouts, stored, horizon)
    assert listed(rows, horizon) == transitions
    episodes = record_episodes(rows, cut_rows(rows, horizon))
    assert episodes.lengths.tolist() == [len(steps) for steps, _ in walked]
    assert episodes.complete.tolist() == [complete for _, complete in walked]
    assert episodes.returns.tolist() == [sum(2**i % 97 for i in steps) for steps, _ in walked]


@given(flags, st.booleans())
def test_no_next_observation_leaves_its_episode(pairs, stored):
    terminals, timeouts = zip(*pairs, strict=True)
    ends = [terminal or timeout for terminal, timeout in pairs]
    episode_of = np.concatenate(([0], np.cumsum(ends)[:-1]))
    transitions = listed(make_rows(terminals, timeouts, stored))
    assert [row for row, discount, _ in transitions if discount == 0] == np.flatnonzero(terminals).tolist()
    if not stored:
        assert all(episode_of[row] == episode_of[following] for row, _, following in transitions)


def qlearning_rows(terminals, timeouts, horizon=None) -> list[tuple[int, bool, int]]:
    """(row, done, row of the next observation) that d4rl 1.1's qlearning_dataset keeps by default."""
    kept, counter = [], 0
    for row in range(len(terminals) - 1):
        cut = counter == horizon - 1 if timeouts is None else timeouts[row]
        if cut:
            counter = 0
            continue
        kept.append((row, bool(terminals[row]), row + 1))
        counter = 1 if terminals[row] else counter + 1
    return kept


@given(flags)
def test_equals_qlearning_dataset_where_that_is_right(pairs):
    terminals, timeouts = zip(*pairs, strict=True)
    expected = [
        (row, 0.0 if done else 1.0, row if done else following)
        for row, done, following in qlearning_rows(terminals, timeouts)
    ]
    last = len(terminals) - 1
    only_ours = [row for row in range(last) if terminals[row] and timeouts[row]] + [last] * terminals[last]
    assert listed(make_rows(terminals, timeouts)) == sorted(expected + [(row, 0.0, row) for row in only_ours])


def test_differs_from_qlearning_dataset_without_timeouts_after_a_terminal():
    # Episodes: rows 0-1 (terminal), 2-4 (cut by horizon 3), 5.
    terminals = [0, 1, 0, 0, 0, 0]
    assert (4, False, 5) in qlearning_rows(terminals, None, horizon=3)
    assert [row for row, _, _ in qlearning_rows(terminals, None, horizon=3)] == [0, 1, 2, 4]
    assert listed(make_rows(terminals), 3) == [(0, 1.0, 1), (1, 0.0, 1), (2, 1.0, 3), (3, 1.0, 4)]


@pytest.mark.parametrize("name", ["hopper-expert", "door-human"])
def test_real_file_equals_qlearning_dataset(name):
    rows = dataclasses.replace(read_rows(shared_file(name)), next_observations=None)
    kept = qlearning_rows(rows.terminals, rows.timeouts)
    transitions, _ = to_transitions(rows, cut_rows(rows, None))
    source, done, following = (np.array(column) for column in zip(*kept, strict=True))
    np.testing.assert_array_equal(transitions.observation, rows.observations[source])
    np.testing.assert_array_equal(transitions.action, rows.actions[source])
    np.testing.assert_array_equal(transitions.reward, rows.rewards[source])
    np.testing.assert_array_equal(transitions.discount == 0, done)
    np.testing.assert_array_equal(transitions.next_observation[~done], rows.observations[following[~done]])


def test_real_file_stores_the_next_observations_that_its_rows_imply():
    path = shared_file("hopper-medium")
    with h5py.File(path, "r") as file:
        ended = file["terminals"][()] | file["timeouts"][()]
    rows = read_rows(path)
    implied, _ = to_transitions(dataclasses.replace(rows, next_observations=None), cut_rows(rows, None))
    stored, _ = to_transitions(rows, cut_rows(rows, None))
    assert len(stored.reward) == 200_000 and len(implied.reward) == 200_000 - 32
    going_on = implied.discount == 1
    np.testing.assert_array_equal(implied.next_observation[going_on], stored.next_observation[~ended])
