"""What training draws from: samples, segments, and parts of a dataset. How data become one: test_loading.py."""

import json

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from dataset_files import columns, states_after, write_file
from hypothesis import given, settings
from hypothesis import strategies as st

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.data.dataset import OfflineDataset, continues, ends_episode, longest_stretch, segment_starts
from brac_plus_tf.data.episodes import Places
from brac_plus_tf.data.loading import dataset_from_arrays, load_dataset


def numbered(rows=7) -> OfflineDataset:
    """Transition i has observation (i, -i), unscaled reward i, and discount 1 but for the last."""
    return dataset_from_arrays(columns(rows), rewards=None)


def seed(number: int) -> tf.Tensor:
    return tf.constant([number, 17], tf.int32)


def test_a_sample_consists_of_whole_transitions():
    dataset = numbered()
    batch = dataset.sample((4, 50), seed(1))
    index = batch.reward.numpy().astype(int)
    assert batch.reward.shape == batch.discount.shape == (4, 50)
    assert batch.observation.shape == batch.next_observation.shape == (4, 50, 2) and batch.action.shape == (4, 50, 3)
    assert sorted(set(index.ravel())) == list(range(7))
    for drawn, held in zip(batch, dataset.transitions, strict=True):
        assert drawn.dtype == tf.float32
        np.testing.assert_array_equal(drawn, held[index])


def test_samples_are_uniform_with_replacement():
    counts = np.bincount(numbered().sample((70_000,), seed(2)).reward.numpy().astype(int), minlength=7)
    # 99.99 % quantile of chi-square with 6 degrees of freedom.
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 27.9


def test_samples_depend_on_the_seed_alone():
    dataset = numbered(rows=1000)
    again = numbered(rows=1000)
    first, second = dataset.sample((64,), seed(1)).reward.numpy(), dataset.sample((64,), seed(2)).reward.numpy()
    np.testing.assert_array_equal(first, again.sample((64,), seed(1)).reward)
    # Independent draws from 1000 agree in 64 / 1000 places on average.
    assert (first == second).sum() <= 3


def test_eager_and_compiled_loops_draw_the_same_batches():
    dataset = numbered(rows=100)

    def draw(steps):
        def body(step, drawn):
            return step + 1, drawn.write(step, dataset.sample((2, 8), tf.stack([step, 5])).reward)

        _, drawn = tf.while_loop(
            lambda step, _: step < steps, body, (0, tf.TensorArray(tf.float32, steps, element_shape=(2, 8)))
        )
        return drawn.stack()

    # Compiled first: the tensors are then made while the function is traced.
    compiled = tf.function(draw, jit_compile=True, autograph=False)(5)
    graph = tf.function(draw, autograph=False)(5)
    eager = [dataset.sample((2, 8), tf.constant([step, 5], tf.int32)).reward for step in range(5)]
    np.testing.assert_array_equal(compiled, np.stack(eager))
    np.testing.assert_array_equal(graph, np.stack(eager))
    assert dataset.tensors is dataset.tensors and isinstance(dataset.tensors.reward.numpy(), np.ndarray)


def test_tensors_do_not_follow_later_changes_of_the_arrays():
    dataset = numbered()
    before = dataset.tensors.reward.numpy().copy()
    dataset.transitions.reward[:] = -1
    np.testing.assert_array_equal(dataset.tensors.reward, before)


def test_a_seed_draws_the_same_rows_as_ever():
    """Runs of earlier versions go on with the same batches; written down once."""
    assert numbered(1000).sample((6,), seed(3)).reward.numpy().astype(int).tolist() == [649, 796, 653, 927, 286, 591]


# Segments -------------------------------------------------------------------------------------------------------------

# row        0  1  2  3  4  5  6  7  8  9
TERMINALS = [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
TIMEOUTS_ = [0, 0, 0, 0, 0, 0, 1, 0, 0, 0]  # 0-2 terminal, 3-6 timed out, 7-9 unfinished


def with_flags(terminals, timeouts, stored: bool) -> OfflineDataset:
    """Row i has reward i; stored: with next observations, so that the last row of each episode is a transition."""
    arrays = columns(len(terminals)) | {"terminals": np.array(terminals), "timeouts": np.array(timeouts)}
    if stored:
        arrays["next_observations"] = states_after(arrays)
    return dataset_from_arrays(arrays, rewards=None)


def walked_segments(terminals, timeouts, stored: bool, length: int) -> list[list[int]]:
    """All stretches of that length, row by row: an episode's rows that are transitions, then every window of them."""
    episodes, rows = [], []
    for row, (terminal, timeout) in enumerate(zip(terminals, timeouts, strict=True)):
        over = terminal or timeout or row == len(terminals) - 1
        if stored or terminal or not over:
            rows.append(row)
        if over:
            episodes.append(rows)
            rows = []
    return [rows[start : start + length] for rows in episodes for start in range(len(rows) - length + 1)]


def drawn(dataset: OfflineDataset, count: int, length: int, number: int = 1) -> np.ndarray:
    """Rows of segments, [count, length]."""
    return dataset.sample_segments(count, length, seed(number)).reward.numpy().astype(int)


def test_segments_by_hand():
    dataset = with_flags(TERMINALS, TIMEOUTS_, stored=False)
    # rows 6 and 9 have no successor and are no transitions
    np.testing.assert_array_equal(dataset.places.episode, [0, 0, 0, 1, 1, 1, 2, 2])
    np.testing.assert_array_equal(dataset.places.step, [0, 1, 2, 0, 1, 2, 0, 1])
    assert {tuple(rows) for rows in drawn(dataset, 200, 3).tolist()} == {(0, 1, 2), (3, 4, 5)}
    assert {tuple(rows) for rows in drawn(dataset, 200, 2).tolist()} == {(0, 1), (1, 2), (3, 4), (4, 5), (7, 8)}
    assert {tuple(rows) for rows in drawn(dataset, 200, 1).tolist()} == {(row,) for row in (0, 1, 2, 3, 4, 5, 7, 8)}


flags = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=30)


@given(flags, st.booleans(), st.integers(1, 6))
def test_any_interleaving_of_flags_gives_the_segments_of_a_walk(pairs, stored, length):
    terminals, timeouts = zip(*pairs, strict=True)
    try:
        dataset = with_flags(terminals, timeouts, stored)
    except UserError as error:
        assert "no row yields a transition" in str(error)
        return
    starts = segment_starts(dataset.places, length)
    rows = dataset.transitions.reward.astype(int)
    expected = walked_segments(terminals, timeouts, stored, length)
    assert [rows[start : start + length].tolist() for start in starts] == expected


def test_segments_are_whole_transitions_that_follow_one_another():
    dataset = with_flags(TERMINALS, TIMEOUTS_, stored=False)
    batch = dataset.sample_segments(50, 3, seed(4))
    assert [tuple(field.shape) for field in batch] == [(50, 3, 2), (50, 3, 3), (50, 3), (50, 3), (50, 3, 2), (50, 3, 3)]
    np.testing.assert_array_equal(batch.observation[:, 1:], batch.next_observation[:, :-1])
    np.testing.assert_array_equal(batch.action[:, 1:], batch.next_action[:, :-1])
    np.testing.assert_array_equal(batch.observation[..., 0], batch.reward)
    assert np.asarray(batch.discount)[:, :-1].min() == 1.0  # a terminal is a last step


def test_segments_are_uniform_over_all_starts():
    counts = np.bincount(drawn(with_flags(TERMINALS, TIMEOUTS_, stored=True), 20_000, 2, 7)[:, 0], minlength=10)
    # 3 - 1 starts in the first episode, 4 - 1 in the second, 3 - 1 in the third
    valid = [0, 1, 3, 4, 5, 7, 8]
    assert counts.sum() == counts[valid].sum() == 20_000
    assert scipy.stats.chisquare(counts[valid]).pvalue > 1e-3


def test_segments_never_cross_from_one_file_to_the_next(tmp_path):
    unfinished = {"terminals": np.zeros(4, bool)}
    paths = [write_file(tmp_path / f"{name}.hdf5", rows=4, **unfinished) for name in "ab"]
    dataset = load_dataset(paths, rewards=None)
    np.testing.assert_array_equal(dataset.places.episode, [0, 0, 0, 1, 1, 1])
    assert {tuple(rows) for rows in drawn(dataset, 100, 3).tolist()} == {(0, 1, 2)}
    assert segment_starts(dataset.places, 2).tolist() == [0, 1, 3, 4]


def test_no_episode_is_that_long():
    dataset = with_flags(TERMINALS, TIMEOUTS_, stored=True)
    assert drawn(dataset, 5, 4).tolist() == [[3, 4, 5, 6]] * 5
    for length in (5, 10, 11, 50):
        with pytest.raises(UserError, match=f"no episode has {length} consecutive transitions, the longest has 4"):
            dataset.sample_segments(5, length, seed(1))
    with pytest.raises(ValueError, match="segments of 0 steps"):
        dataset.sample_segments(5, 0, seed(1))


def test_segments_compiled_in_a_loop_are_those_drawn_eagerly():
    dataset = with_flags(TERMINALS * 9, TIMEOUTS_ * 9, stored=True)
    traces = []

    def draw(steps):
        traces.append(steps)

        def body(step, found):
            return step + 1, found.write(step, dataset.sample_segments(6, 3, tf.stack([step, 5])).reward)

        found = tf.TensorArray(tf.float32, steps, element_shape=(6, 3))
        return tf.while_loop(lambda step, _: step < steps, body, (0, found))[1].stack()

    _ = dataset.tensors  # as the training loop does, so that no variable appears while it is traced
    compiled = tf.function(draw, jit_compile=True, autograph=False)(5)
    assert len(traces) == 1
    eager = [dataset.sample_segments(6, 3, tf.constant([step, 5], tf.int32)).reward for step in range(5)]
    np.testing.assert_array_equal(compiled, np.stack(eager))
    assert len({array.numpy().tobytes() for array in eager}) == 5


# Parts ----------------------------------------------------------------------------------------------------------------


def rows_of(dataset: OfflineDataset) -> list[int]:
    return dataset.transitions.reward.astype(int).tolist()


def episode_of(row: int) -> int:
    """Of with_flags(TERMINALS * n, TIMEOUTS_ * n): 0-2, 3-6, 7-9 and the next block's first three rows as one, ..."""
    block, place = divmod(row, 10)
    return 2 * block + (0 if place < 3 else 1 if place < 7 else 2)


@pytest.mark.parametrize("way", [OfflineDataset.split_rows, OfflineDataset.split_episodes])
@pytest.mark.parametrize("stored", [False, True])
def test_parts_are_disjoint_and_complete(way, stored):
    dataset = with_flags(TERMINALS * 20, TIMEOUTS_ * 20, stored)
    first, second = way(dataset, 0.2, 3)
    assert sorted(rows_of(first) + rows_of(second)) == rows_of(dataset)
    assert rows_of(first) == sorted(rows_of(first)) and rows_of(second) == sorted(rows_of(second))
    for part in (first, second):
        for array, whole in zip(part.transitions, dataset.transitions, strict=True):
            np.testing.assert_array_equal(array, whole[np.isin(rows_of(dataset), rows_of(part))])
        assert part.scaling is dataset.scaling
    again, other = way(dataset, 0.2, 3)[1], way(dataset, 0.2, 4)[1]
    assert rows_of(second) == rows_of(again) != rows_of(other)


def test_rows_are_split_by_their_number():
    first, second = with_flags(TERMINALS * 20, TIMEOUTS_ * 20, stored=True).split_rows(0.2, 0)
    assert (first.number_of_transitions, second.number_of_transitions) == (160, 40)
    assert scipy.stats.ks_1samp(rows_of(second), scipy.stats.uniform(0, 200).cdf).pvalue > 1e-3


def test_an_episode_is_in_one_part_alone():
    dataset = with_flags(TERMINALS * 20, TIMEOUTS_ * 20, stored=True)
    first, second = dataset.split_episodes(0.25, 1)
    assert not {episode_of(row) for row in rows_of(first)} & {episode_of(row) for row in rows_of(second)}
    assert len({episode_of(row) for row in rows_of(second)}) == round(0.25 * 41) == len(second.episodes.returns)
    # rows as they are and returns of those rows: of each part's episodes, by a sum over what they hold
    for part in (first, second):
        numbers = sorted({episode_of(row) for row in rows_of(part)})
        returns = [sum(row for row in range(200) if episode_of(row) == number) for number in numbers]
        assert part.episodes.returns.tolist() == returns
        assert part.places.episode.max() + 1 == len(numbers)
    assert not second.episodes.complete.all() or not first.episodes.complete.all()  # the last one is unfinished


def test_segments_of_a_part_leave_out_what_is_in_the_other():
    dataset = with_flags([0] * 9 + [1], [0] * 10, stored=True)
    kept = np.array([1, 1, 1, 0, 1, 1, 0, 1, 1, 1], bool)
    part = dataset._part(kept, "by hand")
    np.testing.assert_array_equal(part.places.step, [0, 1, 2, 4, 5, 7, 8, 9])
    assert {tuple(rows) for rows in drawn(part, 200, 2).tolist()} == {(0, 1), (1, 2), (4, 5), (7, 8), (8, 9)}
    assert {tuple(rows) for rows in drawn(part, 200, 3).tolist()} == {(0, 1, 2), (7, 8, 9)}
    with pytest.raises(UserError, match="the longest has 3"):
        drawn(part, 5, 4)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, 0.01, float("nan")])
def test_shares_that_leave_a_part_empty(share):
    dataset = with_flags(TERMINALS, TIMEOUTS_, stored=True)
    for way in (dataset.split_rows, dataset.split_episodes):
        with pytest.raises(UserError, match="leaves a part empty"):
            way(share, 0)


def test_parts_of_parts_say_so():
    dataset = with_flags(TERMINALS * 20, TIMEOUTS_ * 20, stored=True)
    part = dataset.split_episodes(0.5, 1)[1].split_rows(0.1, 2)[0]
    assert part.facts()["part"] == "0.5 of the episodes, seed 1; all but 0.1 of the transitions, seed 2"
    assert "part" not in dataset.facts()
    assert json.loads(json.dumps(part.facts()))["rows"] == [200]


# What a dataset says of itself ----------------------------------------------------------------------------------------


def test_short_representation():
    dataset = with_flags(TERMINALS * 200, TIMEOUTS_ * 200, stored=True)
    # rewards 0 + .. + 1999 in 401 episodes: 1999000 / 401
    assert repr(dataset) == (
        "OfflineDataset(arrays: 2,000 transitions, 2 observation and 3 action entries, 401 episodes, "
        "mean return 4,985.0)"
    )
    assert "arrays (0.5 of the transitions, seed 0): 1,000" in repr(dataset.split_rows(0.5, 0)[1])


def test_the_digest_is_of_what_training_sees():
    arrays = columns(8)
    digest = dataset_from_arrays(arrays).transitions_sha256
    assert digest == dataset_from_arrays(arrays).transitions_sha256
    assert digest != dataset_from_arrays(arrays, rewards=None).transitions_sha256
    for key in ("observations", "actions", "rewards"):
        changed = {name: array.copy() for name, array in arrays.items()}
        changed[key][3] += 0.5
        assert digest != dataset_from_arrays(changed).transitions_sha256
    first, second = numbered(40).split_rows(0.5, 0)
    assert first.transitions_sha256 != second.transitions_sha256


@settings(max_examples=50)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 5))
def test_starts_of_any_places(gaps, length):
    """Steps advance by 1 or more, or a new episode begins (0): a segment is a run of ones."""
    episode = np.cumsum([gap == 0 for gap in gaps])
    step = np.array(gaps)
    for row in range(1, len(gaps)):
        step[row] = 0 if gaps[row] == 0 else step[row - 1] + gaps[row]
    expected = [row for row in range(len(gaps) - length + 1) if all(gap == 1 for gap in gaps[row + 1 : row + length])]
    assert segment_starts(Places(episode, step, np.ones(len(step), bool)), length).tolist() == expected


def test_what_ends_an_episode_and_what_goes_on():
    """Three episodes, of steps 0 and 1, of steps 4, 5 and 7, and of step 0 alone."""
    places = Places(np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 4, 5, 7, 0]), np.ones(6, bool))
    assert ends_episode(places).tolist() == [False, True, False, False, True, True]
    assert continues(places).tolist() == [False, True, False, True, False, False]
    assert longest_stretch(places) == 2
