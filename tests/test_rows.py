"""Recorded rows: their parts, their union, and what they refuse to be made of."""

import dataclasses

import numpy as np
import pytest
from dataset_files import columns

from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.rows import COLUMNS, Rows, cut_off, empty_rows, join_rows, rows_from_arrays


def make_rows(count: int = 5, following: dict[int, float] | None = None) -> Rows:
    """`columns(count)`; following: row -> what each entry of the next action is."""
    actions = {row: np.full(3, value, np.float32) for row, value in (following or {}).items()}
    return Rows.from_columns(columns(count), "a", actions)


def test_columns_are_the_keys_of_a_file():
    assert list(COLUMNS) == ["observations", "actions", "rewards", "terminals", "timeouts", "next_observations"]
    assert list(empty_rows(Dimensions(2, 3), 4).columns()) == list(COLUMNS)
    assert list(make_rows().columns()) == list(COLUMNS)[:5]  # without those that are not known
    assert len(make_rows()) == 5 and make_rows().dimensions == Dimensions(2, 3)


def test_a_part_keeps_what_belongs_to_its_rows():
    part = make_rows(6, {1: 0.1, 3: 0.3, 5: 0.5}).part(2, 5)
    assert part.rewards.tolist() == [2, 3, 4] and part.name == "a" and part.next_observations is None
    assert {row: action[0] for row, action in part.following_actions.items()} == {1: np.float32(0.3)}
    assert len(make_rows().part(2, 2)) == 0


def test_a_union_is_its_parts_one_after_the_other():
    parts = [make_rows(3, {2: 0.2}), make_rows(2), make_rows(4, {0: 0.5, 3: 0.7})]
    whole = join_rows(parts, "b")
    assert whole.rewards.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3] and whole.name == "b"
    found = {row: float(action[0]) for row, action in whole.following_actions.items()}
    assert found == {2: pytest.approx(0.2), 5: pytest.approx(0.5), 8: pytest.approx(0.7)}


@pytest.mark.parametrize(
    "changes",
    [
        {"observations": np.zeros((5, 2))},
        {"rewards": np.zeros((5, 1), np.float32)},
        {"rewards": np.zeros(4, np.float32)},
        {"terminals": np.zeros(5, np.float32)},
        {"timeouts": np.zeros(6, bool)},
        {"next_observations": np.zeros((5, 3), np.float32)},
        {"actions": np.zeros((4, 3), np.float32)},
    ],
)
def test_arrays_that_nobody_has_checked_are_no_rows(changes):
    with pytest.raises(ValueError, match="see rows_from_arrays"):
        dataclasses.replace(make_rows(), **changes)


@pytest.mark.parametrize("terminal", [False, True])
def test_rows_that_are_cut_off_time_out_unless_they_ended_the_task(terminal):
    rows = make_rows(4)
    rows.terminals[:], rows.timeouts[:] = [False, False, terminal, True], False
    first = cut_off(rows, 3)
    assert first.terminals.tolist() == [False, False, terminal]
    assert first.timeouts.tolist() == [False, False, not terminal]
    assert rows.timeouts.tolist() == [False] * 4


def test_rows_of_arrays_are_copies():
    arrays = columns()
    made = rows_from_arrays("a", arrays)
    for key, column in made.columns().items():
        assert not np.may_share_memory(column, arrays[key])
        np.testing.assert_array_equal(column, arrays[key])
